"""The parent of the workers: it opens sockets, starts and restarts workers, and says what to load.

Decided here: each worker has a listening socket of its own on the one port (SO_REUSEPORT), so that
the system divides the connections; the parent holds all of them open, so that a connection that
waits for a killed worker is answered by the one that takes its place. Workers are new processes,
not forks: threads of torch and of Arrow survive no fork. The parent imports neither.
"""

import json
import resource
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from deepfm.errors import CheckpointError, ConfigError, DeepFMError
from deepfm.serving.options import ServeOptions
from deepfm.serving.snapshots import Snapshot, Stamp, snapshot, stamp
from deepfm.utils.places import AnyPath

_LOOK = 1.0  # seconds between two looks at the files
_LONGEST_PAUSE = 30.0  # seconds before a worker that keeps dying is started again
_STEADY = 10.0  # seconds after which a worker counts as one that does not


def serve(sources: Sequence[AnyPath], options: ServeOptions, say: Callable[[str], None]) -> None:
    """Serve a model until SIGTERM or SIGINT.

    Args:
        sources: Checkpoints, whose logits are averaged where there are several; or a directory that
            `deepfm export` wrote.
        options: How.
        say: Takes lines for people.

    Raises:
        CheckpointError: The model cannot be used.
        ConfigError: The address cannot be listened on.
    """
    folder = Path(tempfile.mkdtemp(prefix="deepfm-serve-"))
    try:
        Supervisor(sources, options, folder, say).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Slot:
    """The place of a worker: its socket, and the process that holds it now."""

    def __init__(self, number: int, listener: socket.socket) -> None:
        self.number, self.listener = number, listener
        self.process: subprocess.Popen[bytes] | None = None
        self.channel: socket.socket | None = None
        self.heard = b""
        self.version = ""  # of the model that it answers with; empty while it loads its first
        self.began = 0.0
        self.pause = 0.0
        self.start_at = 0.0


class Supervisor:
    """The parent.

    Args:
        sources, options, say: As those of `serve`.
        folder: Of what workers share.
    """

    def __init__(
        self,
        sources: Sequence[AnyPath],
        options: ServeOptions,
        folder: Path,
        say: Callable[[str], None],
    ) -> None:
        self._sources, self._options, self._folder, self._say = sources, options, folder, say
        self._selector = selectors.DefaultSelector()
        self._slots: list[_Slot] = []
        self._model: Snapshot | None = None  # that workers answer with, or begin with
        self._next: Snapshot | None = None  # that they are being told of
        self._to_reload: list[_Slot] = []
        self._stamp: Stamp | None = None
        self._changing: Stamp | None = None
        self._wants_reload = False
        self._is_stopping = False

    def run(self) -> None:
        """Serve until a signal comes; see `serve`."""
        _allow_many_files()
        self._stamp = stamp(self._sources)
        self._model = snapshot(self._sources, self._folder)
        self._slots = [_Slot(k, one) for k, one in enumerate(self._listeners())]
        host, port = self._slots[0].listener.getsockname()[:2]
        awake, waker = socket.socketpair()
        for end in (awake, waker):
            end.setblocking(False)
        self._selector.register(awake, selectors.EVENT_READ, None)
        before = signal.set_wakeup_fd(waker.fileno())
        kept = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
        }
        try:
            self._start(self._slots[0])
            self._until(lambda: bool(self._slots[0].version))
            for slot in self._slots[1:]:
                self._start(slot)
            self._until(lambda: all(slot.version for slot in self._slots))
            if not self._is_stopping:
                shown = f"[{host}]" if ":" in host else host
                self._say(
                    f"serving {self._model.version} on http://{shown}:{port} with "
                    f"{self._options.workers} worker{'s' * (self._options.workers > 1)}"
                )
            self._until(lambda: self._is_stopping)
        finally:
            self._stop()
            signal.set_wakeup_fd(before)
            for number, handler in kept.items():
                signal.signal(number, handler)
            for slot in self._slots:
                slot.listener.close()
            for end in (awake, waker):
                end.close()
            self._selector.close()

    def _listeners(self) -> list[socket.socket]:
        """A bound socket per worker.

        Raises:
            ConfigError: The address is none, or taken.
        """
        options, found = self._options, list[socket.socket]()
        port = options.port
        try:
            family = socket.getaddrinfo(options.host, port, type=socket.SOCK_STREAM)[0][0]
            if port:  # SO_REUSEPORT would share the port with another server of this user
                with socket.socket(family) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((options.host, port))
            for _ in range(options.workers):
                one = socket.socket(family)
                found.append(one)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if options.workers > 1:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                one.bind((options.host, port))
                one.listen(4096)
                port = one.getsockname()[1]
        except (OSError, OverflowError) as error:
            for one in found:
                one.close()
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"cannot listen on {options.host}:{options.port}: {reason}") from None
        return found

    def _start(self, slot: _Slot) -> None:
        """Start a worker in a slot."""
        assert self._model is not None
        ours, theirs = socket.socketpair()
        fds = (slot.listener.fileno(), theirs.fileno())
        command = [
            sys.executable, "-m", "deepfm.serving.worker", str(slot.number), *map(str, fds),
            str(self._folder), self._options.to_json(),
        ]  # fmt: skip
        with theirs:
            slot.process = subprocess.Popen(
                command, pass_fds=fds, stdin=subprocess.DEVNULL, start_new_session=True
            )
        ours.setblocking(False)
        slot.channel, slot.heard, slot.version, slot.began = ours, b"", "", time.monotonic()
        self._selector.register(ours, selectors.EVENT_READ, slot)
        self._tell(slot, self._model)

    def _tell(self, slot: _Slot, model: Snapshot) -> None:
        """Name a model to a worker, which loads it."""
        assert slot.channel is not None
        named = {"files": [str(file) for file in model.files], "version": model.version}
        with suppress(OSError):  # it has died, which is heard of next
            slot.channel.sendall(json.dumps(named).encode() + b"\n")

    def _until(self, is_done: Callable[[], bool]) -> None:
        """Do what there is to do, until then or until the server is told to stop."""
        looked = time.monotonic()
        while not is_done() and not self._is_stopping:
            for key, _ in self._selector.select(_LOOK):
                if key.data is None:
                    with suppress(BlockingIOError):
                        key.fileobj.recv(100)  # type: ignore[union-attr]
                else:
                    self._hear(key.data)
            if self._is_stopping:
                return
            now = time.monotonic()
            for slot in self._slots:
                if slot.process is None and slot.start_at and now >= slot.start_at:
                    slot.start_at = 0.0
                    self._start(slot)
            if now - looked >= _LOOK:
                looked = now
                self._look()
            if self._wants_reload and self._next is None:
                self._wants_reload = False
                self._begin_reload()

    def _look(self) -> None:
        """Ask for a reload when the files have changed and have been left alone since."""
        now = stamp(self._sources)
        if now is None or now == self._stamp:
            self._changing = None
        elif now == self._changing:
            self._stamp, self._changing = now, None
            self._wants_reload = True
        else:
            self._changing = now

    def _begin_reload(self) -> None:
        assert self._model is not None
        try:
            self._next = snapshot(self._sources, self._folder)
        except CheckpointError as error:
            self._say(f"the model stays {self._model.version}: {error}")
            return
        if self._next.version == self._model.version:
            self._say(f"the model is {self._model.version} already")
            self._next = None
            return
        self._to_reload = list(self._slots)
        self._reload_one()

    def _reload_one(self) -> None:
        """Tell the next worker of the new model; with none left, it is the model."""
        assert self._model is not None
        assert self._next is not None
        while self._to_reload and not self._to_reload[0].version:
            self._to_reload.append(self._to_reload.pop(0))
            if not any(slot.version for slot in self._to_reload):
                return  # all of them load their first model; the next that is ready goes on
        if self._to_reload:
            self._tell(self._to_reload[0], self._next)
            return
        old, self._model, self._next = self._model, self._next, None
        self._say(f"the model is {self._model.version} now, it was {old.version}")
        old.discard()

    def _hear(self, slot: _Slot) -> None:
        """Read what a worker says, or notice that it is gone."""
        assert slot.channel is not None
        try:
            part = slot.channel.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if not part:
            self._gone(slot)
            return
        slot.heard += part
        *lines, slot.heard = slot.heard.split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "ready" in said:
                self._is_ready(slot, said["ready"])
            else:
                self._has_failed(slot, said["failed"], said["code"])

    def _is_ready(self, slot: _Slot, version: str) -> None:
        slot.version = version
        if self._next is None:
            return
        if version == self._next.version and slot in self._to_reload:
            self._to_reload.remove(slot)
        self._reload_one()

    def _has_failed(self, slot: _Slot, problem: str, code: int) -> None:
        """A worker cannot use the model that it was told of."""
        assert self._model is not None
        if self._next is None or not slot.version:
            if not any(other.version for other in self._slots):  # at the start
                raise (CheckpointError(problem) if code == 2 else DeepFMError(problem))
            return  # it ends, and is started again
        self._say(f"the model stays {self._model.version}: {problem}")
        done = [one for one in self._slots if one.version == self._next.version]
        for one in done:  # those that could, go back
            self._tell(one, self._model)
        if not done:
            self._next.discard()
        self._next, self._to_reload = None, []

    def _gone(self, slot: _Slot) -> None:
        """A worker has ended by itself: start another one, after a pause if it died young."""
        assert slot.channel is not None
        assert slot.process is not None
        self._selector.unregister(slot.channel)
        slot.channel.close()
        status = slot.process.wait()
        slot.process = slot.channel = None
        slot.version = ""
        if not any(other.version or other.process for other in self._slots) and not slot.began:
            raise DeepFMError(f"a worker ended with {status} before it was ready")
        is_steady = time.monotonic() - slot.began > _STEADY
        slot.pause = 0.0 if is_steady else min(max(2 * slot.pause, 0.1), _LONGEST_PAUSE)
        slot.start_at = time.monotonic() + slot.pause
        self._say(f"worker {slot.number} ended with {status}; another one takes its place")
        if self._next is not None and slot in self._to_reload[:1]:
            self._reload_one()

    def _stop(self) -> None:
        """Let the workers end what they have begun, and kill those that take too long."""
        running = [slot for slot in self._slots if slot.process is not None]
        for slot in running:
            assert slot.process is not None
            slot.process.terminate()
        until = time.monotonic() + self._options.drain + 5
        for slot in running:
            assert slot.process is not None
            try:
                slot.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                slot.process.kill()
                slot.process.wait()
            if slot.channel is not None:
                slot.channel.close()

    def _on_signal(self, number: int, frame: object) -> None:
        if number == signal.SIGHUP:
            self._wants_reload = True
        else:
            self._is_stopping = True


def _allow_many_files() -> None:
    """A connection is an open file; workers inherit the limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host name."""
    return host in ("localhost", "::1") or host.startswith("127.")
