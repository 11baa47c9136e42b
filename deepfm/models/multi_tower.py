"""Towers: a network for each group of fields, and a linear map or a network on all of them."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from deepfm.errors import ConfigError
from deepfm.models.base import Parts
from deepfm.models.layers.embedding import FlatGroup, Views
from deepfm.models.options import NetworkConfig, TowersConfig
from deepfm.models.streams import StreamsModel


class MultiTower(StreamsModel):
    """logit = bias + sum_g <w_g, DNN_g(vectors of group g)>.

    The sum is a linear map of all towers' outputs end to end; with `final` a network stands
    there. The fields of a group have one table, however many towers read them.

    Source: no paper; `multi_tower` of TorchEasyRec, Alibaba, 2024.
    """

    config: NetworkConfig

    @property
    def section(self) -> TowersConfig:
        """What the config says about the towers, in the section that is named like the model."""
        found: TowersConfig = getattr(self.config, self.config.name)
        return found

    @property
    def flat_groups(self) -> Mapping[str, FlatGroup | None]:
        towers, groups = self.section.towers, self.config.feature.groups
        if towers and not groups:
            raise ConfigError(
                f"expected the fields of each tower: {', '.join(towers)}", key="feature.groups"
            )
        return dict.fromkeys(towers)

    @property
    def tower_names(self) -> Sequence[str]:
        return list(self.stream_widths)

    @property
    def uses_flat_embeddings(self) -> bool:
        return not self.section.towers

    @property
    def required_groups(self) -> tuple[str, ...]:
        return tuple(self.section.towers) or ("deep",)

    def _build_components(self) -> None:
        towers = {}
        for name, config in self.section.towers.items():
            width = self.embedding.group_total_dim(name)
            towers[name] = self._stream(width, config, f"{self.config.name}.towers.{name}")
        if not towers:
            towers["deep"] = self._stream(self.embedding.total_dim, None, "dnn")
        self.towers = nn.ModuleList(towers.values())
        widths = {name: tower.output_dim for name, tower in towers.items()}
        self._set_outputs(widths | self._encoder_widths(), one_bias=True)

    def _encoder_widths(self) -> dict[str, int]:
        """Of what stands beside the towers of a subclass, by name."""
        return {}

    def _streams(self, views: Views) -> list[Tensor]:
        """What the towers give, (B, width) each."""
        read = views.groups or {"deep": views.flat_embeddings}
        names = self.section.towers or ("deep",)
        return [tower(read[name]) for name, tower in zip(names, self.towers, strict=True)]

    def _parts(self, views: Views) -> Parts:
        streams = self._streams(views)
        return self._logits(streams) if self.final is None else self._meet(streams)
