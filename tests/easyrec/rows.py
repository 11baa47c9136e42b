"""Rows of a pipeline's columns, generated from what its features declare."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from deepfm.easyrec import overrides, reading
from deepfm.easyrec.features import EXPRESSING, fg_mode
from deepfm.easyrec.pipeline_pb2 import FG_NONE
from deepfm.easyrec.reading import Pipeline

MOST_ROWS = 1000  # of a table, by the changes below
LONGEST = 6  # steps of a sequence


def capped(path: Path) -> list[str]:
    """Changes that make the tables of a pipeline small enough for a test."""
    pipeline, found = reading.read(path), []
    ids = [c.id_feature for c in pipeline.message.feature_configs if c.HasField("id_feature")]
    for option in ("num_buckets", "hash_bucket_size"):
        if any(getattr(feature, option) > MOST_ROWS for feature in ids):
            chosen = f"feature_configs[id_feature.{option}>{MOST_ROWS}]"
            found.append(f"{chosen}.id_feature.{option}={MOST_ROWS}")
    for k, config in enumerate(pipeline.message.feature_configs):
        for option in ("num_buckets", "hash_bucket_size"):
            steps = config.sequence_feature.features
            if any(getattr(step.id_feature, option) > MOST_ROWS for step in steps):
                chosen = f"feature_configs[{k}].sequence_feature"
                below = f"features[id_feature.{option}>{MOST_ROWS}].id_feature.{option}"
                found.append(f"{chosen}.{below}={MOST_ROWS}")
    return found


def rows_of(path: Path, changes: list[str], count: int, seed: int) -> pa.Table:
    """The columns that a changed pipeline reads."""
    pipeline = reading.read(path)
    overrides.apply(pipeline, changes)
    rng = np.random.default_rng(seed)
    columns: dict[str, object] = {}
    for config in pipeline.message.feature_configs:
        kind = config.WhichOneof("feature")
        message = getattr(config, kind)
        if kind == "sequence_feature":
            lengths = rng.integers(0, LONGEST, count)
            for step in message.features:
                feature = getattr(step, step.WhichOneof("feature"))
                name = f"{message.sequence_name}__{column_of(pipeline, feature)}"
                steps = [values(pipeline, feature, int(n), rng) for n in lengths]
                columns[name] = [
                    message.sequence_delim.join(map(str, np.ravel(row))) for row in steps
                ]
        else:
            column = list(values(pipeline, message, count, rng))
            if kind == "id_feature" and message.weighted:
                column = [f"{number}:0.5{message.separator}{number}:2" for number in column]
            columns[column_of(pipeline, message)] = column
    labels = list(pipeline.message.data_config.label_fields)
    for k, name in enumerate(labels):
        columns[name] = (rng.random(count) < 0.4 + 0.2 * k).astype(np.int64)
    return pa.table(columns)


def column_of(pipeline: Pipeline, feature) -> str:
    if fg_mode(pipeline) in EXPRESSING:
        return feature.expression.partition(":")[2]
    return feature.feature_name


def values(pipeline: Pipeline, feature, count: int, rng: np.random.Generator) -> np.ndarray:
    """As many values of an id or raw feature, as its mode has them."""
    if feature.DESCRIPTOR.name == "RawFeature":
        if not feature.boundaries:
            shape = (count, feature.value_dim) if feature.value_dim > 1 else count
            return rng.random(shape, np.float32)
        if fg_mode(pipeline) == FG_NONE:
            return rng.integers(0, len(feature.boundaries) + 1, count)
        return rng.uniform(0, 1.2 * max(feature.boundaries), count).astype(np.float32)
    return rng.integers(0, feature.num_buckets or feature.hash_bucket_size, count)


def write_rows(path: Path, changes: list[str], folder: Path, train: int, valid: int) -> list[str]:
    """Write both files; the changes that name them."""
    for name, count, seed in (("train", train, 1), ("valid", valid, 2)):
        pa.parquet.write_table(rows_of(path, changes, count, seed), folder / f"{name}.parquet")
    return [f"train_input_path={folder}/train.parquet", f"eval_input_path={folder}/valid.parquet"]
