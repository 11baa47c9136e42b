"""Small experiments of every kind, on generated rows; what they leave, made comparable."""

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

TRAINING = {
    "epochs": 3, "batch_size": 128, "lr": 0.01, "checkpoint_every_steps": 4,
    "evaluate_every_steps": 5,
}  # fmt: skip


class Workload(NamedTuple):
    """An experiment: `write` puts `run.yaml` into a folder, and its data into `data` there."""

    name: str
    write: Callable[[Path, random.Random], None]
    is_prepared: bool


def _config(folder: Path, data: dict[str, Any], **sections: Any) -> None:
    raw = {
        "device": "cpu",
        "output_dir": "run",
        "dnn": {"hidden_units": [8], "dropout": 0.2},
        "data": {"dataset_name": "tabular", "data_dir": "data", "store_dir": "stores"} | data,
        "training": TRAINING,
    } | sections
    (folder / "run.yaml").write_text(yaml.safe_dump(raw))


def _rows(rng: random.Random, count: int) -> list[dict[str, Any]]:
    found = []
    for k in range(count):
        user, item = rng.randrange(60), rng.randrange(80)
        found.append(
            {
                "click": int(rng.random() < (0.7 if user % 3 == item % 3 else 0.2)),
                "weight": rng.randint(1, 3),
                "user": f"u{user}",
                "item": item,
                "price": "" if rng.random() < 0.1 else round(rng.lognormvariate(1, 1), 2),
                "tags": "|".join(rng.choice("abcdefgh") for _ in range(rng.randrange(5))),
                "time": 1_700_000_000 + 977 * k,
            }
        )
    return found


def _csv(path: Path, rows: list[dict[str, Any]]) -> None:
    lines = [",".join(rows[0]), *(",".join(str(v) for v in row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


FIELDS = {
    "user": {"type": "sparse", "embedding_dim": 4, "min_count": 2},
    "item": {"type": "sparse", "embedding_dim": 4},
    "level": {"type": "sparse", "column": "price", "quantiles": 4, "embedding_dim": 4},
    "price": {"type": "dense", "scale": "standard", "missing": "indicator"},
    "tags": {"type": "sequence", "separator": "|", "max_length": 3, "embedding_dim": 4},
    "all": {"type": "sequence", "column": "tags", "separator": "|", "embedding_dim": 4},
}


def declared(folder: Path, rng: random.Random) -> None:
    """A table in two files: weights, groups, sequences of both kinds, lazy Adam, best weights."""
    rows = _rows(rng, 900)
    _csv(folder / "data" / "a.csv", rows[:500])
    _csv(folder / "data" / "b.csv", rows[500:])
    table = {
        "files": ["a.csv", "b.csv"], "label": "click", "sample_weight": "weight",
        "group_columns": ["user"], "fields": FIELDS,
    }  # fmt: skip
    _config(
        folder,
        {"split_strategy": "random", "table": table},
        training=TRAINING | {"sparse_optimizer": "lazy_adam", "metric": "logloss"},
        evaluation={"metrics": ["auc", "logloss", {"name": "gauc", "group": "user"}]},
    )


def by_time(folder: Path, rng: random.Random) -> None:
    """A side table of items, a split by time, moving averages, accumulation, the last weights."""
    rows = _rows(rng, 800)
    prices = {item: round(rng.random(), 3) for item in range(80)}
    _csv(folder / "data" / "items.csv", [{"item": k, "worth": v} for k, v in prices.items()])
    _csv(folder / "data" / "rows.csv", rows)
    table = {
        "files": "rows.csv", "items": {"files": "items.csv"}, "label": "click",
        "item_field": "item", "time_column": "time",
        "fields": {
            **FIELDS,
            "item": {"type": "sparse", "embedding_dim": 4, "group": "item"},
            "worth": {"type": "dense", "group": "item"},
        },
    }  # fmt: skip
    _config(
        folder,
        {"split_strategy": "time", "table": table},
        model_name="wide_and_deep",
        training=TRAINING
        | {"keep": "last", "ema_decay": 0.9, "gradient_accumulation_steps": 2, "metric": "auc"},
    )


def ranking(folder: Path, rng: random.Random) -> None:
    """Ratings of users and items, one left out, negatives drawn anew in each epoch."""
    pairs = sorted({(rng.randrange(40), rng.randrange(50)) for _ in range(700)})
    rng.shuffle(pairs)
    ratings = [
        {
            "user": u, "item": i, "stars": 5 if (u % 3 == i % 3) ^ (rng.random() < 0.1) else 2,
            "time": rng.randrange(10**6),
        }
        for u, i in pairs
    ]  # fmt: skip
    _csv(folder / "data" / "ratings.csv", ratings)
    _csv(
        folder / "data" / "users.csv",
        [{"user": u, "age": rng.randrange(10, 80)} for u in range(40)],
    )
    _csv(
        folder / "data" / "items.csv",
        [{"item": i, "title": f"Item {i}", "kinds": "ab"[i % 2] + "|c"} for i in range(50)],
    )
    table = {
        "files": "ratings.csv", "users": {"files": "users.csv"}, "items": {"files": "items.csv"},
        "label": "liked", "labels": {"liked": {"column": "stars", "threshold": 4}},
        "user_field": "user", "item_field": "item", "time_column": "time",
        "item_title_column": "title",
        "fields": {
            "user": {"type": "sparse", "group": "user", "embedding_dim": 4},
            "age": {"type": "sparse", "group": "user", "embedding_dim": 4,
                    "transform": "bucket(0, 30, 50)"},
            "item": {"type": "sparse", "group": "item", "embedding_dim": 4},
            "kinds": {"type": "sequence", "group": "item", "separator": "|", "embedding_dim": 4},
        },
    }  # fmt: skip
    _config(
        folder,
        {"split_strategy": "leave_one_out", "table": table, "num_neg_eval": 20},
        model_name="attention_deepfm",
        attention={"num_heads": 2, "attention_dim": 4},
        training=TRAINING | {"metric": "ndcg@10", "checkpoint_every_steps": 9},
    )


WORKLOADS = {
    "declared": Workload("declared", declared, True),
    "by_time": Workload("by_time", by_time, True),
    "ranking": Workload("ranking", ranking, False),
}


def write(name: str, folder: Path) -> Path:
    """A fresh folder with a workload's data; the same bytes each time."""
    (folder / "data").mkdir(parents=True)
    WORKLOADS[name].write(folder, random.Random(name))
    return folder


def results_of(folder: Path) -> dict[str, str]:
    """A digest of each file that runs and stores leave, without times; equal if bits are."""
    found = {}
    for path in sorted((folder / "run").glob("*")):
        if path.suffix == ".pt":
            content: Any = torch.load(path, weights_only=True)
        elif path.name == "history.jsonl":
            content = [json.loads(line) for line in path.read_text().splitlines()]
        elif path.name in ("config.yaml", "train.log", ".lock", "environment.json", "report.html"):
            continue
        else:
            content = path.read_bytes()
        found[f"run/{path.name}"] = digest(content)
    for path in sorted((folder / "stores").rglob("*")):
        if path.is_file() and path.suffix != ".lock" and path.name != "digests.json":
            found[str(path.relative_to(folder))] = digest(path.read_bytes())
    return found


def digest(content: Any) -> str:
    """Of nested plain data and tensors, bit by bit; the time that something took is left out."""
    hashed = hashlib.sha256()

    def update(value: Any) -> None:
        hashed.update(type(value).__name__.encode())
        if isinstance(value, Mapping):
            for key, below in value.items():
                if key != "seconds":
                    update(key)
                    update(below)
        elif isinstance(value, (list, tuple)):
            for below in value:
                update(below)
        elif isinstance(value, torch.Tensor):
            hashed.update(f"{value.dtype}{tuple(value.shape)}".encode())
            flat = value.detach().contiguous().flatten()
            hashed.update(flat.view(torch.uint8).numpy().tobytes() if len(flat) else b"")
        elif isinstance(value, bytes):
            hashed.update(value)
        else:
            hashed.update(repr(value).encode())

    update(content)
    return hashed.hexdigest()[:16]


def differences(expected: Mapping[str, str], found: Mapping[str, str]) -> str:
    """Files that differ, for people; empty if none does."""
    names = sorted(expected.keys() | found.keys())
    return ", ".join(name for name in names if expected.get(name) != found.get(name))
