"""What workers of a server hold of a model of 2 GB that each of them answers with.

    python benchmarks/serve.py --memory [--workers 4] [--memory-rows 33000000]

The model is a DeepFM with one hashed field of 33 million rows of 16 numbers, as it is before
training, saved as a checkpoint. It is served, and asked 100 requests of a row each over as many
connections, so that all workers answer. Printed is a line of JSON per worker, in MB of 10^6 bytes:
what it holds alone, of that what it has written (the rest is of files, which the system may drop
and read again), and its share of all (Pss). Loading takes several times the model for a while, in
all workers but the first at once.
"""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

DIM = 16
REQUESTS = 100


def write_checkpoint(folder: Path, rows: int) -> Path:
    """A checkpoint whose table of one field has a number of rows."""
    from deepfm.checkpoint import Checkpoint
    from deepfm.config import config_from_dict
    from deepfm.data.declared import declared_schema
    from deepfm.data.encoding.encoders import Encoders
    from deepfm.models import build_model

    config = config_from_dict(
        {
            "model_name": "deepfm",
            "device": "cpu",
            "data": {
                "dataset_name": "tabular",
                "data_dir": str(folder),
                "split_strategy": "random",
                "table": {
                    "files": "rows.csv",
                    "label": "click",
                    "fields": {
                        "user": {"type": "sparse", "embedding_dim": DIM, "hash_buckets": rows},
                        "item": {"type": "sparse", "embedding_dim": DIM, "hash_buckets": 1000},
                    },
                },
            },
            "dnn": {"hidden_units": [64, 32]},
        }
    )
    encoders = Encoders.fit(declared_schema(config), [])
    weights = build_model(encoders.schema, config).state_dict()
    path = folder / "model.pt"
    Checkpoint(config, encoders, None, None, None, weights).save(path)
    return path


def memory_of(process: int) -> dict[str, int]:
    """Megabytes that a process holds."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    written = kib["Private_Dirty"]
    found = {"private": written + kib["Private_Clean"], "written": written, "pss": kib["Pss"]}
    return {name: round(size * 1024 / 1e6) for name, size in found.items()}


def workers_of(process: int) -> list[int]:
    """The children of a server."""
    return [
        int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()
    ]


async def ask_over_many_connections(port: int) -> None:
    """100 requests, each over a connection of its own, all open until the last is answered."""
    from serve import CHECK, clients, request_of

    rng = np.random.default_rng(0)
    opened = await clients(port, REQUESTS)
    for client in opened:
        row = {"user": f"u{rng.integers(2**40)}", "item": f"i{rng.integers(1000)}"}
        answer = await client.ask(request_of([row]))
        assert answer.startswith(CHECK), answer[:300]
    for client in opened:
        client.transport.close()


def measured(workers: int, rows: int) -> Iterator[dict[str, Any]]:
    """What each worker holds after the requests."""
    from serve import served

    with tempfile.TemporaryDirectory(prefix="deepfm-memory-") as folder:
        checkpoint = write_checkpoint(Path(folder), rows)
        size = round(checkpoint.stat().st_size / 1e6)
        with served(["--checkpoint", str(checkpoint), "--workers", str(workers)]) as (server, port):
            asyncio.run(ask_over_many_connections(port))
            for process in workers_of(server):
                yield {"checkpoint": size} | memory_of(process)
