"""Rows and labels in memory to a checkpoint: what `fit` of a scikit-learn estimator does.

Fields and settings are those that `describe` guesses from the rows that train; whatever an
estimator is given says otherwise. No file is read or written.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from deepfm.checkpoint import Checkpoint
from deepfm.config import ExperimentConfig, config_from_dict
from deepfm.data.dataset import TabularDataset
from deepfm.data.declared import declared_schema
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.labels import mean_and_deviation
from deepfm.data.sampling import Interactions
from deepfm.data.schema import DatasetSchema, LabelScale
from deepfm.data.sources.describe import Description, LabelGuess, Wishes, describe_labelled
from deepfm.data.sources.tables import SideTables, id_field
from deepfm.data.sources.tabular import first_rows
from deepfm.errors import ConfigError, DataError
from deepfm.models import build_model
from deepfm.preflight import check_settings, resolve_device, settle
from deepfm.training.initial_bias import start_at_base_rate
from deepfm.training.trainer import Trainer

LABEL = "target"
# What `fit` is given, or is an argument of the estimator's own.
_NOT_SETTINGS = ("data", "tasks", "num_class", "model_name", "seed", "output_dir", "format_version")


class Labelled(NamedTuple):
    """Rows with what is to be predicted of them.

    Attributes:
        rows: N rows.
        label: Number of the class, or any number, (N,).
        weight: (N,), above 0; None: all rows alike.
    """

    rows: pa.Table
    label: np.ndarray
    weight: np.ndarray | None = None

    def where(self, is_chosen: np.ndarray) -> "Labelled":
        """The rows of a mask, (N,) bool."""
        weight = None if self.weight is None else self.weight[is_chosen]
        return Labelled(self.rows.filter(pa.array(is_chosen)), self.label[is_chosen], weight)


class Wanted(NamedTuple):
    """What an estimator is told about its model.

    Attributes:
        model: Its name.
        settings: Of a config, nested or with dotted keys.
        fields: As below `data.table.fields`; None: they are guessed.
        classes: Names of the classes, of two the positive one last; empty: numbers are predicted.
        seed: Of weights, order and dropout.
        user, item, time: Columns.
    """

    model: str
    settings: Mapping[str, Any]
    fields: Mapping[str, Mapping[str, Any]] | None
    classes: tuple[str, ...]
    seed: int
    user: str | None
    item: str | None
    time: str | None

    @property
    def kind(self) -> str:
        """Of the label."""
        if not self.classes:
            return "number"
        return "binary" if len(self.classes) <= 2 else "class"


class Fitted(NamedTuple):
    """A trained model, and how it came about.

    Attributes:
        checkpoint: All that prediction needs.
        history: An entry per epoch.
    """

    checkpoint: Checkpoint
    history: list[dict[str, Any]]


def fitted(train: Labelled, valid: Labelled | None, wanted: Wanted) -> Fitted:
    """Train a model.

    Args:
        train: The rows it learns from.
        valid: Those by which training stops early, and the best epoch is kept; their weights count
            nothing. None: all epochs are trained, and the last one is kept.

    Raises:
        ConfigError: A setting is wrong.
        DataError: A value cannot be read.
        DeepFMError: The loss became NaN.
    """
    config = config_of(train, wanted, stops_early=valid is not None)
    device = resolve_device(config.device)
    check_settings(config)
    config = settle(config, device)
    encoders = Encoders.fit(declared_schema(config), train.rows)
    if wanted.kind == "number":
        scale = LabelScale(*mean_and_deviation(train.label, train.weight))
        encoders = encoders.with_label_scales({LABEL: scale})
    learnt_from = _dataset(encoders, train)
    measured_by = learnt_from if valid is None else _dataset(encoders, valid)
    model = build_model(encoders.schema, config).to(device)
    if config.training.initial_bias == "base_rate":
        start_at_base_rate(model, learnt_from)
    trainer = Trainer(config.training, config.evaluation, seed=config.seed, device=device)
    state = trainer.fit(model, learnt_from, measured_by)
    every = train.rows
    if valid is not None:  # an item of held-out rows is an item, too
        columns = train.rows.column_names
        every = pa.concat_tables(
            [train.rows, valid.rows.select(columns)], promote_options="permissive"
        )
    users, items, history = _catalogue(encoders.schema, every)
    weights = {name: weight.cpu() for name, weight in model.state_dict().items()}
    checkpoint = Checkpoint(config, encoders, users, items, history, weights)
    return Fitted(checkpoint, _without_measures(state.history, valid is None))


def config_of(train: Labelled, wanted: Wanted, *, stops_early: bool) -> ExperimentConfig:
    """The experiment that the training rows stand for.

    Raises:
        ConfigError: A setting is wrong, or there are columns for a user or an item alone.
    """
    for key in wanted.settings:
        if (section := key.split(".")[0]) in _NOT_SETTINGS:
            raise ConfigError("what it says is an argument of the estimator", key=section)
    found = describe_labelled(
        train.rows, _label_guess(train.label, wanted), wishes=Wishes(
            user=wanted.user, item=wanted.item, time=wanted.time
        )
    )  # fmt: skip
    fields = _guessed(found) if wanted.fields is None else dict(wanted.fields)
    raw: dict[str, Any] = {"model_name": wanted.model, "seed": wanted.seed, **found.settings}
    raw["data"] = {
        "dataset_name": "tabular",
        "split_strategy": "random",
        "table": {
            "files": "rows.parquet",  # there is none; rows are in memory
            "label": LABEL,
            "labels": {LABEL: _label_rule(train.rows, wanted)},
            "user_field": _field_of(fields, wanted.user),
            "item_field": _field_of(fields, wanted.item),
            "fields": fields,
        },
    }
    if not stops_early:
        raw["training"] |= {"early_stopping_patience": None, "keep": "last"}
        raw["evaluation"] = raw.get("evaluation", {}) | {"max_batches": 1}
    for key, value in wanted.settings.items():
        _set(raw, key.split("."), value)
    return config_from_dict(raw)


def _label_guess(label: np.ndarray, wanted: Wanted) -> LabelGuess:
    values = label.astype(np.float64)
    return LabelGuess(None, wanted.kind, None, None, wanted.classes, values, "given")


def _label_rule(rows: pa.Table, wanted: Wanted) -> dict[str, Any]:
    """What the config says of the label, whose column has a name that no other has."""
    column = "y"
    while column in rows.column_names:
        column += "_"
    if wanted.kind == "number":
        return {"column": column, "kind": "number", "standardize": True}
    if wanted.kind == "class":
        return {"column": column, "kind": "class", "classes": list(wanted.classes)}
    if len(wanted.classes) == 2 and wanted.classes != ("0", "1"):
        return {"column": column, "positive": wanted.classes[1]}
    return {"column": column}


def _guessed(found: Description) -> dict[str, dict[str, Any]]:
    """The fields that `describe` would declare, or if it would declare none all of them.

    New rows may lack values that all training rows have, and have numbers without a logarithm.
    """
    kept = [field for field in found.fields if not field.against] or found.fields
    fields = {}
    for field in kept:
        settings = dict(field.settings)
        if settings["type"] == "dense":
            settings.setdefault("missing", "mean")
            if settings.get("scale") == "log1p":
                settings.setdefault("bad_values", "unknown")
        fields[field.name] = settings
    return fields


def _field_of(fields: Mapping[str, Mapping[str, Any]], column: str | None) -> str | None:
    """The field that reads the ids of a column.

    Raises:
        ConfigError: None does.
    """
    if column is None:
        return None
    for name, settings in fields.items():
        if settings.get("column", name) == column and "transform" not in settings:
            return name
    raise ConfigError(f"no field reads {column}, which identifies a user or an item", key="fields")


def _set(raw: dict[str, Any], path: list[str], value: Any) -> None:
    """Set a key of nested data; what a mapping does not say stays."""
    *sections, last = path
    for section in sections:
        below = raw.get(section)
        raw[section] = raw = dict(below) if isinstance(below, Mapping) else {}
    if isinstance(value, Mapping) and isinstance(raw.get(last), Mapping):
        raw[last] = dict(raw[last])
        for key, item in value.items():
            _set(raw[last], [key], item)
    else:
        raw[last] = dict(value) if isinstance(value, Mapping) else value


def _dataset(encoders: Encoders, given: Labelled) -> TabularDataset:
    def column(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.float32))

    weight = None if given.weight is None else column(given.weight)
    inputs = encoders.encode(given.rows)
    return TabularDataset(encoders.schema, inputs, column(given.label), weight=weight)


def _catalogue(
    schema: DatasetSchema, rows: pa.Table
) -> tuple[pa.Table | None, pa.Table | None, Interactions | None]:
    """Users, items, and who had a row with what, of data that names both.

    Raises:
        DataError: No row has both.
    """
    if schema.user_field is None or schema.item_field is None:
        return None, None, None
    ids = [id_field(schema, side).column for side in ("user", "item")]
    known = rows.filter(pc.and_(*(rows[name].is_valid() for name in ids)))
    if not len(known):
        raise DataError(f"no row has both {ids[0]} and {ids[1]}")
    users, items = (
        first_rows(schema, known, side, name)
        for side, name in zip(("user", "item"), ids, strict=True)
    )
    tables = SideTables(users, items)
    user, item = (tables.positions(schema, known, side).to_numpy() for side in ("user", "item"))
    history = Interactions(user, item, num_users=len(users), num_items=len(items))
    return users, items, history


def _without_measures(history: list[dict[str, Any]], has_none: bool) -> list[dict[str, Any]]:
    """The history, of a fit without held-out rows without what was measured on those that train."""
    if not has_none:
        return history
    kept = ("epoch", "train_loss", "lr", "seconds")
    return [{key: entry[key] for key in kept} for entry in history]
