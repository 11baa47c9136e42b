"""A server's application in this process, asked without a socket."""

import asyncio
import threading
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from deepfm.engine import CountedPredictions
from deepfm.serving.app import App
from deepfm.serving.batching import Batcher
from deepfm.serving.counters import Counters
from deepfm.serving.metrics import Metrics
from deepfm.serving.models import ServedModel
from deepfm.serving.options import ServeOptions


class Slow:
    """An engine that answers a row's number, once it is let; it counts what it is asked for."""

    def __init__(self, schema: Any = None) -> None:
        self.schema, self.tasks = schema, ()
        self.go = threading.Event()
        self.batches: list[int] = []

    def predict_counted(self, rows: Any) -> CountedPredictions:
        self.go.wait(60)
        values = np.array(rows["n"], np.float64)
        self.batches.append(len(values))
        return CountedPredictions({"probability": values}, {}, {})


def served(engine: Any, version: str = "v1", columns: frozenset[str] | None = None) -> ServedModel:
    if columns is None:
        columns = frozenset({"n"})
    return ServedModel(engine, version, columns, None, None, "torch", "now")


@asynccontextmanager
async def asked(model: ServedModel, folder: Path, **options: Any):
    """A client of an application, and the application."""
    given = ServeOptions(**options)
    metrics, lines = Metrics(Counters(folder / "0.counts")), []
    batcher = Batcher(model, metrics, given.queue)
    app = App(batcher, given, metrics, folder, log=lines.append)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        try:
            yield client, batcher, lines
        finally:
            batcher.close()
            await asyncio.sleep(0)
