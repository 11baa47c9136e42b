"""The addresses of the page: who may ask, how much, and what a mistake is answered with."""

import asyncio
import json

import httpx
import pytest

from deepfm.explore.app import FILES, app_of
from deepfm.explore.draws import draws_of
from deepfm.explore.explorer import Explorer
from deepfm.explore.guards import LARGEST_BODY, is_loopback
from deepfm.several import load_several

HOST = "http://127.0.0.1:8377"


class Client:
    """Asks an application without a network, at the address of `HOST`."""

    def __init__(self, path) -> None:
        checkpoints = load_several(path)
        draws = draws_of(checkpoints[0])
        self._app = app_of(Explorer(checkpoints, draws, [{"user": "3", "color": "c1"}]))

    def _ask(self, *arguments, **options) -> httpx.Response:
        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url=HOST) as client:
                return await client.request(*arguments, **options)

        return asyncio.run(asked())

    def get(self, path, **options):
        return self._ask("GET", path, **options)

    def post(self, path, **options):
        return self._ask("POST", path, **options)


@pytest.fixture
def people(ranking, tiny_adapter):
    return Client(ranking)


@pytest.fixture
def rows(table):
    return Client(table)


def test_a_list_an_item_and_a_row_are_answered(people, rows):
    found = people.post("/api/rank", json={"user": "5", "typed": {"age": "12"}, "top": 3}).json()
    assert len(found["items"]) == 3
    asked = {"user": "5", "typed": {}, "item": found["items"][0]["item"], "target": 0}
    assert people.post("/api/explain", json=asked).json()["effects"]
    assert people.post("/api/suggest", json={"of": "users", "text": "1"}).json()[0] == "1"
    assert people.post("/api/suggest", json={"of": "items", "text": "item 4"}).json()
    typed = {"typed": {"user": "3", "color": "c1", "size": "1.5"}}
    assert set(rows.post("/api/score", json=typed).json()["predictions"]) == {"probability"}
    assert rows.post("/api/explain", json=typed).json()["num_pairs"] == 3
    assert rows.post("/api/about", json={}).json()["ranks"] is False


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"user": 5}, "user: expected a text, found 5"),
        ({"typed": ["age"]}, "typed: expected an object, found ['age']"),
        ({"typed": {"age": 3}}, "age: expected a text, found 3"),
        ({"top": "many"}, "top: expected a whole number up to 100, found 'many'"),
        ({"top": True}, "top: expected a whole number up to 100, found True"),
        ({"history": "7"}, "history: expected a list of at most 1,000 items"),
        ({"history": ["7"] * 1001}, "history: expected a list of at most 1,000 items"),
        ({"user": "5", "typed": {"agee": "3"}}, "no column 'agee'; did you mean 'age'?"),
        ({"user": "5\ud800"}, "user: expected Unicode text, found '5\\ud800'"),
        ([1], "expected an object, found [1]"),
    ],
)
def test_a_mistake_is_one_line(people, asked, problem):
    answer = people.post(
        "/api/rank", content=json.dumps(asked), headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()) == (422, {"error": problem})


def test_what_is_no_json_is_refused(people):
    headers = {"Content-Type": "application/json"}
    for body in (b"{", b"\xff", b"[" * 60_000):
        answer = people.post("/api/rank", content=body, headers=headers)
        assert (answer.status_code, answer.json()) == (400, {"error": "expected JSON"})


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost:80@evil.example", "0.0.0.0", ""]
)
def test_other_hosts_are_refused_everywhere(people, host):
    for answer in (
        people.get("/", headers={"Host": host}),
        people.post("/api/about", json={}, headers={"Host": host}),
    ):
        assert answer.status_code == 403
        assert "127.0.0.1" in answer.json()["error"]


def test_names_of_this_machine_are_its_own():
    for host in ("127.0.0.1", "127.0.0.1:8377", "LOCALHOST:1", "[::1]:8377"):
        assert is_loopback(host)
    for host in ("127.0.0.11", "127.0.0.1:", "127.0.0.1:80x", "[::1", "localhost.", "::1"):
        assert not is_loopback(host)


def test_requests_of_other_pages_are_refused(people):
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1:8377"):
        answer = people.post("/api/about", json={}, headers={"Origin": origin})
        assert answer.status_code == 403
    assert people.post("/api/about", json={}, headers={"Origin": HOST}).status_code == 200


def test_only_json_is_read_and_not_much_of_it(people):
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = people.post("/api/about", content=b"{}", headers={"Content-Type": kind})
        assert answer.status_code == 415
    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert people.post("/api/about", content=b"{}", headers=headers).status_code == 200
    large = b" " * (LARGEST_BODY + 1)
    assert people.post("/api/about", content=large, headers=headers).status_code == 413

    async def chunks():  # without a length in front
        for _ in range(LARGEST_BODY // 1000 + 1):
            yield b" " * 1000

    assert people.post("/api/about", content=chunks(), headers=headers).status_code == 413


def test_the_page_loads_nothing_from_elsewhere(people):
    for name in ("", *FILES):
        answer = people.get(f"/{name}")
        assert answer.status_code == 200
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        text = answer.text.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
        assert "http" not in text.replace("http-equiv", "")
        assert "innerHTML" not in text
    assert people.get("/../app.py").status_code == 404
    assert people.get("/api/about").status_code == 405
