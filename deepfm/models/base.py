"""What every model shares: views of the inputs in, one logit per row out.

Decided here: how a schema becomes the layers' specifications, and the one global bias. Layers
refuse a value with a ValueError that begins with their argument; `config_section` turns it into a
ConfigError about the key that the user wrote. Logits become probabilities in `outputs` alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepfm.config import DNNConfig, ExperimentConfig
from deepfm.data.batch import Inputs
from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema
from deepfm.errors import ConfigError, nearest
from deepfm.models.layers.dnn import ACTIVATIONS, MLP
from deepfm.models.layers.embedding import DenseSpec, FeatureEmbedding
from deepfm.models.layers.storage import (
    INITIALIZERS,
    TableSpec,
    initializer_from,
    logical_tables,
    wide_name,
)
from deepfm.models.outputs import named_outputs, prediction


class PairBranches(NamedTuple):
    """Says of a model that its logit is bias + first order + second order + DNN(flat embeddings).

    Attributes:
        dnn: What `dnn_branch` made.
        second_order: Whether the factorization machine's sum over all pairs of fields is there.
    """

    dnn: nn.Sequential
    second_order: bool


class BaseCTRModel(nn.Module, ABC):
    """The embedding, a global bias, and the branches of a subclass; logits, not probabilities.

    A subclass builds its branches in `_build_components` and adds their logits in
    `_forward_components`. Its properties `uses_first_order` and `uses_field_embeddings` declare
    which views it reads: there are no weights for a view that nobody reads.

    Args:
        schema: Fields with their vocabulary sizes, known once the encoders are fitted.
        config: `config.feature` shapes the embedding, the other sections the branches.

    Raises:
        ConfigError: A value cannot be used; names the key or the field.
    """

    def __init_subclass__(cls, **kwargs) -> None:
        """What a class says in `pair_branches` is not inherited by one that computes otherwise."""
        super().__init_subclass__(**kwargs)
        if not {"forward", "_forward_components"}.isdisjoint(vars(cls)):
            cls.pair_branches = vars(cls).get("pair_branches", BaseCTRModel.pair_branches)

    def __init__(self, schema: DatasetSchema, config: ExperimentConfig) -> None:
        super().__init__()
        self.schema = schema
        self.config = config
        fm_embedding_dim = config.feature.fm_embedding_dim if self.uses_field_embeddings else None
        self.embedding = FeatureEmbedding(
            field_specs(schema, config.feature.init),
            fm_embedding_dim=fm_embedding_dim,
            first_order=self.uses_first_order,
        )
        if self.uses_field_embeddings and self.embedding.num_fields == 0:
            raise ConfigError(
                f"model_name: {config.model_name} needs embedded fields, but all fields are raw "
                "dense ones; set dense_embedding: linear for some of them"
            )
        self.bias = nn.Parameter(torch.zeros(()))
        self._build_components()

    @property
    def uses_first_order(self) -> bool:
        return self.config.fm.use_first_order

    @property
    def uses_field_embeddings(self) -> bool:
        return True

    @abstractmethod
    def _build_components(self) -> None:
        """Make the branches from `self.embedding`'s dims and `self.config`."""

    @abstractmethod
    def _forward_components(
        self, first_order: Tensor, field_embeddings: Tensor | None, flat_embeddings: Tensor
    ) -> Tensor:
        """Logit (B,) from the views (B, 1), (B, F, D) and (B, total), without the bias."""

    def pair_branches(self) -> PairBranches | None:
        """What `pairs.PairScorer` needs to score users x items; None: only whole rows score."""
        return None

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits, (B,)."""
        return self.bias + self._forward_components(*self.embedding(*inputs))

    def outputs(self, inputs: Inputs) -> dict[str, Tensor]:
        """A forward pass under the names that `training.losses` give it; see `named_outputs`."""
        return named_outputs(self(inputs), self.config.training.losses)

    def predict(self, inputs: Inputs) -> Tensor:
        """Probabilities of class 1, (B,), in evaluation mode and without gradients.

        Of three classes or more, the probabilities of all, (B, C); where L2 is the only loss, the
        numbers themselves, (B,). The mode is restored.
        """
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            with torch.no_grad():
                return prediction(self(inputs), self.config.training.losses)
        finally:
            for module, mode in modes:
                module.training = mode

    def regularization_losses(self, batch_size: int) -> dict[str, Tensor]:
        """What the model adds to the loss of a batch of B rows, by name, ()."""
        return {}

    def get_l2_reg_loss(self, inputs: Inputs) -> Tensor:
        """The embedding's L2 penalty by `config.feature`, (), to be added to the mean loss."""
        feature = self.config.feature
        if feature.embedding_l2_reg == 0:
            return self.bias.new_zeros(())
        return self.embedding.l2_reg(
            *inputs, rate=feature.embedding_l2_reg, scope=feature.embedding_l2_scope
        )


def dnn_branch(in_features: int, config: DNNConfig) -> nn.Sequential:
    """An MLP and the linear map to its logit, (B, in_features) -> (B, 1).

    The output has no bias: the model's global one is already there.
    """
    if config.activation not in ACTIVATIONS:
        hint = nearest(config.activation, ACTIVATIONS)
        raise ConfigError(f"dnn.activation: unknown activation {config.activation!r}; {hint}")
    if config.use_batch_norm and config.use_layer_norm:
        raise ConfigError("dnn.use_layer_norm: one norm per layer; set dnn.use_batch_norm: false")
    norm = "batch" if config.use_batch_norm else "layer" if config.use_layer_norm else None
    with config_section("dnn"):
        mlp = MLP(
            in_features,
            config.hidden_units,
            activation=config.activation,
            norm=norm,
            dropout=config.dropout,
        )
    return nn.Sequential(mlp, output_linear(mlp.output_dim))


def output_linear(in_features: int) -> nn.Linear:
    """The map from a branch's output to its logit, Xavier uniform, without bias."""
    linear = nn.Linear(in_features, 1, bias=False)
    nn.init.xavier_uniform_(linear.weight)
    return linear


def field_specs(schema: DatasetSchema, initializer: str) -> list[TableSpec | DenseSpec]:
    """The embedding layer's specifications, in schema order.

    Raises:
        ConfigError: A vocabulary is not known yet, two tables would have one name, fields
            disagree about the table that they share, or the initializer is unknown.
    """
    try:
        initializer_from(initializer)
    except ValueError:
        hint = nearest(initializer, INITIALIZERS)
        raise ConfigError(f"feature.init: unknown initializer {initializer!r}; {hint}") from None
    specs = [_field_spec(field, initializer) for field in schema.fields.values()]
    try:
        tables = logical_tables([spec for spec in specs if isinstance(spec, TableSpec)])
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for name in tables:
        if (clash := tables.get(wide_name(name))) is not None:
            raise ConfigError(
                f"field {clash.name}: its table has the name of the first-order table of {name}, "
                f"{wide_name(name)}; rename one of them"
            )
    return specs


def _field_spec(field: FieldSchema, initializer: str) -> TableSpec | DenseSpec:
    if field.feature_type is FeatureType.DENSE:
        return DenseSpec(field.name, field.embedding_dim if field.is_embedded else None)
    if field.vocabulary_size < 1:
        raise ConfigError(f"field {field.name}: vocabulary_size is 0; fit the encoders first")
    return TableSpec(
        name=field.name,
        rows=field.vocabulary_size,
        dim=field.embedding_dim,
        padding_idx=field.padding_idx,
        combiner=field.combiner if field.feature_type is FeatureType.SEQUENCE else None,
        initializer=initializer,
        table=field.embedding_name,
    )


@contextmanager
def config_section(section: str) -> Iterator[None]:
    """Report what a layer refuses as a ConfigError about a key of this section."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{section}.{error}") from None
