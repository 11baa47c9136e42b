"""A small data set with every kind of field, and the CLI with it: `python -m tests.tiny train …`.

The adapter is a module like any other: `schema()` and `load(data_dir, auto_download)`. Users like
the items of their own taste, so there is something to learn. A folder that does not exist counts
as missing data.
"""

import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml

from deepfm.data import ADAPTERS
from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema, RawTables
from deepfm.errors import MissingDataError
from deepfm.models import MODELS

NUM_USERS, NUM_ITEMS, NUM_EVENTS = 40, 60, 1200


def schema() -> DatasetSchema:
    fields = (
        FieldSchema("user", FeatureType.SPARSE, embedding_dim=8, group="user"),
        FieldSchema(
            "age", FeatureType.SPARSE, embedding_dim=4, group="user", transform="bucket(0, 30)"
        ),
        FieldSchema("income", FeatureType.DENSE, group="user"),
        FieldSchema("item", FeatureType.SPARSE, embedding_dim=8, group="item"),
        FieldSchema(
            "tags",
            FeatureType.SEQUENCE,
            embedding_dim=4,
            group="item",
            max_length=3,
            transform="split(|)",
        ),
        FieldSchema(
            "price", FeatureType.DENSE, embedding_dim=4, group="item", dense_embedding="linear"
        ),
    )
    return DatasetSchema(
        fields={field.name: field for field in fields},
        label_field="stars",
        user_field="user",
        item_field="item",
        time_column="time",
        item_title_column="title",
    )


def load(data_dir: Path, auto_download: bool) -> RawTables:
    if not data_dir.is_dir():
        raise MissingDataError(f"data_dir {data_dir} is not there")
    rng = np.random.default_rng(7)
    pairs = rng.permutation(NUM_USERS * NUM_ITEMS)[:NUM_EVENTS]
    user, item = np.divmod(pairs, NUM_ITEMS)
    likes = (user % 3 == item % 3) ^ (rng.random(NUM_EVENTS) < 0.1)
    interactions = pa.table(
        {
            "user": user,
            "item": item,
            "stars": np.where(likes, 5, 2),
            "time": rng.integers(0, 50, NUM_EVENTS),
        }
    )
    users = pa.table(
        {
            "user": np.arange(NUM_USERS),
            "age": rng.integers(10, 70, NUM_USERS),
            "income": rng.random(NUM_USERS),
        }
    )
    items = pa.table(
        {
            "item": np.arange(NUM_ITEMS),
            "title": [f"Item {k}" for k in range(NUM_ITEMS)],
            "tags": [["abc"[k % 3], "xyz"[k % 2]] for k in range(NUM_ITEMS)],
            "price": rng.random(NUM_ITEMS),
        }
    )
    return RawTables(interactions, users, items)


def write_config(folder: Path, name: str = "tiny", **changes: object) -> Path:
    """A config that trains in a second; `changes` are dotted keys with `__` for the dot."""
    config = {
        "output_dir": str(folder / "run"),
        "device": "cpu",
        "data": {"dataset_name": "tiny", "data_dir": str(folder), "num_neg_eval": 30},
        "dnn": {"hidden_units": [8, 4]},
        "cin": {"layer_sizes": [4, 4]},
        "attention": {"attention_dim": 8, "num_heads": 2},
        "training": {"epochs": 3, "batch_size": 128, "lr": 1e-2, "metric": "ndcg@10"},
    }
    for key, value in changes.items():
        *sections, last = key.split("__")
        below = config
        for section in sections:
            below = below.setdefault(section, {})
        below[last] = value
    model = MODELS.get(config.get("model_name", "deepfm"))
    for section in ("cin", "attention"):  # of other models
        if model is not None and section not in {item.name for item in fields(model.options)}:
            del config[section]
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def register() -> None:
    ADAPTERS["tiny"] = sys.modules[__name__]


if __name__ == "__main__":
    from deepfm.cli import main

    register()
    sys.exit(main())
