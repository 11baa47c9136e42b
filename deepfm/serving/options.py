"""What a server is told when it starts, in a form that goes from the parent to its workers."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Limits and addresses of a server.

    Attributes:
        host, port: Where it listens; port 0 lets the system choose one.
        workers: Processes, each with the model.
        token: What requests must bring as `Authorization: Bearer …`; empty: nothing.
        queue: Requests that may wait in a worker; one more is answered with 503.
        deadline: Seconds after which a request is answered with 504.
        max_body: Bytes of a body; a larger one is answered with 413.
        max_rows: Rows of a request; more are answered with 413.
        drain: Seconds in which a stopping worker ends what it has begun.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    token: str = ""
    queue: int = 1000
    deadline: float = 5.0
    max_body: int = 8 * 2**20
    max_rows: int = 10_000
    drain: float = 10.0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ServeOptions":
        return cls(**json.loads(text))
