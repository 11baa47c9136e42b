"""What a config says about models of pairs, crosses and attention, each in a section of its own."""

from dataclasses import dataclass, field
from typing import Literal

from deepfm.models.options.sections import DNNConfig, ModelConfig, NetworkConfig
from deepfm.utils.settings import limited


@dataclass(frozen=True, kw_only=True)
class LRConfig(ModelConfig):
    """Options of logistic regression: those of the embedding layer."""

    name = "lr"


@dataclass(frozen=True, kw_only=True)
class FieldWeightedConfig:
    """The linear term of FwFM.

    Attributes:
        linear: What a field adds by itself: a weight per id (`weights`), or the product of its
            vector with one that belongs to the field (`fields`).
    """

    linear: Literal["weights", "fields"] = "weights"


@dataclass(frozen=True, kw_only=True)
class FwFMConfig(ModelConfig):
    """Options of FwFM.

    Attributes:
        fwfm: The linear term.
    """

    name = "fwfm"
    fwfm: FieldWeightedConfig = field(default_factory=FieldWeightedConfig)


@dataclass(frozen=True, kw_only=True)
class VectorCrossConfig:
    """The cross network of DCN.

    Attributes:
        layers: Cross layers; each raises the order of the interactions by one.
        deep: Whether a DNN stands beside it.
    """

    layers: int = limited(3, at_least=1)
    deep: bool = True


@dataclass(frozen=True, kw_only=True)
class DCNConfig(NetworkConfig):
    """Options of DCN.

    Attributes:
        dcn: The cross network.
    """

    name = "dcn"
    dcn: VectorCrossConfig = field(default_factory=VectorCrossConfig)


@dataclass(frozen=True, kw_only=True)
class CrossV2Config:
    """The cross network of DCN V2, and where the DNN stands.

    Attributes:
        layers: Cross layers; each raises the order of the interactions by one.
        rank: Rank of the layers' matrices; null: they are whole.
        gate: Whether each layer has a gate, as in GDCN.
        structure: Where the DNN stands: beside the cross network (`parallel`), behind it
            (`stacked`), or nowhere (`alone`).
        backbone: A network before the cross network, which reads its output instead; null: there
            is none.
        init: Of the layers' weights: `xavier_uniform`, or `torch`, which is what `nn.Linear` does
            by itself.
    """

    layers: int = limited(3, at_least=1)
    rank: int | None = limited(None, at_least=1)
    gate: bool = False
    structure: Literal["parallel", "stacked", "alone"] = "parallel"
    backbone: DNNConfig | None = None
    init: Literal["xavier_uniform", "torch"] = "xavier_uniform"


@dataclass(frozen=True, kw_only=True)
class DCNv2Config(NetworkConfig):
    """Options of DCN V2.

    Attributes:
        dcn_v2: The cross network, and where the DNN stands.
    """

    name = "dcn_v2"
    dcn_v2: CrossV2Config = field(default_factory=CrossV2Config)


@dataclass(frozen=True, kw_only=True)
class FieldAttentionConfig:
    """Self-attention over fields in AutoInt.

    Attributes:
        layers: Layers, one after the other.
        heads: Heads per layer.
        dim: Width of a field's vector after a layer, of all heads together.
        scale: Whether scores are divided by the square root of a head's width.
        norm: Where LayerNorm stands in a layer: `before` or `after` the ReLU; `none`: nowhere.
        residual: What a layer adds to its output: its `projected` input; `identity`, the input
            itself where it is as wide as the output; or `none`.
        dropout: Share of attention weights left out in training.
        deep: Whether a DNN stands beside the attention, as in AutoInt+.
    """

    layers: int = limited(2, at_least=1)
    heads: int = limited(2, at_least=1)
    dim: int = limited(64, at_least=1)
    scale: bool = True
    norm: Literal["before", "after", "none"] = "before"
    residual: Literal["projected", "identity", "none"] = "projected"
    dropout: float = limited(0.0, at_least=0, below=1)
    deep: bool = True


@dataclass(frozen=True, kw_only=True)
class AutoIntConfig(NetworkConfig):
    """Options of AutoInt.

    Attributes:
        autoint: Self-attention over fields, and whether there is a DNN.
    """

    name = "autoint"
    autoint: FieldAttentionConfig = field(default_factory=FieldAttentionConfig)


@dataclass(frozen=True, kw_only=True)
class MaskedCrossConfig:
    """The two cross networks of FCN.

    Attributes:
        linear_layers: Layers of the linear cross network; each raises the order by one.
        exponential_layers: Layers of the exponential one; each doubles the order.
        dropout: Share of numbers left out after each layer in training.
    """

    linear_layers: int = limited(3, at_least=1)
    exponential_layers: int = limited(3, at_least=1)
    dropout: float = limited(0.1, at_least=0, below=1)


@dataclass(frozen=True, kw_only=True)
class FCNConfig(ModelConfig):
    """Options of FCN.

    Attributes:
        fcn: The two cross networks.
    """

    name = "fcn"
    fcn: MaskedCrossConfig = field(default_factory=MaskedCrossConfig)

    @property
    def branch_names(self) -> tuple[str, ...]:
        return ("exponential", "linear")
