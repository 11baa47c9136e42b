"""Options of towers with encoders of sequences beside them."""

from dataclasses import dataclass, field

from deepfm.models.options.sections import NetworkConfig
from deepfm.models.options.sequences import ENCODERS, EncoderConfig
from deepfm.models.options.streams import TowersConfig
from deepfm.utils.named import one_of, resolve


@dataclass(frozen=True, kw_only=True)
class DINTowersConfig(TowersConfig):
    """Towers of groups of fields, and of sequences.

    Attributes:
        din_towers: Encoders of sequences, in the order in which their outputs stand behind the
            other towers'; none: a `din` for each sequence that there is.
    """

    din_towers: tuple[EncoderConfig, ...] = one_of(ENCODERS, "encoder", ())

    def __post_init__(self) -> None:
        resolve(self, "multi_tower_din")


@dataclass(frozen=True, kw_only=True)
class MultiTowerDINConfig(NetworkConfig):
    """Options of a model of several towers, some of them encoders of sequences.

    Attributes:
        multi_tower_din: The towers.
    """

    name = "multi_tower_din"
    multi_tower_din: DINTowersConfig = field(default_factory=DINTowersConfig)
