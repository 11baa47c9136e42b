"""Options of models whose networks stand beside each other: streams, or towers."""

from dataclasses import dataclass, field
from typing import Literal

from deepfm.models.options.sections import DNNConfig, NetworkConfig
from deepfm.utils.settings import limited


@dataclass(frozen=True, kw_only=True)
class BilinearStreamsConfig:
    """The second stream of FinalMLP, its gates, and how the streams meet.

    Attributes:
        second: Network of the second stream; null: as `dnn`, which is the first one's.
        use_gates: Whether each stream has gates that weigh the embedding's numbers.
        gate_hidden_units: Widths of the network of a gate.
        num_heads: Pieces that the streams' outputs are cut into for the bilinear term.
    """

    second: DNNConfig | None = None
    use_gates: bool = True
    gate_hidden_units: tuple[int, ...] = limited((64,), at_least=1)
    num_heads: int = limited(1, at_least=1)


@dataclass(frozen=True, kw_only=True)
class FinalMLPConfig(NetworkConfig):
    """Options of FinalMLP.

    Attributes:
        finalmlp: The second stream, the gates, and how the streams meet.
    """

    name = "finalmlp"
    finalmlp: BilinearStreamsConfig = field(default_factory=BilinearStreamsConfig)


@dataclass(frozen=True, kw_only=True)
class FactorizedBlocksConfig:
    """The blocks of factorized interaction layers of FinalNet.

    Attributes:
        num_blocks: One block, or two beside each other, whose logits are averaged.
        second: The second block; null: as `dnn`, which is the first one.
        combine: How the halves of a layer are combined: `concat`, which leaves half of its units
            linear, or `sum`.
        field_gates: Whether the blocks read the fields' vectors once more, each times a gate that
            is a linear map of all fields.
    """

    num_blocks: int = limited(2, at_least=1, at_most=2)
    second: DNNConfig | None = None
    combine: Literal["concat", "sum"] = "concat"
    field_gates: bool = False


@dataclass(frozen=True, kw_only=True)
class FinalNetConfig(NetworkConfig):
    """Options of FinalNet; `dnn` describes its first block.

    Attributes:
        finalnet: The blocks.
    """

    name = "finalnet"
    finalnet: FactorizedBlocksConfig = field(default_factory=FactorizedBlocksConfig)

    @property
    def branch_names(self) -> tuple[str, ...]:
        return ("first", "second") if self.finalnet.num_blocks == 2 and not self.final else ()


@dataclass(frozen=True, kw_only=True)
class TwinTowersConfig:
    """The tower for easy rows of TF4CTR, and how it meets the one for hard rows.

    Attributes:
        easy: Network of the easy tower; null: as `dnn`, which is the hard one's.
        easy_dim: Width of the tables of the easy tower; null: it reads those of the hard one.
        fusion: Of the towers' logits the `weighted` mean with learned weights or their `sum`, or a
            `linear` map of their outputs.
    """

    easy: DNNConfig | None = None
    easy_dim: int | None = limited(8, at_least=1)
    fusion: Literal["weighted", "linear", "sum"] = "weighted"


@dataclass(frozen=True, kw_only=True)
class TF4CTRConfig(NetworkConfig):
    """Options of TF4CTR.

    Attributes:
        tf4ctr: The easy tower, and the fusion.
    """

    name = "tf4ctr"
    tf4ctr: TwinTowersConfig = field(default_factory=TwinTowersConfig)

    @property
    def branch_names(self) -> tuple[str, ...]:
        return () if self.final else ("easy", "hard")


@dataclass(frozen=True, kw_only=True)
class TowersConfig:
    """Towers of groups of fields.

    Attributes:
        towers: The network of each group that has a tower, by its name in `feature.groups`; without
            any, `dnn` is a tower of the group `deep`.
    """

    towers: dict[str, DNNConfig] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MultiTowerConfig(NetworkConfig):
    """Options of a model of several towers.

    Attributes:
        multi_tower: The towers.
    """

    name = "multi_tower"
    multi_tower: TowersConfig = field(default_factory=TowersConfig)
