"""Checkpoints that are used as one: which may be, and what scores rows for them.

Decided here: models of any kind may be averaged, as long as they read equal inputs and predict
the same: rows are encoded once, by the encoders of the first. The sizes of vectors are each
model's own. The calibration of one member says nothing of a mean, so that several are averaged as
they were trained.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from glob import has_magic
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepfm.checkpoint import Checkpoint, changed_keys, load_checkpoint
from deepfm.data.schema import DatasetSchema
from deepfm.errors import CheckpointError, shown
from deepfm.evaluation.calibration import Calibration
from deepfm.evaluation.members import Members
from deepfm.models.base import BaseCTRModel
from deepfm.objectives import Task
from deepfm.utils.logging import LOGGER
from deepfm.utils.places import AnyPath, matching, path_of

# What of a field shapes its vectors and not its ids.
_OF_VECTORS = (
    "embedding_dim", "embedding_name", "combiner", "dense_embedding", "bins", "edges",
    "frequencies", "frequency_scale", "init", "trainable", "min_count", "max_vocabulary",
)  # fmt: skip
# What of the data may differ: where it is, and what is drawn for training alone.
_OF_PLACES = (
    "data.data_dir", "data.auto_download", "data.store_dir", "data.verify", "data.rows",
    "data.num_neg_train",
    "data.num_neg_eval", "data.explicit_negatives", "data.negative_exclusion", "data.table.files",
    "data.table.valid_files", "data.table.test_files", "data.table.users.files",
    "data.table.items.files", "data.table.fields", "data.table.sample_weight",
    "data.table.package", "data.candidates", "data.negatives_shared", "data.negatives_from",
)  # fmt: skip


def expanded(patterns: Sequence[str]) -> list[str]:
    """File names or URIs, of those that may be patterns such as `outputs/*/best_model.pt`.

    Raises:
        CheckpointError: A pattern matches nothing, or a store does not say what it has.
    """
    found: list[str] = []
    for pattern in patterns:
        names = [pattern]
        if has_magic(pattern):
            try:
                names = [str(path) for path in matching(path_of(pattern))]
            except OSError as error:
                raise CheckpointError(f"{pattern}: cannot be listed: {error.strerror}") from None
        if not names:
            raise CheckpointError(f"{pattern}: no file has such a name")
        found += names
    return found


def load_several(
    paths: str | AnyPath | Checkpoint | Sequence[str | AnyPath],
) -> list[Checkpoint]:
    """One checkpoint, or several that agree.

    Args:
        paths: Of a file, or of several, or URIs; or a checkpoint that has been read, as it is.

    Raises:
        CheckpointError: There is none, one cannot be used, or two do not agree; the message names
            both files and their first difference.
    """
    if isinstance(paths, Checkpoint):
        return [paths]
    names = [paths] if isinstance(paths, str | AnyPath) else list(paths)
    if not names:
        raise CheckpointError("expected at least one checkpoint, found none")
    first, *others = map(load_checkpoint, names)
    for name, other in zip(names[1:], others, strict=True):
        if (problem := next(_differences(first, other), None)) is not None:
            raise CheckpointError(f"{names[0]} and {name} cannot be averaged: {problem}")
    return [first, *others]


def scorer_of(checkpoints: Sequence[Checkpoint]) -> BaseCTRModel | Members:
    """What scores rows: the model, or what is made of it by its calibration, or all of several."""
    models = tuple(checkpoint.build_model() for checkpoint in checkpoints)
    calibrations = checkpoints[0].calibration
    if len(models) == 1:
        return Members(models, calibrations) if calibrations else models[0]
    if count := sum(bool(checkpoint.calibration) for checkpoint in checkpoints):
        LOGGER.warning(
            f"{count} of {len(models)} checkpoints are calibrated, each for itself alone: the mean "
            "of their logits is taken before that, and is not calibrated"
        )
    return Members(models)


def calibration_lines(calibrations: Mapping[str, Calibration], split: str) -> Iterator[str]:
    """Says of a calibrated checkpoint what is applied to the logits of each task."""
    for task, found in calibrations.items():
        of_task = f"{task}: " if task else ""
        own = ", half of which it was fitted on" if split == found.split else ""
        yield (
            f"{of_task}calibrated ({found.described()}, fitted on {found.rows:,} rows of "
            f"{found.split}): these are figures of {split} after that{own}"
        )


def _differences(one: Checkpoint, other: Checkpoint) -> Iterator[str]:
    """Whatever forbids to average two checkpoints."""
    yield from _of_schemas(one.encoders.schema, other.encoders.schema)
    yield from _of_encoders(one, other)
    yield from _of_tasks(one, other)
    before, now = one.fingerprint, other.fingerprint
    if before is not None and now is not None:
        for role in before.parts.keys() & now.parts.keys():
            if before.content([role]) != now.content([role]):
                parts = zip(before.parts[role], now.parts[role], strict=False)
                names = [a.name for a, b in parts if a[1:] != b[1:]] or [role]
                yield f"{names[0]} had another content"
    sections = tuple(key for key in one.config.to_dict() if key != "data")
    yield from changed_keys(one.config, other.config, allowed=(*sections, *_OF_PLACES))
    for what in ("users", "items"):
        tables = getattr(one, what), getattr(other, what)
        if (tables[0] is None) != (tables[1] is None) or (
            tables[0] is not None and not tables[0].equals(tables[1])
        ):
            yield f"their tables of {what} differ"
    pairs = [None if c.history is None else c.history.pairs for c in (one, other)]
    if not _equal(*pairs):
        yield "what their users have interacted with differs"


def _of_schemas(one: DatasetSchema, other: DatasetSchema) -> Iterator[str]:
    if list(one.fields) != list(other.fields):
        odd = [name for name in one.fields if name not in other.fields]
        odd += [name for name in other.fields if name not in one.fields]
        yield f"only one has the field {odd[0]}" if odd else "their fields stand in another order"
        return
    for name, field in one.fields.items():
        before, now = asdict(field), asdict(other.fields[name])
        for key in before:
            if key not in _OF_VECTORS and before[key] != now[key]:
                yield f"field {name}: {key} ({shown(before[key])} and {shown(now[key])})"
    for key in DatasetSchema.__dataclass_fields__:
        values = getattr(one, key), getattr(other, key)
        if key != "fields" and not key.startswith("_") and values[0] != values[1]:
            yield f"{key} ({shown(values[0])} and {shown(values[1])})"


def _of_encoders(one: Checkpoint, other: Checkpoint) -> Iterator[str]:
    """Fields whose equal settings have learnt other values, such as another vocabulary."""
    fitted = [checkpoint.encoders.to_dict()["fitted"] for checkpoint in (one, other)]
    for field in one.encoders.schema.read_fields:
        name = field.name
        names = field.embedding_name, other.encoders.schema.fields[name].embedding_name
        if not _equal(*(part[key] for part, key in zip(fitted, names, strict=True))):
            what = "values" if field.vocabulary_size else "scale"
            yield f"field {name} has learnt another {what} from its training rows"


def _of_tasks(one: Checkpoint, other: Checkpoint) -> Iterator[str]:
    before, now = ({t.name: _meaning(t) for t in c.config.task_list()} for c in (one, other))
    if list(before) != list(now):
        yield f"tasks ({', '.join(before)} and {', '.join(now)})"
        return
    for name, meaning in before.items():
        for key, value in meaning.items():
            if value != now[name][key]:
                of_task = f"task {name}: " if name else ""
                yield f"{of_task}{key} ({shown(value)} and {shown(now[name][key])})"


def _meaning(task: Task) -> dict[str, Any]:
    """What the logits of a task stand for."""
    return {
        "label": task.label,
        "num_class": task.num_class,
        "classes": task.classes,
        "predicts": _predicts(task),
    }


def _predicts(task: Task) -> str:
    if task.by_pairs:
        return "an order"
    return "numbers" if task.predicts_numbers else "probabilities"


def _equal(one: object, other: object) -> bool:
    """Whether plain data and tensors are equal, whatever they are nested in."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)
