"""The models by name; `build_model` makes one from a schema and a config.

A name leads to the model's options, which a config holds, and to its class, which is imported
when it is built: reading a config needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, NamedTuple

from deepfm.errors import ConfigError
from deepfm.models.options import (
    AttentionDeepFMConfig,
    AutoIntConfig,
    DBMTLConfig,
    DCNConfig,
    DCNv2Config,
    DeepFMConfig,
    DLRMConfig,
    ESMMConfig,
    FactorizationMachineConfig,
    FCNConfig,
    FinalMLPConfig,
    FinalNetConfig,
    FwFMConfig,
    LRConfig,
    MaskNetConfig,
    MMoEConfig,
    ModelConfig,
    MultiTowerConfig,
    MultiTowerDINConfig,
    PLEConfig,
    SharedBottomConfig,
    TF4CTRConfig,
    WideAndDeepConfig,
    WukongConfig,
    XDeepFMConfig,
)

if TYPE_CHECKING:
    from deepfm.config import ExperimentConfig
    from deepfm.data.schema import DatasetSchema
    from deepfm.models.base import BaseCTRModel


class Entry(NamedTuple):
    """A model in `MODELS`.

    Attributes:
        options: What a config says about it.
        place: Module and name of its class, as `module:Class`.
    """

    options: type[ModelConfig]
    place: str

    def load(self) -> "type[BaseCTRModel]":
        """Return the class, which is imported now."""
        module, _, name = self.place.partition(":")
        found: type[BaseCTRModel] = getattr(importlib.import_module(module), name)
        return found


MODELS: dict[str, Entry] = {
    "deepfm": Entry(DeepFMConfig, "deepfm.models.deepfm:DeepFM"),
    "xdeepfm": Entry(XDeepFMConfig, "deepfm.models.xdeepfm:XDeepFM"),
    "attention_deepfm": Entry(
        AttentionDeepFMConfig, "deepfm.models.attention_deepfm:AttentionDeepFM"
    ),
    "wide_and_deep": Entry(WideAndDeepConfig, "deepfm.models.wide_and_deep:WideAndDeep"),
    "lr": Entry(LRConfig, "deepfm.models.lr:LR"),
    "fm": Entry(FactorizationMachineConfig, "deepfm.models.fm:FM"),
    "masknet": Entry(MaskNetConfig, "deepfm.models.masknet:MaskNet"),
    "finalmlp": Entry(FinalMLPConfig, "deepfm.models.finalmlp:FinalMLP"),
    "finalnet": Entry(FinalNetConfig, "deepfm.models.finalnet:FinalNet"),
    "tf4ctr": Entry(TF4CTRConfig, "deepfm.models.tf4ctr:TF4CTR"),
    "wukong": Entry(WukongConfig, "deepfm.models.wukong:Wukong"),
    "dlrm": Entry(DLRMConfig, "deepfm.models.dlrm:DLRM"),
    "multi_tower": Entry(MultiTowerConfig, "deepfm.models.multi_tower:MultiTower"),
    "fwfm": Entry(FwFMConfig, "deepfm.models.fwfm:FwFM"),
    "dcn": Entry(DCNConfig, "deepfm.models.dcn:DCN"),
    "dcn_v2": Entry(DCNv2Config, "deepfm.models.dcn_v2:DCNv2"),
    "autoint": Entry(AutoIntConfig, "deepfm.models.autoint:AutoInt"),
    "fcn": Entry(FCNConfig, "deepfm.models.fcn:FCN"),
    "multi_tower_din": Entry(MultiTowerDINConfig, "deepfm.models.multi_tower_din:MultiTowerDIN"),
    "shared_bottom": Entry(SharedBottomConfig, "deepfm.models.shared_bottom:SharedBottom"),
    "mmoe": Entry(MMoEConfig, "deepfm.models.mmoe:MMoE"),
    "ple": Entry(PLEConfig, "deepfm.models.ple:PLE"),
    "dbmtl": Entry(DBMTLConfig, "deepfm.models.dbmtl:DBMTL"),
    "esmm": Entry(ESMMConfig, "deepfm.models.esmm:ESMM"),
}


def build_model(schema: "DatasetSchema", config: "ExperimentConfig") -> "BaseCTRModel":
    """Return the model that a config names, on the CPU, with its initial weights.

    The weights are a function of schema, config and `config.seed`; torch's global random state
    is neither read nor changed.

    Raises:
        ConfigError: A value of the config or schema cannot be used.

    Example:
        >>> from deepfm.config import ExperimentConfig
        >>> from deepfm.data.schema import DatasetSchema, FieldSchema
        >>> city = FieldSchema(name="city", feature_type="sparse", vocabulary_size=10)
        >>> schema = DatasetSchema(fields={"city": city}, label_field="click")
        >>> type(build_model(schema, ExperimentConfig())).__name__
        'DeepFM'
    """
    import torch

    if config.model_name not in MODELS:
        raise ConfigError(f"{type(config.model).__name__} is of no model", key="model_name")
    model_class = MODELS[config.model_name].load()
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the accelerators' generators as well.
        torch.default_generator.manual_seed(config.seed)
        model = model_class(schema, config.model, config.task_list())
    model.scoring_precision = config.evaluation.precision
    return model


class ParameterCount(NamedTuple):
    """How many weights a model has.

    Attributes:
        dense: Of everything but the embedding tables.
        embedding, wide: Of the tables, without and with first-order weights: all their rows.
    """

    dense: int
    embedding: int
    wide: int


def count_parameters(schema: "DatasetSchema", config: "ExperimentConfig") -> ParameterCount:
    """Return how many weights a model has that is not made: nothing is allocated or drawn.

    Raises:
        ConfigError: As `build_model`.

    Example:
        >>> from deepfm.config import config_from_dict
        >>> from deepfm.data.schema import DatasetSchema, FieldSchema
        >>> city = FieldSchema(name="city", feature_type="sparse", vocabulary_size=10**12)
        >>> schema = DatasetSchema(fields={"city": city}, label_field="click")
        >>> count_parameters(schema, config_from_dict({"model_name": "wide_and_deep"})).wide
        1000000000000
    """
    import torch

    with torch.device("meta"):
        return parameters_of(build_model(schema, config))


def parameters_of(model: "BaseCTRModel") -> ParameterCount:
    """Return how many weights a model has; the zeros that stand for no value are none."""
    from deepfm.models.layers.tables import is_wide

    tables = model.embedding.tables
    of_tables = {id(parameter) for parameter in tables.parameters()}
    dense = sum(p.numel() for p in model.parameters() if id(p) not in of_tables)
    embedding = wide = 0
    for table in tables.logical.values():
        if is_wide(table.suffix):
            wide += table.rows * table.dim
        else:
            embedding += table.rows * table.dim
    return ParameterCount(dense, embedding, wide)
