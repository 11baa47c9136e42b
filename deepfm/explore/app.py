"""The page, and the few addresses that it asks; the answers are those of `Explorer`."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from deepfm.errors import DataError, DeepFMError, shown
from deepfm.explore.explorer import LONGEST_LIST, Explorer
from deepfm.explore.guards import Guards
from deepfm.explore.lists import Person

PAGE = Path(__file__).parent / "page"
FILES = ("index.html", "explore.css", "explore.js", "icon.svg")
LONGEST_HISTORY = 1000
Answer = Callable[[Mapping[str, Any]], Any]


def app_of(explorer: Explorer) -> Starlette:
    """The application that serves one explorer."""

    def people(asked: Mapping[str, Any]) -> Any:
        return explorer.ranked(_person(asked), _whole(asked, "top", 20, LONGEST_LIST))

    def explanation(asked: Mapping[str, Any]) -> Any:
        target = _whole(asked, "target", 0, 10**6)
        if "item" in asked:
            item = _text(asked["item"], "item")
            return explorer.explained_item(_person(asked), item, target)
        return explorer.explained_row(_texts(asked, "typed"), target)

    def likely(asked: Mapping[str, Any]) -> Any:
        text = _text(asked.get("text", ""), "text")
        if explorer.lists is None:
            raise DataError("the checkpoint ranks no items")
        users = asked.get("of") == "users"
        return explorer.lists.users_like(text) if users else explorer.lists.items_like(text)

    answers: dict[str, Answer] = {
        "about": lambda asked: explorer.about(),
        "rank": people,
        "score": lambda asked: explorer.scored(_texts(asked, "typed")),
        "explain": explanation,
        "suggest": likely,
    }
    routes = [Route("/", _file(PAGE / "index.html"))]
    routes += [Route(f"/{name}", _file(PAGE / name)) for name in FILES]
    routes += [
        Route(f"/api/{name}", _asked(answer), methods=["POST"]) for name, answer in answers.items()
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guards)])


def _file(path: Path) -> Callable[[Request], Response]:
    return lambda request: FileResponse(path)


def _asked(answer: Answer) -> Callable[[Request], Any]:
    """What answers a request with a JSON object; a mistake in it is one line with status 422."""

    async def answered(request: Request) -> Response:
        try:
            asked = json.loads(await request.body())
        except (ValueError, RecursionError):
            return JSONResponse({"error": "expected JSON"}, 400)
        if not isinstance(asked, dict):
            return JSONResponse({"error": f"expected an object, found {shown(asked)}"}, 422)
        try:
            return JSONResponse(await run_in_threadpool(answer, asked))
        except DeepFMError as error:
            return JSONResponse({"error": " ".join(str(error).split())}, 422)

    return answered


def _person(asked: Mapping[str, Any]) -> Person:
    history = asked.get("history")
    if history is not None:
        if not isinstance(history, list) or len(history) > LONGEST_HISTORY:
            raise DataError(f"history: expected a list of at most {LONGEST_HISTORY:,} items")
        history = [_text(item, "history") for item in history]
    return Person(_text(asked.get("user", ""), "user").strip(), _texts(asked, "typed"), history)


def _texts(asked: Mapping[str, Any], key: str) -> dict[str, str]:
    found = asked.get(key, {})
    if not isinstance(found, dict):
        raise DataError(f"{key}: expected an object, found {shown(found)}")
    return {name: _text(value, name) for name, value in found.items()}


def _text(value: object, key: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{key}: expected a text, found {shown(value)}")
    if any("\ud800" <= letter <= "\udfff" for letter in value):  # half a letter, in no encoding
        raise DataError(f"{key}: expected Unicode text, found {shown(value)}")
    return value


def _whole(asked: Mapping[str, Any], key: str, default: int, largest: int) -> int:
    found = asked.get(key, default)
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found <= largest:
        raise DataError(f"{key}: expected a whole number up to {largest:,}, found {shown(found)}")
    return found
