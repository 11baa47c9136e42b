"""A small declared table, and trained checkpoints of it, for what is done with checkpoints."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from deepfm import experiment
from deepfm.config import ExperimentConfig, config_from_dict

# What `metrics.json` has of the calibration of a task with two classes.
CALIBRATION = {
    f"{name}{ending}"
    for name in ("ece", "calibration_ratio", "normalized_entropy")
    for ending in ("", "_interval")
}


def write_rows(folder: Path, name: str = "rows.csv", seed: int = 0, count: int = 1200) -> pa.Table:
    """Clicks that follow from user and size, a `kind` of three, and an amount."""
    rng = np.random.default_rng(seed)
    user, size = rng.integers(0, 40, count), rng.normal(size=count)
    logit = (user % 5 - 2) + size
    table = pa.table(
        {
            "user": user,
            "color": [f"c{k}" for k in rng.integers(0, 6, count)],
            "size": size,
            "click": (rng.random(count) < 1 / (1 + np.exp(-logit))).astype(int),
            "kind": rng.integers(0, 3, count),
            "amount": size + rng.normal(size=count),
        }
    )
    pyarrow.csv.write_csv(table, folder / name)
    return table


def config(folder: Path, run: str = "run", **changes: object) -> ExperimentConfig:
    """Of a model that trains in a second; `changes` are dotted keys with `__` for the dot."""
    raw: dict = {
        "model_name": "deepfm",
        "output_dir": str(folder / run),
        "device": "cpu",
        "data": {
            "dataset_name": "tabular",
            "data_dir": str(folder),
            "store_dir": str(folder / "stores"),
            "split_strategy": "random",
            "split_fractions": [0.4, 0.4, 0.2],
            "table": {
                "files": "rows.csv",
                "label": "click",
                "fields": {
                    "user": {"type": "sparse", "embedding_dim": 4},
                    "color": {"type": "sparse", "embedding_dim": 4},
                    "size": {"type": "dense"},
                },
            },
        },
        "dnn": {"hidden_units": [8]},
        "training": {"epochs": 2, "batch_size": 64, "lr": 0.02},
    }
    for key, value in changes.items():
        *sections, last = key.split("__")
        below = raw
        for section in sections:
            below = below.setdefault(section, {})
        below[last] = value
    return config_from_dict(raw)


def trained(folder: Path, run: str = "run", **changes: object) -> Path:
    """The best checkpoint of a run."""
    if not (folder / "rows.csv").exists():
        write_rows(folder)
    used = config(folder, run, **changes)
    experiment.train(used)
    return Path(used.output_dir) / "best_model.pt"
