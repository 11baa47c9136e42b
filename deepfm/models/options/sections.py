"""Sections that several models read, and what every model has."""

from dataclasses import InitVar, dataclass, field
from typing import Literal

from deepfm.errors import ArgumentError
from deepfm.models.options.sequences import ENCODERS, EncoderConfig, SequenceConfig
from deepfm.utils.named import Named, one_of, resolve
from deepfm.utils.settings import limited, renamed

Norm = Literal["batch", "layer", "none"]


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """The embedding layer.

    Attributes:
        fm_embedding_dim: Width of the vectors of `field_embeddings`; a field of another dim is
            projected to it.
        embedding_dim: Width of the vectors of all fields that name none; null: 16, or what the
            data set's adapter says.
        embedding_dims: Width by field; it counts more than what the field says.
        dense_embedding: What gives a vector to dense fields that do not say it: `linear`,
            `piecewise`, `periodic` or `none`; null: nothing.
        init: Initializer of the tables: `xavier_uniform`, `normal(STD)`, `uniform_rows` or one of
            `torch.nn.init`.
        embedding_l2_reg: r of the penalty r/2 * |row|^2 on table rows, first-order weights
            included.
        embedding_l2_scope: Which rows are penalized in a step: those of the `batch`, or those of
            the whole `table`.
        groups: Fields of the views: `wide` (first-order term), `fm` (field embeddings; falls back
            to `deep`), `deep` (flat embeddings), and those that the model names besides. Without
            any, every field is in every view.
        table_suffixes: Groups and sequences that have tables of their own, with what ends these
            tables' names; those of one suffix share them.
        sequences: Lists of events, by name, with what they are compared with.
        encoders: What turns a sequence into a vector; without any, sequences are pooled field by
            field.
        wide_embedding_dim: Width of a first-order weight.
        wide_init: Initializer of first-order weights; null: that of their table.
        unequal_dims: What is done where dims of field embeddings differ: `project` or `error`.
        variational_dropout: Regularization of that feature selection, a lambda; null: there is
            none.
        storage: Where the tables are while a model is trained: `packed`, in each process as a
            whole, or `torchrec`, shared out among the processes. A checkpoint is the same.
    """

    fm_embedding_dim: int = limited(16, at_least=1)
    embedding_dim: int | None = limited(None, at_least=1)
    embedding_dims: dict[str, int] = field(default_factory=dict, metadata={"at_least": 1})
    dense_embedding: Literal["none", "linear", "piecewise", "periodic"] | None = None
    init: str = "xavier_uniform"
    embedding_l2_reg: float = limited(1e-5, at_least=0)
    embedding_l2_scope: Literal["batch", "table"] = "batch"
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    table_suffixes: dict[str, str] = field(default_factory=dict)
    sequences: dict[str, SequenceConfig] = field(default_factory=dict)
    encoders: tuple[EncoderConfig, ...] = one_of(ENCODERS, "encoder", ())
    wide_embedding_dim: int = limited(1, at_least=1)
    wide_init: str | None = None
    unequal_dims: Literal["project", "error"] = "project"
    variational_dropout: float | None = limited(None, at_least=0)
    storage: Literal["packed", "torchrec"] = "packed"

    def __post_init__(self) -> None:
        resolve(self, "feature")


@dataclass(frozen=True, kw_only=True)
class FMConfig:
    """The linear and the factorization-machine term.

    Attributes:
        use_first_order: Whether there is a linear term.
        use_second_order: Whether there is a sum over pairs of fields.
    """

    use_first_order: bool = True
    use_second_order: bool = True


@dataclass(frozen=True, kw_only=True)
class DNNConfig:
    """A fully connected network: the deep branch, or the `final` one over all branches.

    `use_batch_norm` and `use_layer_norm` are other ways to say `norm`.

    Attributes:
        hidden_units: Width of each layer.
        activation: `relu`, or another of `deepfm.models.layers.dnn.ACTIVATION_NAMES`.
        dropout: Share of hidden units left out in training; one number, or one for each layer.
        norm: Of each layer's output before the activation: `batch`, `layer` or `none`.
        bias: Whether the layers have biases.
        init: Of the weights: `xavier_uniform`, or `torch`, which is what `nn.Linear` does by
            itself.
    """

    hidden_units: tuple[int, ...] = limited((256, 128, 64), at_least=1)
    activation: str = "relu"
    dropout: float | tuple[float, ...] = limited(0.1, at_least=0, below=1)
    norm: Norm = "batch"
    bias: bool = True
    init: Literal["xavier_uniform", "torch"] = "xavier_uniform"
    use_batch_norm: InitVar[bool | None] = None
    use_layer_norm: InitVar[bool | None] = renamed("norm")

    def __post_init__(self, use_batch_norm: bool | None, use_layer_norm: bool | None) -> None:
        if use_batch_norm is None and use_layer_norm is None:
            return
        if use_layer_norm and use_batch_norm is not False:
            raise ArgumentError("use_layer_norm", "one norm per layer; set use_batch_norm: false")
        if use_batch_norm is not None:
            norm = "batch" if use_batch_norm else "layer" if use_layer_norm else "none"
            object.__setattr__(self, "norm", norm)


@dataclass(frozen=True, kw_only=True)
class CINConfig:
    """The compressed interaction network of xDeepFM.

    Attributes:
        layer_sizes: Feature maps of each layer.
        split_half: Whether half of a layer's maps go to the next layer and half to the output.
        group: The field vectors that it reads: `fm`, or the first-order ones of `wide`.
        bias: Whether the layers have biases.
        init: Of the weights: `xavier_uniform`, or `torch`, which is what `nn.Conv1d` does by
            itself.
    """

    layer_sizes: tuple[int, ...] = limited((128, 128), at_least=1)
    split_half: bool = True
    group: Literal["fm", "wide"] = "fm"
    bias: bool = False
    init: Literal["xavier_uniform", "torch"] = "xavier_uniform"


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Self-attention over fields.

    Attributes:
        num_heads: Heads per layer.
        attention_dim: Width of a field's vector after a layer, of all heads together.
        num_layers: Layers.
        use_residual: Whether a layer's input is added to its output.
    """

    num_heads: int = limited(4, at_least=1)
    attention_dim: int = limited(64, at_least=1)
    num_layers: int = limited(1, at_least=1)
    use_residual: bool = True


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Named):
    """What every model reads; the sections and keys stand at the top of a config file.

    Attributes:
        feature: The embedding layer.
    """

    feature: FeatureConfig = field(default_factory=FeatureConfig)

    @property
    def branch_names(self) -> tuple[str, ...]:
        """Names of the branches whose logits losses can read in training; most models have none."""
        return ()


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(ModelConfig):
    """What every model with a deep branch reads.

    Attributes:
        dnn: The deep branch.
        final: A network over the outputs of all branches, in the place of the sum of their
            logits; null: there is none.
        global_bias: Whether one bias is added to the logits; without it the output layers have
            biases of their own.
        output_bias: Whether they have them then.
    """

    global_bias: bool = True
    output_bias: bool = True
    dnn: DNNConfig = field(default_factory=DNNConfig)
    final: DNNConfig | None = None
