"""A proxy in front of a store that fails on purpose: 503, silence, bodies cut short, other objects.

It forwards each request as it came, on a connection of its own, unless a fault is due.
"""

import http.client
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade")


class Server(ThreadingHTTPServer):
    """One that does not print who hung up."""

    daemon_threads = True

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Asked(NamedTuple):
    """A request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    """What is sent for it: of the body at most `cut_at` bytes, whatever its length is said to be.

    Then the connection ends, unless it is silent until the test is over.
    """

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    cut_at: int | None = None
    then_silent: bool = False


Forward = Callable[[Asked], Answer]
Does = Callable[[Asked, Forward], Answer | None]


@dataclass
class Fault:
    """What happens to some requests; `does` gives the answer, or None to say nothing any more.

    Attributes:
        method, path: Which they are: any path with this in it.
        skip: So many of them pass first.
        times: So many fail then.
    """

    does: Does
    method: str
    path: str = ""
    skip: int = 0
    times: int = 10**9
    hits: int = field(default=0, init=False)

    def is_due(self, asked: Asked) -> bool:
        if asked.method != self.method or self.path not in asked.path:
            return False
        self.hits += 1
        return self.skip < self.hits <= self.skip + self.times


def refuses(status: int) -> Does:
    """Answers with a status and no body."""
    return lambda asked, forward: Answer(status, [("Content-Length", "0")], b"")


def cuts(size: int) -> Does:
    """Ends the connection after so many bytes of the body."""
    return lambda asked, forward: forward(asked)._replace(cut_at=size)


def hangs_up(asked: Asked, forward: Forward) -> Answer | None:
    """Ends the connection without an answer."""
    return None


def does_first(action: Callable[[], object]) -> Does:
    """Does something, and then lets the request pass."""

    def answer(asked: Asked, forward: Forward) -> Answer:
        action()
        return forward(asked)

    return answer


class FaultProxy:
    """Listens on a port of its own; within its block.

    Attributes:
        faults: The first one that is due decides.
        asked: All requests so far.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _handle(self) -> None:
                proxy._answer(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle

            def log_message(self, *arguments: object) -> None:
                """Says nothing."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FaultProxy":
        serve = self._server.serve_forever
        threading.Thread(target=serve, args=[0.01], daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._server.shutdown()
        self._server.server_close()

    def fails(self, does: Does, method: str, path: str = "", **when: int) -> Fault:
        """Add a fault, and return it."""
        self.faults.append(Fault(does, method, path, **when))
        return self.faults[-1]

    def is_silent(self, asked: Asked, forward: Forward) -> Answer | None:
        """A fault: keeps the connection open and says nothing, until the test is over."""
        self._is_over.wait()
        return None

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = Asked(handler.command, handler.path, dict(handler.headers), _body_of(handler))
        with self._lock:
            self.asked.append(asked)
            due = next((fault for fault in self.faults if fault.is_due(asked)), None)
        answer = self._forward(asked) if due is None else due.does(asked, self._forward)
        if answer is None:
            handler.close_connection = True
            return
        handler.send_response_only(answer.status)
        for name, value in answer.headers:
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(answer.body[: answer.cut_at])
        if answer.then_silent:
            self._is_over.wait()
        if answer.cut_at is not None:
            handler.close_connection = True

    def _forward(self, asked: Asked) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        headers = {k: v for k, v in asked.headers.items() if k.lower() not in HOP_BY_HOP}
        headers.pop("Expect", None)
        headers["Content-Length"] = str(len(asked.body))
        connection.request(asked.method, asked.path, asked.body, headers)
        answer = connection.getresponse()
        body = answer.read()
        kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in HOP_BY_HOP]
        if not any(name.lower() == "content-length" for name, _ in kept):
            kept.append(("Content-Length", str(len(body))))
        connection.close()
        return Answer(answer.status, kept, body)


def _body_of(handler: BaseHTTPRequestHandler) -> bytes:
    """The body of a request, whole or in chunks."""
    if "chunked" not in handler.headers.get("Transfer-Encoding", ""):
        return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    parts = []
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        parts.append(handler.rfile.read(size))
        handler.rfile.readline()
    while handler.rfile.readline().strip():
        pass
    return b"".join(parts)
