"""Towers over groups of fields, whose outputs meet in a last network."""

from dataclasses import dataclass, field

from deepfm.models.options.sections import DNNConfig, NetworkConfig
from deepfm.models.options.sequences import ENCODERS, EncoderConfig
from deepfm.utils.named import one_of, resolve


@dataclass(frozen=True, kw_only=True)
class TowersConfig:
    """Networks over groups.

    Attributes:
        towers: The network of each group of `feature.groups`, by the group's name; none: one over
            `deep`, which is `dnn`.
    """

    towers: dict[str, DNNConfig] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DINTowersConfig(TowersConfig):
    """Networks over groups, and encoders of sequences.

    Attributes:
        din_towers: Encoders of sequences whose outputs are towers, in their order.
    """

    din_towers: tuple[EncoderConfig, ...] = one_of(ENCODERS, "encoder", ("din",))

    def __post_init__(self) -> None:
        resolve(self, "multi_tower_din")


@dataclass(frozen=True, kw_only=True)
class MultiTowerDINConfig(NetworkConfig):
    """Options of MultiTowerDIN.

    Attributes:
        multi_tower_din: The towers.
    """

    name = "multi_tower_din"
    multi_tower_din: DINTowersConfig = field(default_factory=DINTowersConfig)
