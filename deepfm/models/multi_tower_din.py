"""Towers of groups of fields, and encoders of sequences as towers beside them."""

from collections.abc import Sequence

from torch import Tensor, nn

from deepfm.models.layers.embedding import Views
from deepfm.models.multi_tower import MultiTower
from deepfm.models.options import DINTowersConfig, MultiTowerDINConfig
from deepfm.models.options.sequences import DINEncoder, EncoderConfig
from deepfm.models.sequences import build_encoders, input_of, sequences_of
from deepfm.utils.logging import LOGGER

_KEY = "multi_tower_din.din_towers"


class MultiTowerDIN(MultiTower):
    """logit = bias + sum_g <w_g, DNN_g(group g)> + sum_s <w_s, encoder_s(query, events)>.

    The sum is a linear map of the outputs of all towers and encoders, end to end; with `final` a
    network stands there.

    Source: the model of this name in TorchEasyRec; its encoder is that of G. Zhou et al., "Deep
    Interest Network", KDD 2018, arXiv:1706.06978.

    NOTE[DIFF]: TorchEasyRec's model has encoders of the kind DIN alone.
    """

    config: MultiTowerDINConfig

    @property
    def section(self) -> DINTowersConfig:
        return self.config.multi_tower_din

    @property
    def din_towers(self) -> Sequence[EncoderConfig]:
        """The encoders by the config, or one for each sequence."""
        known = sequences_of(self.schema, self.config.feature)
        return self.section.din_towers or [DINEncoder(input=name) for name in known]

    @property
    def sequences(self) -> Sequence[str]:
        known = sequences_of(self.schema, self.config.feature)
        return [input_of(tower, known, _KEY) for tower in self.din_towers]

    def _encoder_widths(self) -> dict[str, int]:
        known = sequences_of(self.schema, self.config.feature)
        if not self.din_towers:
            LOGGER.warning("multi_tower_din reads no sequence: feature.sequences names none")
        encodings = build_encoders(self.schema, self.din_towers, known, _KEY)
        self.encoders = nn.ModuleList(encoding.encoder for encoding in encodings)
        self._read = [encoding.sequence for encoding in encodings]
        return {encoding.name: encoding.encoder.output_dim for encoding in encodings}

    def _streams(self, views: Views) -> list[Tensor]:
        pairs = zip(self.encoders, self._read, strict=True)
        encoded = [encoder(views.sequences[name]) for encoder, name in pairs]
        return [*super()._streams(views), *encoded]
