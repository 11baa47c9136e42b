"""The models by name; `build_model` makes one from a schema and a config."""

from typing import NamedTuple

import torch

from deepfm.config import ExperimentConfig
from deepfm.data.schema import DatasetSchema
from deepfm.errors import ConfigError, nearest
from deepfm.models.attention_deepfm import AttentionDeepFM
from deepfm.models.base import BaseCTRModel
from deepfm.models.deepfm import DeepFM
from deepfm.models.layers.tables import EMBEDDING, WIDE
from deepfm.models.wide_and_deep import WideAndDeep
from deepfm.models.xdeepfm import XDeepFM

MODELS: dict[str, type[BaseCTRModel]] = {
    "deepfm": DeepFM,
    "xdeepfm": XDeepFM,
    "attention_deepfm": AttentionDeepFM,
    "wide_and_deep": WideAndDeep,
}


def build_model(schema: DatasetSchema, config: ExperimentConfig) -> BaseCTRModel:
    """The model that `config.model_name` names, on the CPU, with its initial weights.

    The weights are a function of schema, config and `config.seed`; torch's global random state
    is neither read nor changed.

    Raises:
        ConfigError: The name is unknown, or a value of the config or schema cannot be used.

    Example:
        >>> from deepfm.data.schema import FieldSchema
        >>> city = FieldSchema(name="city", feature_type="sparse", vocabulary_size=10)
        >>> schema = DatasetSchema(fields={"city": city}, label_field="click")
        >>> type(build_model(schema, ExperimentConfig(model_name="deepfm"))).__name__
        'DeepFM'
    """
    model_class = find_model(config)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the accelerators' generators as well.
        torch.default_generator.manual_seed(config.seed)
        return model_class(schema, config)


class ParameterCount(NamedTuple):
    """How many weights a model has.

    Attributes:
        dense: Of everything but the embedding tables.
        embedding, wide: Of the tables, without and with first-order weights: all their rows.
    """

    dense: int
    embedding: int
    wide: int


def count_parameters(schema: DatasetSchema, config: ExperimentConfig) -> ParameterCount:
    """The weights of a model that is not made: nothing is allocated and nothing drawn.

    Raises:
        ConfigError: As `build_model`.

    Example:
        >>> from deepfm.data.schema import FieldSchema
        >>> city = FieldSchema(name="city", feature_type="sparse", vocabulary_size=10**12)
        >>> schema = DatasetSchema(fields={"city": city}, label_field="click")
        >>> count_parameters(schema, ExperimentConfig(model_name="wide_and_deep")).wide
        1000000000000
    """
    with torch.device("meta"):
        return parameters_of(build_model(schema, config))


def parameters_of(model: BaseCTRModel) -> ParameterCount:
    """The weights of a model; the zeros that stand for no value are none."""
    tables = model.embedding.tables
    of_tables = {id(parameter) for parameter in tables.parameters()}
    dense = sum(p.numel() for p in model.parameters() if id(p) not in of_tables)
    sizes = {WIDE: 0, EMBEDDING: 0}
    for table in tables.logical.values():
        sizes[table.suffix] = sizes.get(table.suffix, 0) + table.rows * table.dim
    wide = sizes.pop(WIDE)
    return ParameterCount(dense, sum(sizes.values()), wide)


def find_model(config: ExperimentConfig) -> type[BaseCTRModel]:
    """The class that `config.model_name` names.

    Raises:
        ConfigError: The name is unknown.
    """
    if config.model_name not in MODELS:
        hint = nearest(config.model_name, MODELS)
        raise ConfigError(f"model_name: unknown model {config.model_name!r}; {hint}")
    return MODELS[config.model_name]
