"""The server's answers: an ASGI application over one worker's queue.

Decided here: the few routes are dispatched by a dict and answered by hand, since a framework's
routing and validation cost a request of a row more than the model does. Whatever is answered, a
JSON line says when, what, how fast and by which version, and never what stood in the rows.
"""

import asyncio
import hmac
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson

import deepfm
from deepfm.engine import ScoredItem
from deepfm.errors import cut, shown
from deepfm.serving import metrics as shown_metrics
from deepfm.serving.batching import Answer, Batcher, Full
from deepfm.serving.metrics import Metrics
from deepfm.serving.options import ServeOptions
from deepfm.serving.page import openapi, page
from deepfm.serving.requests import ListRequest, Refused, Rows, list_request, rows_of

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

JSON, HTML = b"application/json", b"text/html; charset=utf-8"
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_LOG_PIECE = 4096  # bytes that a pipe takes at once, so that lines of workers do not mix


class Response(NamedTuple):
    """What is sent."""

    status: int
    body: bytes
    kind: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()
    rows: int = 0


class App:
    """An ASGI application.

    Args:
        batcher: Scores.
        options: Limits, and the token.
        metrics: Counts.
        folder: Where all workers count.
        log: Takes lines of JSON.

    Attributes:
        is_ready: Whether new requests are welcome.
    """

    def __init__(
        self,
        batcher: Batcher,
        options: ServeOptions,
        metrics: Metrics,
        folder: Path,
        log: Callable[[bytes], object] | None = None,
    ) -> None:
        self._batcher, self._options, self._metrics = batcher, options, metrics
        self._folder = folder
        self._log = Log(log or _to_stdout)
        self._token = f"Bearer {options.token}".encode() if options.token else b""
        self.is_ready = True
        self._routes: dict[str, dict[str, Callable[[Scope, Receive, float], Any]]] = {
            "/v1/predict": {"POST": self._predict},
            "/v1/recommend": {"POST": self._recommend},
            "/v1/model": {"GET": self._model},
            "/health/live": {"GET": self._live},
            "/health/ready": {"GET": self._ready},
            "/metrics": {"GET": self._show_metrics},
            "/openapi.json": {"GET": self._openapi},
            "/": {"GET": self._page},
            "/docs": {"GET": self._page},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        start = time.perf_counter()
        path = scope["path"]
        methods = self._routes.get(path)
        try:
            response = await self._answered(scope, receive, start, methods)
        except Refused as refused:
            response = self._error(refused)
        except Full:
            full = Refused(503, f"{self._options.queue:,} requests wait already; try again")
            response = self._error(full, (b"retry-after", b"1"))
        except TimeoutError:
            response = self._error(Refused(504, f"no answer in {self._options.deadline:g} s"))
        except Exception as error:
            response = self._error(Refused(500, "an error of the server; its log has it"))
            self._log.add({"event": "error", "path": cut(path), "error": cut(repr(error), 500)})
        version = self._batcher.model.version.encode()
        headers = [
            (b"content-type", response.kind),
            (b"content-length", str(len(response.body)).encode()),
            (b"x-model-version", version),
            *response.headers,
        ]
        with suppress(OSError):  # the client has left
            await send(
                {"type": "http.response.start", "status": response.status, "headers": headers}
            )
            await send({"type": "http.response.body", "body": response.body})
        seconds = time.perf_counter() - start
        self._metrics.request(path if methods else "other", response.status, seconds)
        self._log.add(
            {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "method": scope["method"],
                "path": cut(path, 200),
                "status": response.status,
                "ms": round(seconds * 1000, 3),
                "rows": response.rows,
                "version": version.decode(),
            }
        )

    async def _answered(
        self,
        scope: Scope,
        receive: Receive,
        start: float,
        methods: Mapping[str, Callable[[Scope, Receive, float], Any]] | None,
    ) -> Response:
        if self._token and not scope["path"].startswith("/health/"):
            given = _header(scope, b"authorization")
            if not hmac.compare_digest(given, self._token):
                raise Refused(401, "expected the server's token as Authorization: Bearer …")
        if methods is None:
            raise Refused(404, f"no such path; there are {', '.join(self._routes)}")
        if (handler := methods.get(scope["method"])) is None:
            allowed = ", ".join(methods)
            refused = Refused(405, f"expected {allowed}, found {cut(scope['method'])}")
            return self._error(refused, (b"allow", allowed.encode()))
        response: Response = await handler(scope, receive, start)
        return response

    def _error(self, refused: Refused, *headers: tuple[bytes, bytes]) -> Response:
        content = {"error": refused.content, "version": self._batcher.model.version}
        if refused.status == 401:
            headers = (*headers, (b"www-authenticate", b"Bearer"))
        if refused.status == 413:  # the rest of the body is not read
            headers = (*headers, (b"connection", b"close"))
        return Response(refused.status, orjson.dumps(content), JSON, headers)

    async def _predict(self, scope: Scope, receive: Receive, start: float) -> Response:
        body = _parsed(await self._body(scope, receive, start))
        rows = rows_of(body, self._batcher.model.columns, self._options.max_rows)
        answer = await self._scored(rows, start)
        content = {"predictions": answer.value, "rows": rows.size, "version": answer.version}
        return Response(200, orjson.dumps(content, option=_OPTIONS), rows=rows.size)

    async def _recommend(self, scope: Scope, receive: Receive, start: float) -> Response:
        asked = list_request(_parsed(await self._body(scope, receive, start)))
        answer = await self._scored(asked, start)
        items = [_listed(row) for row in answer.value]
        content = {"items": items, "version": answer.version}
        return Response(200, orjson.dumps(content, default=str, option=_OPTIONS), rows=len(items))

    async def _scored(self, asked: Rows | ListRequest, start: float) -> Answer:
        """The answer of the queue, before the deadline.

        Raises:
            TimeoutError: There is none.
        """
        future = self._batcher.submit(asked)
        loop = asyncio.get_running_loop()
        left = self._options.deadline - (time.perf_counter() - start)
        timer = loop.call_later(left, _expire, future)
        try:
            return await future
        finally:
            timer.cancel()

    async def _body(self, scope: Scope, receive: Receive, start: float) -> bytes:
        """The whole body, however it is cut.

        Raises:
            Refused: It is larger than allowed, or its client left.
            TimeoutError: It does not end in time.
        """
        most = self._options.max_body
        length = _header(scope, b"content-length")
        if length.isdigit() and int(length) > most:
            raise Refused(413, f"expected a body of at most {most:,} bytes, found {int(length):,}")
        message = await self._next(receive, start)
        if not message.get("more_body"):
            body: bytes = message.get("body", b"")
            if len(body) <= most:
                return body
        parts, size = [], 0
        while True:
            part = message.get("body", b"")
            parts.append(part)
            size += len(part)
            if size > most:
                raise Refused(413, f"expected a body of at most {most:,} bytes, found more")
            if not message.get("more_body"):
                return b"".join(parts)
            message = await self._next(receive, start)

    async def _next(self, receive: Receive, start: float) -> dict[str, Any]:
        left = self._options.deadline - (time.perf_counter() - start)
        async with asyncio.timeout(left):
            message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "the body does not end")
        return message

    async def _model(self, scope: Scope, receive: Receive, start: float) -> Response:
        served = self._batcher.model
        schema = served.engine.schema
        fields = [
            {
                "name": field.name,
                "type": field.feature_type.value,
                "group": field.group,
                "columns": list(field.raw_columns),
            }
            for field in schema.read_fields
        ]
        tasks = [
            {"name": task.name, "predictions": task.prediction_names()}
            for task in served.engine.tasks
        ]
        content = {
            "version": served.version,
            "engine": served.kind,
            "loaded": served.loaded,
            "deepfm": deepfm.__version__,
            "tasks": tasks,
            "fields": fields,
            "context": list(served.engine.context_columns()),
            "recommends": served.listed is not None,
            "example": served.example,
        }
        return Response(200, orjson.dumps(content, default=str, option=_OPTIONS))

    async def _live(self, scope: Scope, receive: Receive, start: float) -> Response:
        return Response(200, b'{"status":"live"}')

    async def _ready(self, scope: Scope, receive: Receive, start: float) -> Response:
        if not self.is_ready:
            raise Refused(503, "the server is stopping")
        content = {"status": "ready", "version": self._batcher.model.version}
        return Response(200, orjson.dumps(content))

    async def _show_metrics(self, scope: Scope, receive: Receive, start: float) -> Response:
        body, kind = shown_metrics.shown(self._folder, self._batcher.model.version)
        return Response(200, body, kind.encode())

    async def _openapi(self, scope: Scope, receive: Receive, start: float) -> Response:
        described = openapi(self._batcher.model, self._options)
        return Response(200, orjson.dumps(described, default=str, option=_OPTIONS))

    async def _page(self, scope: Scope, receive: Receive, start: float) -> Response:
        return Response(200, page(self._batcher.model, self._options).encode(), HTML)


class Log:
    """Lines of JSON, written together with those of the same moment."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._lines: list[bytes] = []

    def add(self, content: Mapping[str, object]) -> None:
        """Add a line."""
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._flush)
        self._lines.append(orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE))

    def _flush(self) -> None:
        piece = b""
        for line in self._lines:
            if len(piece) + len(line) > _LOG_PIECE:
                self._write(piece)
                piece = b""
            piece += line
        self._lines.clear()
        if piece:
            self._write(piece)


def _to_stdout(piece: bytes) -> None:
    with suppress(OSError, ValueError):  # nobody reads any more
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


def _expire(future: "asyncio.Future[Answer]") -> None:
    if not future.done():
        future.set_exception(TimeoutError())


def _header(scope: Scope, name: bytes) -> bytes:
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return b""


def _parsed(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"expected JSON: {error}; found {shown(body[:40])}") from None


def _listed(row: Any) -> dict[str, Any]:
    what = "score" if isinstance(row, ScoredItem) else "probability"
    item = {"item": row.item, what: row[2]}
    return item if row.title is None else item | {"title": row.title}
