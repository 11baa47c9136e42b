"""What every model shares: views of the inputs in, logits of each row out.

Decided here: how the branches of a model become logits, and where the biases are. Objectives
make probabilities of logits. Layers refuse a value with an ArgumentError; `config_section` makes
it a ConfigError about the key that the user wrote.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from operator import add
from typing import ClassVar, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepfm.data.batch import Inputs
from deepfm.data.schema import DatasetSchema
from deepfm.easyrec.names import dropout_loss
from deepfm.errors import ArgumentError, ConfigError, nearest
from deepfm.models.features import build_embedding
from deepfm.models.layers.bilinear import BilinearFusion
from deepfm.models.layers.dnn import ACTIVATION_NAMES, MLP, initialize_linears
from deepfm.models.layers.embedding import FlatGroup, Views
from deepfm.models.layers.options import called
from deepfm.models.options import DNNConfig, ModelConfig, NetworkConfig
from deepfm.models.sequences import encoders_add_up
from deepfm.objectives import Logits, Task, logits_by_name
from deepfm.objectives.tasks import of_only_task

# What adds up to logits, but for the global bias: (B, C), or (B, 1), which counts alike in every
# class.
Parts: TypeAlias = dict[str, Tensor]
Layers = TypeVar("Layers", bound=nn.Module)


class PairBranches(NamedTuple):
    """Says of a model that its logit is bias + first order + second order + DNN(flat embeddings).

    Attributes:
        dnn: A network and its output layer; None: there is none, and the logit of a pair is a dot
            product.
        second_order: Whether the factorization machine's sum over all pairs of fields is there.
    """

    dnn: nn.Sequential | None
    second_order: bool

    @property
    def network(self) -> MLP:
        """The network, which there is, without its output layer."""
        assert self.dnn is not None
        network = self.dnn[0]
        assert isinstance(network, MLP)
        return network

    @property
    def hidden_width(self) -> int:
        """Width of the network's first layer, whose sums are kept for users and items; 0 without
        one."""
        return self.network.hidden_units[0] if self.dnn is not None else 0


class BaseCTRModel(nn.Module, ABC):
    """The embedding, a global bias, and the branches of a subclass; logits, not probabilities.

    A subclass builds its branches in `_build_components` and gives their outputs to `_fuse` in
    `_forward_components`; one that reads more than three views, in `_parts`. Its properties
    declare which views it reads: there are no weights for a view that nobody reads.

    Fusion is one choice for all models. Without `config.final` the branches' logits are added up;
    terms without weights of their own, such as the first-order term, count alike in every class.
    With it, the branches' outputs stand end to end, first order first, and a last network makes
    the logits. The bias is a global one, or with `global_bias: false` that of the output layer
    of the last network or of the DNN.

    Args:
        schema: Fields with their vocabulary sizes, known once the encoders are fitted.
        config: The model's own options; `config.feature` shapes the embedding, the other sections
            the branches.
        tasks: What it is trained to predict.

    Raises:
        ConfigError: A value cannot be used; names the key or the field.
    """

    several_tasks: ClassVar[bool] = False  # whether `forward` gives logits by the tasks' names
    several_classes: ClassVar[bool] = True  # whether a row may have a logit for each class
    is_frozen = False  # whether it is for evaluation only, as `deepfm.models.frozen` makes it
    scoring_precision: str = "fp32"  # `evaluation.precision`, which the scoring loop reads

    def __init__(
        self, schema: DatasetSchema, config: ModelConfig, tasks: Sequence[Task] = (Task(),)
    ) -> None:
        super().__init__()
        self.schema = schema
        self.config = config
        self.tasks = tuple(task.fitted(schema) for task in tasks)
        # whose outputs are added to the bias
        self.output_layers: list[nn.Linear | BilinearFusion] = []
        if len(tasks) > 1 and not self.several_tasks:
            raise ConfigError(
                f"{config.name} predicts one, found {', '.join(task.name for task in tasks)}",
                key="tasks",
            )
        if self.num_class > 1 and not self.several_classes:
            raise ConfigError(
                f"{config.name} has one logit per row, found {self.num_class} classes",
                key="num_class",
            )
        self.embedding = build_embedding(
            schema,
            config.feature,
            model_name=config.name,
            first_order=self.uses_first_order,
            field_group=self.field_group if self.uses_field_embeddings else None,
            required=self.required_groups,
            flat_embeddings=self.uses_flat_embeddings,
            flat_groups=self.flat_groups,
            sequences=self.sequences,
        )
        shape = (self.num_class,) if self.num_class > 1 else ()
        self.bias = nn.Parameter(torch.zeros(shape)) if self.has_global_bias else None
        self._build_components()
        self.final = None
        if self.has_network and (final := self.networks.final) is not None:
            width = self.uses_first_order + self.interaction_dim + self.deep_width
            network = make_network(width, final, "final")
            self.final = nn.Sequential(network, self._output_linear(network.output_dim))

    @property
    def networks(self) -> NetworkConfig:
        """What the config says about the networks of a model that has some."""
        assert isinstance(self.config, NetworkConfig)
        return self.config

    @property
    def has_global_bias(self) -> bool:
        """Whether one bias is added to the logits, and no output layer has one of its own."""
        return not self.has_network or self.networks.global_bias

    @property
    def num_class(self) -> int:
        """Logits per row of the first task."""
        return self.tasks[0].num_class

    @property
    def uses_first_order(self) -> bool:
        return True

    @property
    def uses_field_embeddings(self) -> bool:
        return True

    @property
    def has_network(self) -> bool:
        """Whether a network reads the flat embeddings, and the config says what `networks` are."""
        return True

    @property
    def uses_flat_embeddings(self) -> bool:
        return self.has_network

    @property
    def field_group(self) -> str:
        """The group whose vectors the field embeddings are: `fm`, `wide` or one of its own."""
        return "fm"

    @property
    def flat_groups(self) -> Mapping[str, FlatGroup | None]:
        """Further flat views that `_parts` reads, by name of the group.

        Each with the fields that it has where the config names none: None stands for those of
        `flat_embeddings`.
        """
        return {}

    @property
    def sequences(self) -> Sequence[str]:
        """Names of the sequences that `_parts` reads, beside those that encoders read."""
        return ()

    @property
    def tower_names(self) -> Sequence[str]:
        """What its `towers` are for, if it has any: a task, or a group of fields."""
        return [task.name for task in self.tasks]

    @property
    def required_groups(self) -> tuple[str, ...]:
        """What `feature.groups` must name, if it names any."""
        return ("deep",)

    @property
    def interaction_dim(self) -> int:
        """Width of what `_fuse` gets as interactions; 0 for None."""
        return 0

    @property
    def deep_width(self) -> int:
        """Width of what `final` gets of the networks, or of the one network, below it."""
        return self.networks.dnn.hidden_units[-1]

    @property
    def output_bias(self) -> nn.Parameter | None:
        """The bias that every logit has: the global one, or that of the last output layer."""
        if self.bias is not None:
            return self.bias
        maps = [layer for layer in self.output_layers if isinstance(layer, nn.Linear)]
        biases = [layer.bias for layer in maps if layer.bias is not None]
        return biases[-1] if biases else None

    @property
    def output_biases(self) -> dict[str, nn.Parameter]:
        """The bias that every logit of a task has, by task; without tasks that have none."""
        return {} if self.output_bias is None else {self.tasks[0].name: self.output_bias}

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @abstractmethod
    def _build_components(self) -> None:
        """Make the branches from `self.embedding`'s dims and `self.config`."""

    def _forward_components(
        self, first_order: Tensor, field_embeddings: Tensor | None, flat_embeddings: Tensor
    ) -> Parts:
        """Parts of the logits from the views (B, 1), (B, F, D) and (B, total)."""
        raise NotImplementedError(f"{type(self).__name__} needs _forward_components, or _parts")

    def _parts(self, views: Views) -> Parts:
        """Parts of the logits from all views."""
        return self._forward_components(
            views.first_order, views.field_embeddings, views.flat_embeddings
        )

    def _with_auxiliary(self, views: Views) -> tuple[Parts, dict[str, Tensor]]:
        """The same, and the logits (B,) of `config.branch_names`, which losses read in training."""
        return self._parts(views), {}

    def _fuse(
        self,
        first_order: Tensor,
        interactions: Tensor | None,
        deep: Tensor | None,
        **logits: Tensor,
    ) -> Parts:
        """Parts of the logits, of what the branches gave.

        Args:
            first_order: (B, 1).
            interactions: (B, interaction_dim); None: the model has none. In a sum of logits they
                count with their sum.
            deep: What the module of `_dnn_branch` gave; None: the model has none.
            **logits: Of branches with output layers of their own, (B, C); none where there is a
                final network.
        """
        if self.final is not None:
            outputs = [first_order] if self.uses_first_order else []  # zero without a group wide
            outputs += [part for part in (interactions, deep) if part is not None]
            return {"final": self.final(torch.cat(outputs, dim=1))}
        parts = {"first_order": first_order} if self.uses_first_order else {}
        parts |= logits
        if deep is not None:
            parts["dnn"] = deep  # (B, C)
        if interactions is not None:
            parts["interactions"] = interactions.sum(1, keepdim=True)
        return parts

    def _sum(self, parts: Parts) -> Tensor:
        """Logits, (B,) for one class and (B, C) for more."""
        logits = reduce(add, parts.values()).squeeze(1)  # which leaves (B, C) alone unless C is 1
        return logits if self.bias is None else self.bias + logits

    def _dnn_branch(self, in_features: int) -> nn.Sequential:
        """The deep branch, (B, in_features) -> logits (B, C), or its hidden units for `final`."""
        network = make_network(in_features, self.networks.dnn, "dnn")
        if self.networks.final is not None:
            return nn.Sequential(network)
        return nn.Sequential(network, self._output_linear(network.output_dim))

    def _output_linear(self, in_features: int, *, bias: bool = True) -> nn.Linear:
        """The map from a branch's output to logits; without a bias where there is a global one."""
        bias = bias and not self.has_global_bias and self.networks.output_bias
        linear = nn.Linear(in_features, self.num_class, bias=bias)
        init = "xavier_uniform"
        if self.has_network:
            init = (self.networks.final or self.networks.dnn).init
        initialize_linears([linear], init)
        self.output_layers.append(linear)
        return linear

    def first_order_weights(self) -> list[Tensor]:
        """Return the weights that add up to a term of the logit, field by field; no gradient."""
        adds_up = self.final is None and self.uses_first_order
        return self.embedding.first_order_weights() if adds_up else []

    @property
    def adds_up_over_fields(self) -> bool:
        """Whether nothing in the config keeps the logit from being what `PairBranches` says."""
        feature = self.config.feature
        plain = self.final is None and self.num_class == 1 and self.has_global_bias
        plain = plain and feature.variational_dropout is None
        return plain and not feature.groups and encoders_add_up(self.schema, feature)

    def pair_branches(self) -> PairBranches | None:
        """Return what `pairs.PairScorer` needs to score users x items; None: only whole rows score.

        A class that computes otherwise than the one above it does not inherit what that one says
        in `_pair_branches`.
        """
        for cls in type(self).__mro__:
            if "_pair_branches" in vars(cls):
                return self._pair_branches()
            if {"forward", "_forward_components", "_parts"} & vars(cls).keys():
                break
        return None

    def _pair_branches(self) -> PairBranches | None:
        """What a class says of its own forward pass."""
        return None

    def forward(self, inputs: Inputs) -> Tensor | dict[str, Tensor]:
        """Return logits, (B,) for one class and (B, C) for more; of several tasks by name."""
        return self._sum(self._parts(self.embedding(*inputs)))

    def branches(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return named parts that add up to the logits, the global bias first; each is (B,) or
        (B, C).

        A model whose branches meet in a network has one part beside the bias. Of several tasks
        there are none.
        """
        if self.several_tasks:
            raise ConfigError(f"the logits of {self.config.name} have no parts", key="model_name")
        parts = self._parts(self.embedding(*inputs))
        rows = next(iter(parts.values())).shape[0]
        if self.bias is not None:
            shape = (rows, self.num_class)
            parts = {"bias": self.bias.expand(shape), **parts}
        wide = max(part.shape[1] for part in parts.values())
        return {name: part.expand(rows, wide).squeeze(1) for name, part in parts.items()}

    def located(self, inputs: Inputs) -> Inputs:
        """Return rows on the CPU with what can be found of their tables before a forward pass."""
        found = self.embedding.located(inputs.sparse, inputs.padded_ids, inputs.sequence_lengths)
        return inputs._replace(located=found)

    def training_logits(self, inputs: Inputs) -> Logits:
        """Return the logits that the losses read, by name.

        Those are the logits of each task, whose name is "" where there is one, and those of the
        branches that `config.branch_names` has.
        """
        if not self.config.branch_names:
            return logits_by_name(self(inputs))
        parts, auxiliary = self._with_auxiliary(self.embedding(*inputs))
        return {self.tasks[0].name: self._sum(parts), **auxiliary}

    def outputs(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return a forward pass under the names that the losses give it; see `Task.outputs`."""
        logits = logits_by_name(self(inputs))
        found: dict[str, Tensor] = {}
        for task in self.tasks:
            found |= task.outputs(logits)
        return found

    def predict(self, inputs: Inputs) -> Tensor | dict[str, Tensor]:
        """Return probabilities of class 1, (B,), in evaluation mode and without gradients.

        Of three classes or more, the probabilities of all, (B, C); where numbers are predicted,
        those, (B,). Of several tasks, a dict by their names. The mode is restored.
        """
        with evaluation_mode(self), torch.no_grad():
            logits = logits_by_name(self(inputs))
            found = {task.name: task.prediction(logits) for task in self.tasks}
        return found if len(found) > 1 else of_only_task(found)

    def check_labels(self, label: Tensor, row: NDArray[np.int64]) -> None:
        """Refuse labels that the losses of a task, or the model, have no meaning for.

        Args:
            label: Of N rows, (N,) or (N, T).
            row: Their numbers in the raw table, from 0, (N,).

        Raises:
            DataError: Names the row.
        """
        for task in self.tasks:
            task.check_labels(label, self.schema)

    def get_l2_reg_loss(self, inputs: Inputs) -> Tensor:
        """Return the embedding's L2 penalty by `config.feature`, (), for the mean loss."""
        feature = self.config.feature
        if feature.embedding_l2_reg == 0:
            return torch.zeros((), device=self.device)
        return self.embedding.l2_reg(
            inputs.sparse,
            inputs.dense,
            inputs.padded_ids,
            inputs.sequence_lengths,
            inputs.located,
            rate=feature.embedding_l2_reg,
            scope=feature.embedding_l2_scope,
        )

    def regularization_losses(self, batch_size: int) -> dict[str, Tensor]:
        """Return what the training loss gets beside the rows' losses, by name, each ()."""
        rate = self.config.feature.variational_dropout or 0.0
        return {
            dropout_loss(group): rate / batch_size * dropout.penalty()
            for group, dropout in self.embedding.variational_dropouts().items()
        }


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """While it lasts, a model is in evaluation mode; modules that were in training return to it."""
    trained = [module for module in model.modules() if module.training]
    if trained:
        model.eval()
    try:
        yield
    finally:
        for module in trained:
            module.training = True


def make_network(in_features: int, config: DNNConfig, section: str) -> MLP:
    """Return the network that a section of the config describes, without an output layer."""
    return make_layers(MLP, in_features, config, section)


def make_layers(
    kind: Callable[..., Layers], in_features: int, config: DNNConfig, section: str
) -> Layers:
    """Return the same of another kind of layers, which take the arguments of `MLP`.

    Raises:
        ConfigError: A value cannot be used; names the key.
    """
    name = called(config.activation).removeprefix("nn.")
    if name and name not in ACTIVATION_NAMES:
        hint = nearest(name, ACTIVATION_NAMES)
        problem = f"unknown activation {config.activation!r}; {hint}"
        raise ConfigError(problem, key=f"{section}.activation")
    with config_section(section):
        return kind(
            in_features,
            config.hidden_units,
            activation=config.activation,
            norm=None if config.norm == "none" else config.norm,
            dropout=config.dropout,
            bias=config.bias,
            init=config.init,
        )


@contextmanager
def config_section(section: str) -> Iterator[None]:
    """Report what a layer refuses as a ConfigError about a key of this section."""
    try:
        yield
    except ArgumentError as error:
        raise ConfigError(error.problem, key=f"{section}.{error.argument}") from None
