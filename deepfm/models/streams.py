"""What models have in common whose networks stand beside each other: FinalMLP, towers, ….

Decided here: what a stream's output becomes. Without `config.final` a linear map makes logits of
each, which a model adds up in its own way; with it, the outputs stand end to end.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from deepfm.models.base import Parts, make_network
from deepfm.models.flat import FlatModel
from deepfm.models.layers.dnn import MLP
from deepfm.models.options import DNNConfig


class StreamsModel(FlatModel):
    """Streams on the flat embeddings, by name.

    NOTE[DIFF]: Where there is a global bias, it is the bias of the logit and of the logits of all
    streams; with `global_bias: false` each stream has one of its own, as in the papers.
    """

    @property
    def deep_width(self) -> int:
        return sum(self.stream_widths.values())

    @property
    def output_bias(self) -> nn.Parameter | None:
        maps = [one for one in self.output_maps if isinstance(one, nn.Linear)]
        biases = [one.bias for one in maps if one.bias is not None]
        if len(biases) > 1:
            return None  # no one of them is in every logit as it stands
        return biases[0] if biases else super().output_bias

    def _stream(self, in_features: int, config: DNNConfig | None, section: str) -> MLP:
        """The network that a section describes, or as `dnn` if the config lacks it."""
        if config is None:
            config, section = self.networks.dnn, "dnn"
        return make_network(in_features, config, section)

    def _set_outputs(self, widths: Mapping[str, int], *, one_bias: bool = False) -> None:
        """Make what follows streams of these widths, by name and in order.

        Args:
            one_bias: Whether the first one alone has a bias, if any has.
        """
        self.stream_widths = dict(widths)
        self.output_maps = nn.ModuleList()
        for width in () if self.networks.final else widths.values():
            has_bias = not (one_bias and len(self.output_maps))
            self.output_maps.append(self._output_linear(width, bias=has_bias))

    def _logits(self, streams: Sequence[Tensor]) -> Parts:
        """The logits of each stream, (B, C), by name."""
        pairs = zip(self.output_maps, streams, strict=True)
        return {
            name: output(x) for name, (output, x) in zip(self.stream_widths, pairs, strict=True)
        }

    def _meet(self, streams: Sequence[Tensor]) -> Parts:
        """The logits by `final` of the streams' outputs."""
        assert self.final is not None
        return {"final": self.final(torch.cat(list(streams), dim=1))}

    def _as_branches(self, logits: Parts) -> dict[str, Tensor]:
        """Logits of streams as losses read them, (B,) each."""
        return {name: self._sum({name: part}) for name, part in logits.items()}
