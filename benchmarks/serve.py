"""What a request costs the server: CPU of all its processes, by requests of 1 and of 100 rows.

    python benchmarks/serve.py --checkpoint outputs/deepfm_movielens/best_model.pt

It starts `deepfm serve` on the loopback, with its log, metrics and deadlines as they are, and asks
over connections that stay open; every row is another one. Rows bring the ids of users and items,
and a time where the model reads a history; of a model without such tables, all columns, drawn from
`--rows-from`, a CSV or Parquet file. The client is a process of its own and is not counted.
With `--export D` an export is served in place of the checkpoint, and with `--peer litserve` by
LitServe in an environment of its own. `--memory` is explained in `serve_memory.py`.

A line of JSON per kind of request: requests and rows per second of the server's CPU, of one core,
and percentiles in milliseconds of an open loop at half the rate that the closed loop reached. The
model alone, and encoder with model, are the same rows in one process, in batches of as many rows.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from peers import environments
from predictor_calls import rows_of

from deepfm.prediction import Predictor
from deepfm.runtime import load

ROOT = Path(__file__).resolve().parents[1]
SEED = 0
_TICK = os.sysconf("SC_CLK_TCK")
CHECK = b"HTTP/1.1 200"


def cpu_seconds(process: int) -> float:
    """CPU of a process and of its children that live, in seconds."""
    found, waiting = 0.0, [process]
    while waiting:
        one = waiting.pop()
        with open(f"/proc/{one}/stat") as file:
            cells = file.read().rpartition(")")[2].split()
        found += (int(cells[11]) + int(cells[12])) / _TICK
        for task in os.listdir(f"/proc/{one}/task"):
            with open(f"/proc/{one}/task/{task}/children") as file:
                waiting += map(int, file.read().split())
    return found


class Client(asyncio.Protocol):
    """A connection that stays open, with one request at a time."""

    def __init__(self) -> None:
        self._read = b""
        self._waiting: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, end, body = self._read.partition(b"\r\n\r\n")
        if not end:
            return
        size = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
        if len(body) >= size:
            whole, self._read = self._read, b""
            assert self._waiting is not None
            self._waiting.set_result(whole)

    def connection_lost(self, error: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error or ConnectionError("closed"))

    async def ask(self, request: bytes) -> bytes:
        self._waiting = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._waiting


def request_of(rows: Sequence[dict[str, Any]], form: str) -> bytes:
    given = rows if form == "rows" else {name: [row.get(name) for row in rows] for name in rows[0]}
    body = orjson.dumps({form: given})
    head = (
        "POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def clients(port: int, count: int) -> list[Client]:
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(Client, "127.0.0.1", port) for _ in range(count)]
    return [client for _, client in made]


async def closed_loop(port: int, connections: int, requests: Sequence[bytes]) -> float:
    """Seconds in which connections that each wait for their answer ask all requests."""
    waiting: Iterator[bytes] = iter(requests)

    async def ask(client: Client) -> None:
        for request in waiting:
            answer = await client.ask(request)
            assert answer.startswith(CHECK), answer[:300]

    start = time.perf_counter()
    opened = await clients(port, connections)
    await asyncio.gather(*map(ask, opened))
    for client in opened:
        client.transport.close()
    return time.perf_counter() - start


async def open_loop(port: int, rate: float, requests: Sequence[bytes]) -> np.ndarray:
    """Seconds from when each request was due to its answer, at exponential intervals."""
    rng = np.random.default_rng(SEED)
    due = np.cumsum(rng.exponential(1 / rate, len(requests)))
    free = await clients(port, 256)
    taken: list[float] = []
    running: set[asyncio.Task[None]] = set()

    async def ask(request: bytes, at: float) -> None:
        while not free:
            await asyncio.sleep(0.0005)
        client = free.pop()
        await client.ask(request)
        free.append(client)
        taken.append(time.perf_counter() - start - at)

    start = time.perf_counter()
    for request, at in zip(requests, due.tolist(), strict=True):
        if (left := at - (time.perf_counter() - start)) > 0:
            await asyncio.sleep(left)
        task = asyncio.create_task(ask(request, at))
        running.add(task)
        task.add_done_callback(running.discard)
    while running:
        await asyncio.sleep(0.01)
    for client in free:
        client.transport.close()
    return np.array(taken)


def alone(engine: Any, rows: list[dict[str, Any]], size: int) -> dict[str, float]:
    """Rows per second of CPU of the model, and of encoder and model, in batches of a size."""
    spent = {"read": 0.0, "score": 0.0}
    names = list(rows[0])
    for start in range(0, len(rows) - size + 1, size):
        part = rows[start : start + size]
        columns = {name: [row[name] for row in part] for name in names}
        before = time.process_time()
        read = engine._rows.read(columns)
        between = time.process_time()
        engine._predicted(read)
        if start:  # the first one makes what all need
            spent["read"] += between - before
            spent["score"] += time.process_time() - between
    done = (len(rows) // size - 1) * size
    return {
        "model": round(done / spent["score"]),
        "encoder and model": round(done / (spent["read"] + spent["score"])),
    }


def drawn_rows(predictor: Predictor, path: str | None, count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(SEED)
    if path is None:
        return rows_of(predictor, count, rng)
    from deepfm.data.files.read import read_rows

    read = [name for field in predictor.schema.read_fields for name in field.raw_columns]
    found: list[dict[str, Any]] = []
    for part in read_rows([path]):
        found += part.table.select(list(dict.fromkeys(read))).to_pylist()
        if len(found) >= count:
            break
    return [found[k] for k in rng.permutation(len(found))[:count]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint")
    parser.add_argument("--export", help="its export, which is served in its place")
    parser.add_argument("--peer", choices=list(environments.SERVERS), help="serves the export")
    parser.add_argument("--rows-from", help="CSV or Parquet file of rows")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--requests", type=int, default=6000, help="of one row")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 100])
    parser.add_argument("--form", choices=("rows", "columns"), default="rows", help="of a body")
    parser.add_argument("--memory", action="store_true", help="of 2 GB, instead of all else")
    parser.add_argument("--memory-rows", type=int, default=33_000_000)
    arguments = parser.parse_args()
    if arguments.memory:
        import serve_memory

        for line in serve_memory.measured(arguments.workers, arguments.memory_rows):
            print(json.dumps(line))
        return
    if not arguments.checkpoint:
        parser.error("expected --checkpoint or --memory")
    if arguments.peer and not arguments.export:
        parser.error(f"--peer {arguments.peer} serves an --export")
    import torch

    torch.set_num_threads(1)
    predictor = Predictor(arguments.checkpoint)
    what, engine = ["--checkpoint", arguments.checkpoint], predictor
    if arguments.export:
        engine = load(arguments.export, threads=1)
        what = ["--export", arguments.export]
    workers = ["--workers", str(arguments.workers)]
    server = served_by(arguments.peer, [*what, *workers]) if arguments.peer else None
    with server or served([*what, *workers]) as (process, port):
        for size in arguments.sizes:
            print(json.dumps(measured(process, port, predictor, engine, size, arguments)))


@contextmanager
def served(options: Sequence[str]) -> Iterator[tuple[int, int]]:
    """`deepfm serve` while it is asked: its process, and the port."""
    command = [sys.executable, "-m", "deepfm", "serve", *options, "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr is not None
        try:
            said = server.stderr.readline()
            found = re.search(r":(\d+) with", said)
            assert found, said
            yield server.pid, int(found[1])
        finally:
            server.terminate()
            server.stderr.read()


@contextmanager
def served_by(peer: str, options: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Another server while it is asked, in an environment of its own: its process, and the port."""
    if environments.create_all([peer]):
        raise SystemExit(f"no environment for {peer}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(environments.python_of(peer)), str(environments.driver_of(peer)), *options]
    with subprocess.Popen(
        [*command, "--port", str(port)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as server:
        try:
            while not is_healthy(port):
                if server.poll() is not None:
                    raise SystemExit(f"{peer} ended with {server.returncode}")
                time.sleep(0.2)
            yield server.pid, port
        finally:  # its own children too
            os.killpg(server.pid, signal.SIGKILL)


def is_healthy(port: int) -> bool:
    """Whether a server says that its workers are ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def measured(
    process: int,
    port: int,
    predictor: Predictor,
    engine: Any,
    size: int,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """What requests of a number of rows cost."""
    count = max(arguments.requests // (1 if size == 1 else 8), 64)
    rows = drawn_rows(predictor, arguments.rows_from, min(count * size, 200_000))
    cut = [rows[k : k + size] for k in range(0, len(rows) - size + 1, size)]
    requests = [request_of(part, arguments.form) for part in cut]
    count = len(requests)
    asyncio.run(closed_loop(port, arguments.connections, requests[: count // 10]))
    before = cpu_seconds(process)
    wall = asyncio.run(closed_loop(port, arguments.connections, requests))
    spent = cpu_seconds(process) - before
    took = asyncio.run(open_loop(port, count / wall / 2, requests[: count // 2])) * 1000
    together = min(1000, size * arguments.connections)
    return {
        "rows of a request": size,
        "requests": count,
        "requests per second and core": round(count / spent),
        "rows per second and core": round(count * size / spent),
        "requests per second of the clock": round(count / wall),
        "open loop, ms": {f"p{p}": round(float(np.percentile(took, p)), 1) for p in (50, 99)},
        f"alone in batches of {together}, rows per second": alone(engine, rows, together),
    }


if __name__ == "__main__":
    main()
