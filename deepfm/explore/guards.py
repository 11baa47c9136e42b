"""What stands in front of every request: who may ask, how much, and what a page may load.

Decided here: the page is for this machine alone. Another site, opened in the same browser, can
reach a loopback address by a name of its own that resolves to it; its requests carry that name in
`Host`, or its own address in `Origin`, and are refused.
"""

from collections.abc import Mapping

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
LARGEST_BODY = 1 << 16
HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        b"img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


class _TooLarge(Exception):
    """A body of more than `LARGEST_BODY` bytes."""


class Guards:
    """Refuses requests of other sites, of other types and of any size; sets `HEADERS`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > LARGEST_BODY:
                raise _TooLarge
            return message

        names = [name for name, _ in scope["headers"]]
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}
        status, problem = _refused(scope["method"], headers, names.count(b"host"))
        if not status:
            try:
                await self._app(scope, counted, guarded)
                return
            except _TooLarge:
                status, problem = 413, f"a request has at most {LARGEST_BODY:,} bytes"
        await JSONResponse({"error": problem}, status)(scope, receive, guarded)


def _refused(method: str, headers: Mapping[str, str], hosts: int) -> tuple[int, str]:
    """Status and reason, or 0.

    Args:
        hosts: How many headers `Host` there are.
    """
    host, origin = headers.get("host", ""), headers.get("origin")
    if hosts != 1 or not is_loopback(host):
        return 403, f"this page answers at {', '.join(LOOPBACK)} only"
    if origin is not None and origin != f"http://{host}":
        return 403, "this page answers its own requests only"
    if method == "POST":
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return 415, "expected application/json"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > LARGEST_BODY:
            return 413, f"a request has at most {LARGEST_BODY:,} bytes"
    return 0, ""


def is_loopback(host: str) -> bool:
    """Whether a `Host` is this machine by one of its own names, with or without a port.

    Example:
        >>> is_loopback("127.0.0.1:8123"), is_loopback("[::1]"), is_loopback("localhost.evil.com")
        (True, True, False)
    """
    host = host.lower()
    for name in LOOPBACK:
        rest = host.removeprefix(name)
        if host.startswith(name) and (not rest or (rest[0] == ":" and rest[1:].isdecimal())):
            return True
    return False
