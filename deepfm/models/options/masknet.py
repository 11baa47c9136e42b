"""Options of MaskNet."""

from dataclasses import dataclass, field
from typing import Literal

from deepfm.models.options.sections import NetworkConfig
from deepfm.utils.settings import limited


@dataclass(frozen=True, kw_only=True)
class MaskBlocksConfig:
    """The mask blocks of MaskNet.

    Attributes:
        parallel: Whether all blocks read the embedding and stand side by side; else each reads the
            output of the one before it.
        hidden_units: Width of each block's output.
        reduction_ratio: Units of a mask's network for each number that it masks.
        aggregation_dim: These units; null: as `reduction_ratio` says.
        embedding_norm: LayerNorm of the embedding that the blocks read: of each `field` by itself,
            of the whole `vector`, or `none`.
        norm: Whether a block has a LayerNorm before its ReLU.
        bias: Whether a block's linear map has a bias; its mask always has.
        dropout: Share of a block's outputs left out in training.
        init: Of the weights: `xavier_uniform`, or `torch`, which is what `nn.Linear` does by
            itself.
        use_dnn: Whether the DNN stands on the blocks; without it, a linear map.
    """

    parallel: bool = True
    hidden_units: tuple[int, ...] = limited((64, 64, 64), at_least=1)
    reduction_ratio: float = limited(1.0, above=0)
    aggregation_dim: int | None = limited(None, at_least=1)
    embedding_norm: Literal["field", "vector", "none"] = "field"
    norm: bool = True
    bias: bool = False
    dropout: float = limited(0.0, at_least=0, below=1)
    init: Literal["xavier_uniform", "torch"] = "xavier_uniform"
    use_dnn: bool = True


@dataclass(frozen=True, kw_only=True)
class MaskNetConfig(NetworkConfig):
    """Options of MaskNet.

    Attributes:
        masknet: The mask blocks.
    """

    name = "masknet"
    masknet: MaskBlocksConfig = field(default_factory=MaskBlocksConfig)
