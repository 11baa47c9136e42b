"""How views arrange the vectors of a batch: end to end, as rows of one width, or added up.

Decided here: where raw numbers stand, and which vectors are projected. Weights belong to the
layer that shows the views.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from deepfm.models.layers.lookup import Part, Vectors
from deepfm.models.layers.named_weights import NamedWeights
from deepfm.models.layers.tables import EMBEDDING


def end_to_end(vectors: Vectors, parts: Sequence[Part], suffix: str = EMBEDDING) -> list[Tensor]:
    """The fields' own vectors and raw numbers in the order of a view, each (B, width)."""
    return [
        vectors.dense[:, part]
        if isinstance(part, slice)
        else _run(vectors, part[0], suffix).flatten(1)
        for part in parts
    ]


def _run(vectors: Vectors, first: str, suffix: str) -> Tensor:
    """Fields side by side, (B, fields, d); those without a table are the same in all suffixes."""
    found = vectors.runs.get((suffix, first))
    return vectors.runs[EMBEDDING, first] if found is None else found


def sums(vectors: Vectors, suffix: str) -> list[Tensor]:
    """The sums of all numbers that the tables of a suffix gave, (B, 1) each, in any order."""
    flat = [run.flatten(1) for (of, _), run in vectors.runs.items() if of == suffix]
    return [numbers if numbers.shape[1] == 1 else numbers.sum(1, keepdim=True) for numbers in flat]


def fields_at_one_dim(
    vectors: Vectors,
    parts: Sequence[Part],
    projections: NamedWeights,
    dim: int,
    suffix: str = EMBEDDING,
) -> Tensor:
    """One vector per field, (B, F, dim): its own, through its projection, or its `dim` numbers."""
    aligned: list[Tensor] = []
    for part in parts:
        if isinstance(part, slice):
            own = vectors.dense[:, part].unflatten(1, (-1, dim))
        elif part[0] in projections:
            run = _run(vectors, part[0], suffix).unbind(1)
            projected = [F.linear(v, projections[name]) for name, v in zip(part, run, strict=True)]
            own = torch.stack(projected, dim=1)
        else:
            own = _run(vectors, part[0], suffix)
        aligned.append(own)
    if len(aligned) == 1:
        return aligned[0]
    if not aligned:
        return vectors.dense.new_zeros(vectors.dense.shape[0], 0, dim)
    return torch.cat(aligned, dim=1)


def fields_of_flat(flat: Tensor, places: Mapping[str, slice], projections: NamedWeights) -> Tensor:
    """The same from vectors that stand end to end in `flat`, each field's in its columns."""
    shown = {name: flat[:, place] for name, place in places.items()}
    for name, vector in shown.items():
        if name in projections:
            shown[name] = F.linear(vector, projections[name])
    return torch.stack(list(shown.values()), dim=1)
