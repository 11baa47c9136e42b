"""FM: a factorization machine."""

from torch import Tensor

from deepfm.models.base import BaseCTRModel, PairBranches, Parts
from deepfm.models.layers.fm import FactorizationMachine
from deepfm.models.options import FactorizationMachineConfig


class FM(BaseCTRModel):
    """logit = bias + <w, x> + sum_{i<j} <v_i, v_j>.

    Of a user and an item all that is left per pair is a dot product, so that rankings are scored,
    and losses by pairs are computed, at the cost of a matrix product.

    Source: S. Rendle, "Factorization Machines", ICDM 2010, Eq. (1).

    NOTE[DIFF]: The paper gives all fields one dim; where a field's own differs, its vector is
    projected to `feature.fm_embedding_dim`. Raw dense fields, which have no vector, count in the
    first-order term only.
    """

    config: FactorizationMachineConfig
    several_classes = False

    @property
    def has_network(self) -> bool:
        return False

    @property
    def required_groups(self) -> tuple[str, ...]:
        return ("fm",)

    @property
    def interaction_dim(self) -> int:
        return self.embedding.fm_embedding_dim

    def _build_components(self) -> None:
        self.fm = FactorizationMachine()

    def _forward_components(
        self, first_order: Tensor, field_embeddings: Tensor | None, flat_embeddings: Tensor
    ) -> Parts:
        return self._fuse(first_order, self.fm(field_embeddings), None)

    def _pair_branches(self) -> PairBranches | None:
        return PairBranches(None, second_order=True) if self.adds_up_over_fields else None
