"""DBMTL: towers on a shared network, some of which read those of related tasks."""

import torch
from torch import Tensor, nn

from deepfm.errors import ConfigError
from deepfm.models.base import make_network
from deepfm.models.layers.experts import MultiGateExperts
from deepfm.models.masknet import make_mask_blocks
from deepfm.models.options import DBMTLConfig
from deepfm.models.several_tasks import SeveralTasksModel


class DBMTL(SeveralTasksModel):
    """logits_k = output_k(r_k), r_k = relation_k([t_k, r_j of the related tasks j]).

    t_k is the tower of task k over the bottom network, or over its mixture of shared experts. A
    task without a relation has r_k = t_k. So the logit of a conversion can depend on what is known
    of the click, which comes first.

    Source: Q. Wang et al., "Deep Bayesian Multi-Target Learning for Recommender Systems", 2019,
    arXiv:1902.09154.

    NOTE[DIFF]: The mask blocks in front of the bottom network are TorchEasyRec's; the paper has
    none, and without `mask` there are none here either.
    NOTE[DIFF]: The experts between the bottom network and the towers are TorchEasyRec's; the paper
    has none. Without `expert` there are none here either.
    """

    config: DBMTLConfig

    def _build_components(self) -> None:
        section, width = self.config.dbmtl, self.embedding.total_dim
        self.masks = self.masks_dnn = None
        if section.mask is not None:
            dims = self.embedding.group_dims("deep")
            self.masks = make_mask_blocks(dims, section.mask, "dbmtl.mask")
            width = self.masks.output_dim
            if section.mask.use_dnn:
                self.masks_dnn = make_network(width, section.mask_dnn, "dbmtl.mask_dnn")
                width = self.masks_dnn.output_dim
        width = self._add_bottom(width, section.bottom)
        self.mixtures = None
        if section.expert is not None:
            self.mixtures = MultiGateExperts(
                width,
                num_tasks=len(self.tasks),
                num_experts=section.num_experts,
                expert=self._maker(section.expert, "expert"),
                gate=self._optional(section.gate, "gate"),
            )
            width = self.mixtures.output_dim
        widths = self._add_towers([width] * len(self.tasks))
        self._add_outputs(self._add_relations(widths))

    def _add_relations(self, widths: list[int]) -> list[int]:
        """Make the networks of relations; how wide what each output layer reads is."""
        relations = self.config.dbmtl.relations
        self._check_names(relations, "relations")
        names, found = [task.name for task in self.tasks], list(widths)
        self.relations, self._related = nn.ModuleList(), list[list[int]]()
        for place, name in enumerate(names):
            if name not in relations:
                self.relations.append(nn.Identity())
                self._related.append([])
                continue
            related = [self._place_before(place, other) for other in relations[name].tasks]
            width = widths[place] + sum(found[other] for other in related)
            key = f"relations.{name}.network"
            made = self._maker(relations[name].network, key)(width)
            self.relations.append(made)
            self._related.append(related)
            found[place] = made.output_dim
        return found

    def _place_before(self, place: int, name: str) -> int:
        names = [task.name for task in self.tasks]
        if name not in names[:place]:
            raise ConfigError(
                f"{name!r} does not stand before {names[place]} in tasks, of which "
                f"{', '.join(names[:place]) or 'none'} do",
                key=f"dbmtl.relations.{names[place]}.tasks",
            )
        return names.index(name)

    def _task_vectors(self, flat: Tensor) -> list[Tensor]:
        masked = flat
        for part in (self.masks, self.masks_dnn):
            masked = masked if part is None else part(masked)
        shared = self._above_bottom(masked)
        inputs = [shared] * len(self.tasks) if self.mixtures is None else self.mixtures(shared)
        own = [tower(x) for tower, x in zip(self.towers, inputs, strict=True)]  # t_k
        found: list[Tensor] = []  # r_k
        for t, relation, related in zip(own, self.relations, self._related, strict=True):
            found.append(relation(torch.cat([t, *(found[j] for j in related)], dim=1)))
        return found
