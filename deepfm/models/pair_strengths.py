"""How strongly a model makes pairs of fields interact, where a part of it says so.

Decided here: what a strength is. Of a factorization machine it is the mean size of a pair's term
in the logit; of self-attention over fields the mean weight, in the first layer, with which one
field reads another. Of crosses, CIN and networks there is nothing of the kind.

Shapes: B rows, F fields, D dimensions.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from deepfm.data.batch import Inputs
from deepfm.models.base import BaseCTRModel
from deepfm.models.layers.attention import FieldSelfAttention
from deepfm.models.layers.fm import FactorizationMachine
from deepfm.models.layers.fwfm import FieldWeightedFM


class PairStrengths(NamedTuple):
    """The strengths of one part of a model.

    Attributes:
        part: `fm`, `fwfm` or `attention`.
        fields: Names, (F,).
        matrix: (F, F): of the factorization machines symmetric, with zeros on the diagonal; of
            attention the field of a row reads that of a column, and a row adds up to 1.
    """

    part: str
    fields: list[str]
    matrix: NDArray[np.float64]


def pair_strengths(model: BaseCTRModel, inputs: Inputs) -> list[PairStrengths]:
    """The strengths of each part that has them, as means over some rows; costs O(B F^2 D).

    Args:
        model: In evaluation mode.
        inputs: B rows, at least one, on the device of the model.
    """
    parts = [
        part
        for part in model.children()
        if isinstance(part, FactorizationMachine | FieldWeightedFM | FieldSelfAttention)
    ]
    if not parts or model.embedding.num_fields < 2:
        return []
    with torch.inference_mode():
        vectors = model.embedding(*inputs).field_embeddings  # (B, F, D)
        fields = _names(model)
        return [_strengths(part, vectors, fields) for part in parts]


def _strengths(part: torch.nn.Module, vectors: torch.Tensor, fields: list[str]) -> PairStrengths:
    if isinstance(part, FieldSelfAttention):
        return PairStrengths("attention", fields, _array(part.weights(vectors).mean((0, 1))))
    products = (vectors @ vectors.transpose(1, 2)).abs().mean(0)  # (F, F)
    products.fill_diagonal_(0.0)
    if isinstance(part, FieldWeightedFM):
        return PairStrengths("fwfm", fields, _array(products * part.matrix().abs()))
    return PairStrengths("fm", fields, _array(products))


def _names(model: BaseCTRModel) -> list[str]:
    """What the field vectors are of, in their order."""
    embedding = model.embedding
    if embedding.has_group("fm"):
        return list(embedding.group_feature_dims("fm"))
    return list(embedding.group_feature_dims("wide"))


def _array(values: torch.Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = values.double().cpu().numpy()
    return found
