"""A server of several processes, asked over sockets: sums, reloads, kills, faults."""

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest

from deepfm import experiment
from deepfm.checkpoint import RunDirectory
from deepfm.config import load_config
from deepfm.prediction import Predictor
from tests import tiny, untrained

ROOT = Path(__file__).parents[2]


class Server:
    """`deepfm serve` in processes of its own."""

    def __init__(self, checkpoint: Path, *options: str) -> None:
        command = [sys.executable, "-m", "deepfm", "serve", "--checkpoint", str(checkpoint)]
        self.process = subprocess.Popen(
            [*command, "--port", "0", *options],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.said: list[str] = []
        self.lines: list[bytes] = []
        self._threads = [
            threading.Thread(target=self._read, args=pipe, daemon=True)
            for pipe in (
                (self.process.stderr, lambda line: self.said.append(line.decode())),
                (self.process.stdout, self.lines.append),
            )
        ]
        for thread in self._threads:
            thread.start()
        self.port = int(re.search(r":(\d+) with", self.hear("serving "))[1])
        self.url = f"http://127.0.0.1:{self.port}"

    @staticmethod
    def _read(pipe, take) -> None:
        for line in pipe:
            take(line)

    def hear(self, words: str) -> str:
        """The line with these words, which the server says sooner or later."""
        until = time.monotonic() + 240
        while time.monotonic() < until:
            found = [line for line in self.said if words in line]
            if found:
                return found[0]
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"nobody said {words!r}: {self.said}")

    def workers(self) -> list[int]:
        """The processes of the workers."""
        path = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        return [int(one) for one in Path(path).read_text().split()]

    def metrics(self) -> dict[str, float]:
        lines = httpx.get(f"{self.url}/metrics", timeout=60).text.splitlines()
        split = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in split}

    def stop(self) -> int:
        self.process.terminate()
        code = self.process.wait(60)
        for thread in self._threads:
            thread.join(10)
        for pipe in (self.process.stdout, self.process.stderr):
            pipe.close()
        return code


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Two checkpoints that predict differently."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepfm.data.ADAPTERS", {"tiny": tiny})
        for seed in (1, 2):
            folder = tmp_path_factory.mktemp(f"run{seed}")
            config = load_config(tiny.write_config(folder, training__epochs=1, seed=seed))
            experiment.train(config)
            found.append(RunDirectory(config.output_dir).best)
    return found


@pytest.fixture(scope="module")
def current(checkpoints, tmp_path_factory):
    """The file that is served."""
    path = tmp_path_factory.mktemp("served") / "model.pt"
    shutil.copy(checkpoints[0], path)
    return path


@pytest.fixture(scope="module")
def server(current):
    server = Server(current, "--workers", "2", "--deadline", "60")
    yield server
    if server.process.poll() is None:
        server.stop()


def replace(path: Path, content: bytes) -> None:
    """As everything that writes checkpoints does."""
    beside = path.with_suffix(".new")
    beside.write_bytes(content)
    beside.replace(path)


def row(k: int) -> dict[str, int]:
    return {"user": k % 40, "item": (7 * k) % 60}


def ask_many(server: Server, count: int, threads: int = 8) -> list[httpx.Response]:
    """The answers of single rows over several connections that are opened anew now and then."""

    def ask(first: int) -> list[httpx.Response]:
        found = []
        for start in range(first, count, threads * 10):
            with httpx.Client(timeout=120) as client:
                found += [
                    client.post(f"{server.url}/v1/predict", json={"rows": [row(k)]})
                    for k in range(start, min(start + threads * 10, count), threads)
                ]
        return found

    with ThreadPoolExecutor(threads) as pool:
        return [answer for some in pool.map(ask, range(threads)) for answer in some]


def counted(server: Server) -> float:
    return server.metrics().get('deepfm_requests_total{route="/v1/predict",status="200"}', 0.0)


def test_metrics_are_summed_over_workers_and_lines_are_whole(server):
    before = counted(server)
    answers = ask_many(server, 200)
    assert [answer.status_code for answer in answers] == [200] * 200
    assert counted(server) - before == 200
    time.sleep(0.2)
    lines = [json.loads(line) for line in server.lines]
    assert sum(line["path"] == "/v1/predict" for line in lines) >= 200


def test_a_new_file_is_loaded_by_all_workers_under_load(server, current, checkpoints):
    versions: list[str] = []
    failed: list[object] = []
    is_over = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=120) as client:
            while not is_over.is_set():
                answer = client.post(f"{server.url}/v1/predict", json={"rows": [row(3)]})
                if answer.status_code == 200:
                    versions.append(answer.json()["version"])
                else:
                    failed.append(answer.text)

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for thread in asking:
        thread.start()
    replace(current, checkpoints[1].read_bytes())
    os.kill(server.process.pid, signal.SIGHUP)
    said = server.hear("the model is ")
    is_over.set()
    for thread in asking:
        thread.join()
    assert not failed
    new, old = re.search(r"is (\w+) now, it was (\w+)", said).groups()
    assert set(versions) <= {old, new}
    answers = ask_many(server, 16)
    assert {answer.json()["version"] for answer in answers} == {new}
    expected = Predictor(checkpoints[1]).predict([row(3)])
    found = httpx.post(f"{server.url}/v1/predict", json={"rows": [row(3)]}, timeout=60)
    np.testing.assert_allclose(found.json()["predictions"]["probability"], expected, rtol=1e-5)


def test_a_broken_file_changes_nothing_and_a_killed_worker_comes_back(server, current):
    version = httpx.get(f"{server.url}/v1/model", timeout=60).json()["version"]
    good = current.read_bytes()
    replace(current, good[: len(good) // 2])
    server.hear(f"the model stays {version}")  # the change is noticed without a signal
    before = counted(server)
    killed = server.workers()[0]
    os.kill(killed, signal.SIGKILL)
    server.hear("another one takes its place")
    # connections that the system gives to the killed worker wait for the next one
    answers = ask_many(server, 40)
    assert [answer.status_code for answer in answers] == [200] * 40
    assert {answer.json()["version"] for answer in answers} == {version}
    assert counted(server) - before == 40
    assert killed not in server.workers()
    replace(current, good)


def test_nonsense_and_clients_that_do_not_read_hurt_nobody(server):
    opened = []
    for content in (
        b"\x00\x01\x02garbage\r\n\r\n",
        b"POST /v1/predict HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 2000,  # and never reads
    ):
        one = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        one.setblocking(False)
        opened.append(one)
        with suppress(BlockingIOError):
            one.send(content)
    opened += [socket.create_connection(("127.0.0.1", server.port)) for _ in range(200)]
    answers = ask_many(server, 24)
    assert [answer.status_code for answer in answers] == [200] * 24
    for one in opened:
        one.close()


def test_stopping_answers_what_has_begun(server):
    body = json.dumps({"rows": [row(k) for k in range(3000)]}).encode()
    head = f"Host: x\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as asking:
        asking.sendall(f"POST /v1/predict HTTP/1.1\r\n{head}".encode())
        assert asking.recv(1000).startswith(b"HTTP/1.1 100")  # a worker has begun
        server.process.terminate()
        asking.sendall(body)
        answer = b""
        while part := asking.recv(65536):
            answer += part
    assert server.stop() == 0
    head, _, content = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert len(json.loads(content)["predictions"]["probability"]) == 3000


@contextmanager
def many_files(count: int):
    """This process may open so many files; the servers that it starts, as many as the system lets.

    Skips where the system does not let it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"needs {count:,} open files, and the system allows {hard:,}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_connections(server: Server, count: int, opened: list[socket.socket]) -> None:
    """Open connections that ask nothing."""
    for _ in range(count):
        opened.append(socket.create_connection(("127.0.0.1", server.port), timeout=60))


def ask_over(opened: list[socket.socket]) -> None:
    """Ask once over each of connections, which stay open."""
    for start in range(0, len(opened), 500):
        some = opened[start : start + 500]
        for one in some:
            one.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        for one in some:
            answer = b""
            while not answer.endswith(b"}"):  # head and body may come one after the other
                part = one.recv(1000)
                assert part, "closed"
                answer += part
            assert answer.startswith(b"HTTP/1.1 200")


def resident(process: int) -> int:
    """Bytes of memory that a process holds."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(found[1]) * 1024


def test_connections_beyond_the_files_of_a_worker_hurt_nobody_for_long(checkpoints):
    server = Server(checkpoints[0])
    (worker,) = server.workers()
    in_use = len(os.listdir(f"/proc/{worker}/fd"))
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (in_use + 50, in_use + 50))
    opened: list[socket.socket] = []
    try:
        open_connections(server, 40, opened)
        ask_over(opened)
        open_connections(server, 100, opened)
        ask_over(opened[:40])
    finally:
        for one in opened:
            one.close()
    answers = ask_many(server, 16)
    assert [answer.status_code for answer in answers] == [200] * 16
    assert server.workers() == [worker]
    assert server.stop() == 0


def test_mistakes_at_the_start_are_a_line(checkpoints, tmp_path):
    taken = socket.create_server(("127.0.0.1", 0))
    port = str(taken.getsockname()[1])
    empty = tmp_path / "token"
    empty.write_text("\n")
    for arguments, words in (
        (["--checkpoint", "none.pt"], "none.pt: cannot be read"),
        (["--checkpoint", str(checkpoints[0]), "--port", port], "cannot listen on 127.0.0.1"),
        (["--checkpoint", str(checkpoints[0]), "--workers", "0"], "--workers: expected at least 1"),
        (["--checkpoint", str(checkpoints[0]), "--token-file", str(empty)], "expected a line of"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "deepfm", "serve", *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert words in line
    taken.close()


@pytest.mark.slow
def test_a_thousand_requests_over_four_workers_are_counted(checkpoints):
    server = Server(checkpoints[0], "--workers", "4")
    answers = ask_many(server, 1000, threads=16)
    assert [answer.status_code for answer in answers] == [200] * 1000
    assert counted(server) == 1000
    assert server.metrics()["deepfm_rows_total"] >= 1000
    assert server.stop() == 0


@pytest.mark.slow
def test_schemathesis_finds_no_error_of_ours(checkpoints, tmp_path):
    server = Server(checkpoints[0], "--max-rows", "50")
    done = subprocess.run(
        [
            sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()",
            "run", f"{server.url}/openapi.json",
            "--checks", "not_a_server_error", "--max-examples", "60", "--seed", "1",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )  # fmt: skip
    assert server.stop() == 0
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]


@pytest.mark.slow
def test_ten_thousand_idle_connections_leave_room_for_one_that_asks(checkpoints):
    count, opened = 10_000, list[socket.socket]()
    with many_files(count + 500):
        server = Server(checkpoints[0])  # with a deadline of 5 seconds
        (worker,) = server.workers()
        before = resident(worker)
        try:
            open_connections(server, count, opened)
            # over a connection that comes after them: they have been accepted by then
            assert httpx.get(f"{server.url}/health/live", timeout=60).status_code == 200
            assert len(os.listdir(f"/proc/{worker}/fd")) > count
            ask_over(opened)
            answer = httpx.post(f"{server.url}/v1/predict", json={"rows": [row(3)]}, timeout=60)
            assert answer.status_code in (200, 503)
            grown = resident(worker) - before
            assert grown < count * 32 * 1024, f"{grown / count:,.0f} bytes per connection"
        finally:
            for one in opened:
                one.close()
        answers = ask_many(server, 40)
        assert [answer.status_code for answer in answers] == [200] * 40
        assert server.workers() == [worker]
        assert resident(worker) - before < count * 32 * 1024
        assert server.stop() == 0


@pytest.mark.slow
def test_a_model_in_a_store_is_fetched_and_reloaded_when_told(bucket, tmp_path):
    """The store is an emulator (`tests.buckets`)."""
    one, other = (untrained.of_ranking(tmp_path / f"{k}.pt", seed=k).read_bytes() for k in (1, 2))
    server = Server(bucket.put("model/best_model.pt", one))
    try:
        assert httpx.get(f"{server.url}/health/ready", timeout=60).status_code == 200
        bucket.put("model/best_model.pt", other)
        server.process.send_signal(signal.SIGHUP)
        server.hear("the model is ")
        bucket.ask("DELETE", "model/best_model.pt")
        server.process.send_signal(signal.SIGHUP)
        assert "no such file" in server.hear("the model stays ")
        assert httpx.get(f"{server.url}/health/ready", timeout=60).status_code == 200
    finally:
        server.stop()
