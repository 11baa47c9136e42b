"""Options of models that read ids and numbers apart: DLRM and Wukong."""

from dataclasses import dataclass, field

from deepfm.models.options.sections import DNNConfig, NetworkConfig
from deepfm.utils.settings import limited


def _of_numbers() -> DNNConfig:
    """The default network of raw numbers, which are few and the same in every epoch."""
    return DNNConfig(hidden_units=(64,), norm="none", dropout=0.0)


@dataclass(frozen=True, kw_only=True)
class DotsConfig:
    """What DLRM reads beside its top network, which is `dnn`.

    Attributes:
        dense: Network of the raw numbers; a layer of `feature.fm_embedding_dim` units ends it.
        with_sparse: Whether the top network reads the field vectors too.
    """

    dense: DNNConfig = field(default_factory=_of_numbers)
    with_sparse: bool = False


@dataclass(frozen=True, kw_only=True)
class DLRMConfig(NetworkConfig):
    """Options of DLRM.

    Attributes:
        dlrm: The network of the numbers, and what the top network reads.
    """

    name = "dlrm"
    dlrm: DotsConfig = field(default_factory=DotsConfig)


@dataclass(frozen=True, kw_only=True)
class WukongLayerConfig:
    """A layer of Wukong.

    Attributes:
        factorized: Vectors that its factorization machine block makes.
        linear: Vectors that its linear compression block makes.
        compressed: Columns of products that the former keeps of those with all fields.
        mlp: Network on these products; its `init` counts for the whole layer.
    """

    factorized: int = limited(16, at_least=1)
    linear: int = limited(16, at_least=1)
    compressed: int = limited(16, at_least=1)
    mlp: DNNConfig = field(
        default_factory=lambda: DNNConfig(hidden_units=(128,), norm="none", dropout=0.0)
    )


@dataclass(frozen=True, kw_only=True)
class WukongLayersConfig:
    """The layers of Wukong below its last network, which is `dnn`.

    Attributes:
        layers: From the embedding up.
        dense: Network of the raw numbers; a layer of `feature.fm_embedding_dim` units ends it.
    """

    layers: tuple[WukongLayerConfig, ...] = (WukongLayerConfig(), WukongLayerConfig())
    dense: DNNConfig = field(default_factory=_of_numbers)


@dataclass(frozen=True, kw_only=True)
class WukongConfig(NetworkConfig):
    """Options of Wukong.

    Attributes:
        wukong: The layers, and the network of the numbers.
    """

    name = "wukong"
    wukong: WukongLayersConfig = field(default_factory=WukongLayersConfig)
