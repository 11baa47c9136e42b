"""A schema with every kind of field, inputs for it, and a small config."""

from dataclasses import Field, field, fields, make_dataclass, replace
from typing import get_type_hints

import pytest
import torch

from deepfm.config import (
    AttentionConfig,
    CINConfig,
    DNNConfig,
    ExperimentConfig,
    FeatureConfig,
)
from deepfm.data.batch import Inputs
from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.errors import ArgumentError, ConfigError
from deepfm.models import MODELS, build_model
from deepfm.models.options import (
    DBMTLSection,
    ESMMSection,
    LevelConfig,
    MaskedCrossConfig,
    MMoESection,
    ModelConfig,
    NetworkConfig,
    PLESection,
    SharedBottomSection,
)


@pytest.fixture
def schema() -> DatasetSchema:
    """All kinds of fields, interleaved; dims below, at and above D = 4; names of torch methods.

    Two tables are shared: `items` by a sequence and an id, `key` by two sequences.
    """
    fields = [
        FieldSchema(name="user", feature_type="sparse", vocabulary_size=12, embedding_dim=4),
        FieldSchema(name="price", feature_type="dense"),
        FieldSchema(
            name="items", feature_type="sequence", vocabulary_size=9, embedding_dim=4, max_length=5
        ),
        FieldSchema(name="type", feature_type="sparse", vocabulary_size=7, embedding_dim=3),
        FieldSchema(
            name="age of user", feature_type="dense", embedding_dim=6, dense_embedding="linear"
        ),
        FieldSchema(
            name="tags",
            feature_type="sequence",
            vocabulary_size=8,
            embedding_dim=2,
            max_length=3,
            combiner="max",
        ),
        FieldSchema(name="distance", feature_type="dense"),
        FieldSchema(
            name="clicks",
            feature_type="dense",
            embedding_dim=4,
            dense_embedding="piecewise",
            edges=(-1.0, 0.0, 0.25, 2.0),
        ),
        FieldSchema(
            name="position",
            feature_type="dense",
            embedding_dim=3,
            value_dim=2,
            dense_embedding="piecewise",
            edges=(-0.5, 1.0),
        ),
        FieldSchema(
            name="depth",
            feature_type="dense",
            embedding_dim=4,
            dense_embedding="periodic",
            frequencies=3,
        ),
        FieldSchema(
            name="children",
            feature_type="sparse",
            vocabulary_size=5,
            embedding_dim=4,
            padding_idx=None,
        ),
        FieldSchema(
            name="keys",
            feature_type="sequence",
            vocabulary_size=6,
            embedding_dim=5,
            embedding_name="key",
            max_length=4,
            combiner="sum",
            padding_idx=None,
        ),
        FieldSchema(
            name="item",
            feature_type="sparse",
            vocabulary_size=9,
            embedding_dim=4,
            embedding_name="items",
        ),
        FieldSchema(
            name="training", feature_type="dense", embedding_dim=4, dense_embedding="linear"
        ),
        FieldSchema(
            name="views",
            feature_type="dense",
            embedding_dim=4,
            dense_embedding="piecewise",
            edges=(0.0, 0.5),
        ),
        FieldSchema(
            name="locks",
            feature_type="sequence",
            vocabulary_size=6,
            embedding_dim=5,
            embedding_name="key",
            max_length=2,
            padding_idx=None,
        ),
    ]
    return DatasetSchema(fields={field.name: field for field in fields}, label_field="label")


@pytest.fixture
def inputs(schema) -> Inputs:
    return random_inputs(schema, 4)


TOWER = {"tower": DNNConfig(hidden_units=(8,), dropout=0.0)}


@pytest.fixture
def config() -> ExperimentConfig:
    """Small branches, no dropout, batch norm; `feature.fm_embedding_dim` is 4."""
    return experiment(
        feature=FeatureConfig(fm_embedding_dim=4, embedding_l2_reg=0.1),
        dnn=DNNConfig(hidden_units=(16, 8), dropout=0.0),
        cin=CINConfig(layer_sizes=(5, 4, 3)),
        attention=AttentionConfig(num_heads=2, attention_dim=6, num_layers=2),
        fcn=MaskedCrossConfig(dropout=0.0),
        shared_bottom=SharedBottomSection(bottom=small_network(16), tower=small_network(8)),
        mmoe=MMoESection(expert=small_network(12, 8), gate=small_network(6), **TOWER),
        ple=PLESection(
            levels={
                "one": LevelConfig(task_expert=small_network(12), shared_experts=2),
                "two": LevelConfig(task_expert=small_network(8), task_experts=1),
            },
            **TOWER,
        ),
        dbmtl=DBMTLSection(bottom=small_network(16), expert=small_network(12), **TOWER),
        esmm=ESMMSection(**TOWER),
    )


def random_inputs(schema: DatasetSchema, num_rows: int, seed: int = 0) -> Inputs:
    """Rows in which unknown ids, padding inside a sequence and empty sequences occur.

    Beyond a sequence's length stand arbitrary ids, which must not count.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, shape, generator=generator)

    sparse = [draw(field.vocabulary_size, num_rows) for field in schema.sparse_fields]
    lengths = [draw(field.max_length + 1, num_rows) for field in schema.sequence_fields]
    if num_rows > 1:
        for length, field in zip(lengths, schema.sequence_fields, strict=True):
            length[0], length[1] = 0, field.max_length
    return Inputs(
        sparse=torch.stack(sparse, 1) if sparse else torch.zeros(num_rows, 0, dtype=torch.int64),
        dense=torch.randn(
            num_rows, sum(field.value_dim for field in schema.dense_fields), generator=generator
        ),
        sequence_ids=tuple(
            draw(field.vocabulary_size, num_rows, field.max_length)
            for field in schema.sequence_fields
        ),
        sequence_lengths=tuple(lengths),
    )


# Models that can predict one thing; ESMM predicts three.
OF_ONE_TASK = [name for name in MODELS if name != "esmm"]


def small_network(*hidden_units: int, **values) -> DNNConfig:
    return DNNConfig(hidden_units=hidden_units, **({"dropout": 0.0} | values))


def _sections() -> list[tuple[str, type, Field]]:
    """What the options of some model have beside those of a network, each once."""
    known = {item.name for item in fields(NetworkConfig)}
    found: dict[str, tuple[str, type, Field]] = {}
    for entry in MODELS.values():
        types = get_type_hints(entry.options)
        for item in fields(entry.options):
            if item.name not in known:
                copy = field(default=item.default, default_factory=item.default_factory)
                own = found.setdefault(item.name, (item.name, types[item.name], copy))
                assert own[1] == types[item.name], f"two sections are called {item.name}"
    return list(found.values())


# The sections of all models, so that a test can go from one model to another.
EveryConfig = make_dataclass(
    "EveryConfig", _sections(), bases=(NetworkConfig,), frozen=True, kw_only=True
)


def _every(name: str) -> type[ModelConfig]:
    """A model's options among those of all."""
    branches = property(lambda self: own_options(self).branch_names)
    return type(name, (EveryConfig,), {"name": name, "branch_names": branches})


def own_options(config: ModelConfig) -> ModelConfig:
    """Those options among all that the model has, in a class of its own."""
    own = MODELS[config.name].options
    return own(**{item.name: getattr(config, item.name) for item in fields(own)})


EVERY = {name: _every(name) for name in MODELS}


def experiment(model_name: str = "deepfm", **values) -> ExperimentConfig:
    """A config from its sections and keys, those of the model among them."""
    return replaced(ExperimentConfig(model=EVERY[model_name]()), **values)


def replaced(config: ExperimentConfig, **values) -> ExperimentConfig:
    """A copy of a config with other sections or keys, those of the model or `model_name` too."""
    model = vars(config.model)
    model_class = EVERY[values.pop("model_name", config.model_name)]
    model = model | {key: values.pop(key) for key in list(values) if key in model_class().to_dict()}
    return replace(config, model=model_class(**model), **values)


def changed(config: ExperimentConfig, section: str, **values) -> ExperimentConfig:
    """A copy of a config with some values of one section replaced."""
    owner = config.model if hasattr(config.model, section) else config
    try:
        return replaced(config, **{section: replace(getattr(owner, section), **values)})
    except ArgumentError as error:  # as the reader of a file places it
        raise ConfigError(error.problem, key=f"{section}.{error.argument}") from None


def shaken(schema: DatasetSchema, config: ExperimentConfig):
    """A model in evaluation mode whose biases, norms and statistics are not as they begin."""
    model = build_model(schema, config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("embedding.tables"):  # whose padding is 0
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        for _ in range(3):
            model(random_inputs(schema, 32, seed=3))
    return model.eval()
