"""TF4CTR: two networks on tables of their own, one for easy rows and one for hard ones."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from deepfm.models.base import Parts
from deepfm.models.layers.embedding import FlatGroup, Views
from deepfm.models.options import TF4CTRConfig
from deepfm.models.streams import StreamsModel


class TF4CTR(StreamsModel):
    """logit = bias + w_e y_e + w_h y_h with y_e = <v_e, DNN_e(e')> and y_h = <v_h, DNN_h(e)>.

    e and e' are the embeddings of the same fields by two sets of tables, those of the easy tower
    narrower ones. Other fusions: the sum y_e + y_h, and a linear map of both outputs, beside which
    y_e and y_h are for losses alone. In training `twin_focus` weighs rows by how sure a tower is.

    These are towers of one model of a row. Retrieval by two towers, whose dot product finds items,
    is another thing that has the same name.

    Source: H. Li et al., "TF4CTR: Twin Focus Framework for CTR Prediction via Adaptive Sample
    Differentiation", 2024, arXiv:2405.03167.

    NOTE[DIFF]: Of the paper's selection modules only separate tables and shared ones are built,
    and of its fusions those without gates. With `final` the towers' outputs meet in a network, and
    no tower has a logit.
    """

    config: TF4CTRConfig

    @property
    def flat_groups(self) -> Mapping[str, FlatGroup | None]:
        dim, fields = self.config.tf4ctr.easy_dim, self.schema.fields
        deep = self.config.feature.groups.get("deep")
        if deep is None:  # as without groups, with raw numbers last
            deep = tuple(sorted(fields, key=lambda name: not fields[name].is_embedded))
        return {} if dim is None else {"easy": FlatGroup(deep, "easy", dim)}

    def _build_components(self) -> None:
        config, width = self.config.tf4ctr, self.embedding.total_dim
        easy_width = width if config.easy_dim is None else self.embedding.group_total_dim("easy")
        self.easy = self._stream(easy_width, config.easy, "tf4ctr.easy")
        self.hard = self._stream(width, None, "dnn")
        widths = {"easy": self.easy.output_dim, "hard": self.hard.output_dim}
        self._set_outputs(widths)
        fusion = "none" if self.config.final else config.fusion
        self.weight = nn.Parameter(torch.full((2,), 0.5)) if fusion == "weighted" else None
        self.linear = nn.ModuleList(
            map(self._output_linear, widths.values() if fusion == "linear" else ())
        )

    def _parts(self, views: Views) -> Parts:
        return self._with_auxiliary(views)[0]

    def _with_auxiliary(self, views: Views) -> tuple[Parts, dict[str, Tensor]]:
        flat = views.flat_embeddings
        streams = [self.easy(views.groups.get("easy", flat)), self.hard(flat)]
        if self.final is not None:
            return self._meet(streams), {}
        parts = logits = self._logits(streams)
        if self.weight is not None:
            parts = dict(zip(logits, map(torch.mul, logits.values(), self.weight), strict=True))
        elif self.linear:
            found = [linear(x) for linear, x in zip(self.linear, streams, strict=True)]
            parts = dict(zip(logits, found, strict=True))
        return parts, self._as_branches(logits)
