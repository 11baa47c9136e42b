"""A worker: a process with the model, which answers on a socket that its parent opened.

It hears from its parent over a second socket, in lines of JSON: which model to load, first and
later. A new one is read and warmed in a thread while the old one answers; one that cannot be used
changes nothing. When that socket closes, the parent is gone and the worker ends.
"""

import asyncio
import gc
import json
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from deepfm.errors import DeepFMError
from deepfm.serving.app import App
from deepfm.serving.batching import Batcher
from deepfm.serving.counters import Counters
from deepfm.serving.metrics import Metrics
from deepfm.serving.models import ServedModel, load
from deepfm.serving.options import ServeOptions
from deepfm.utils.extras import needed
from deepfm.utils.openmp import wait_passively


def main(arguments: list[str]) -> None:
    """Serve until told to stop.

    Args:
        arguments: The number of the worker, the descriptors of the socket that it answers on and
            of that to its parent, the folder that workers share, and `ServeOptions` as JSON.
    """
    number, listening, parent, folder, options = arguments
    wait_passively()
    with (
        socket.socket(fileno=int(listening)) as listener,
        socket.socket(fileno=int(parent)) as channel,
    ):
        worker = Worker(int(number), listener, channel, Path(folder))
        run: Any = needed("uvicorn", extra="serve", wanted_by="deepfm serve")
        config = ServeOptions.from_json(options)
        factory = run.Config(App, loop="auto").get_loop_factory()
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(worker.serve(config))


class Worker:
    """One worker.

    Args:
        number: Which of them; it counts in a file of this name.
        listener: Where requests come in.
        channel: To the parent.
        folder: That all workers share.
    """

    def __init__(
        self, number: int, listener: socket.socket, channel: socket.socket, folder: Path
    ) -> None:
        self._listener, self._channel, self._folder = listener, channel, folder
        self._metrics = Metrics(Counters(folder / f"{number}.counts"))
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")

    async def serve(self, options: ServeOptions) -> None:
        """Load the model that the parent names, then answer until a signal comes."""
        reader, writer = await asyncio.open_connection(sock=self._channel)
        served = await self._loaded(json.loads(await reader.readline()), writer)
        if served is None:
            return
        batcher = Batcher(served, self._metrics, options.queue)
        app = App(batcher, options, self._metrics, self._folder)
        uvicorn: Any = needed("uvicorn", extra="serve", wanted_by="deepfm serve")
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                access_log=False,
                log_level="error",
                server_header=False,
                backlog=4096,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=max(1, round(options.drain)),
            )
        )
        self._metrics.start()
        gc.collect()
        gc.freeze()  # what was made until now is never looked through again
        _tell(writer, {"ready": served.version})
        following = asyncio.create_task(self._follow(reader, writer, batcher, server))
        stopping = asyncio.create_task(_watch(server, app))
        await server.serve(sockets=[self._listener])
        following.cancel()
        stopping.cancel()
        batcher.close()

    async def _follow(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        batcher: Batcher,
        server: Any,
    ) -> None:
        """Load what the parent names, until it is gone."""
        while line := await reader.readline():
            served = await self._loaded(json.loads(line), writer)
            self._metrics.reload("failed" if served is None else "loaded")
            if served is not None:
                batcher.swap(served)
                _tell(writer, {"ready": served.version})
        server.should_exit = True

    async def _loaded(
        self, named: dict[str, Any], writer: asyncio.StreamWriter
    ) -> ServedModel | None:
        """A model; None, after saying why, if it cannot be used."""
        files, version = [Path(name) for name in named["files"]], named["version"]
        shared = self._folder / version / "weights"
        read = partial(load, files, version, shared)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._loader, read)
        except DeepFMError as error:
            problem, code = str(error), error.exit_code
        except Exception as error:
            problem, code = f"{type(error).__name__}: {error}", 1
        _tell(writer, {"failed": problem, "code": code})
        await writer.drain()
        return None


def _tell(writer: asyncio.StreamWriter, content: dict[str, object]) -> None:
    writer.write(json.dumps(content).encode() + b"\n")


async def _watch(server: Any, app: App) -> None:
    """Say that no requests are welcome as soon as the server is told to stop."""
    while not server.should_exit:
        await asyncio.sleep(0.1)
    app.is_ready = False


if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the parent says what to load
    main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # a thread that still scores keeps no process
