"""What the fields of one row change of its logit: measured on the model, no account of the world.

Decided here: a field is measured by replacing it by what it is in other rows, all other fields as
they are. Such rows may be ones that never occur, and a model that spreads an effect over fields
that go together shows a part of it at each. So these are changes of a logit and no causes.

Shapes: K rows that values are drawn from, S sets of features.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepfm.data.batch import Inputs
from deepfm.data.schema import DatasetSchema
from deepfm.errors import ArgumentError
from deepfm.evaluation.measures import Array
from deepfm.evaluation.members import Members
from deepfm.evaluation.scoring import score_tasks
from deepfm.models.base import BaseCTRModel
from deepfm.models.fm import FM
from deepfm.models.frozen import frozen
from deepfm.models.fwfm import FwFM
from deepfm.objectives import Task
from deepfm.objectives.tasks import doubled

HISTORY = "history"
ROWS_AT_ONCE = 8192  # that are made and scored in one call, where there are more
TAIL = 0.1  # the spread leaves out this share of the draws at each end
ROUNDING = 1e-4  # by which parts may miss the logit and still add up to it, in float32

Logits = Callable[[Inputs], Array]  # rows to the number that is explained of each, (N,)


class Effect(NamedTuple):
    """What replacing features by draws changes the logit by, over the draws.

    Attributes:
        features: One, or the two of a pair.
        mean: Of the changes.
        deviation: Of the changes: how far they differ from draw to draw.
        low, high: Between these lies all but `TAIL` of the changes at each end.
    """

    features: tuple[str, ...]
    mean: float
    deviation: float
    low: float
    high: float

    @classmethod
    def of(cls, features: Sequence[str], changes: Array) -> "Effect":
        """Of the change at each draw, (K,)."""
        low, high = np.quantile(changes, [TAIL, 1 - TAIL])
        found = (changes.mean(), changes.std(), low, high)
        return cls(tuple(features), *map(float, found))


class PairTerm(NamedTuple):
    """The term of the logit that two fields have together, of a model whose logit has such."""

    features: tuple[str, str]
    value: float


def features_of(schema: DatasetSchema) -> dict[str, tuple[str, ...]]:
    """What is replaced as one, with its fields: a field, the fields of one sequence, the history.

    Fields of one sequence have equally many elements in a row, so that one alone cannot change.
    """
    found: dict[str, tuple[str, ...]] = {}
    for field in schema.fields.values():
        name = HISTORY if field.built else field.sequence or field.name
        found[name] = (*found.get(name, ()), field.name)
    return found


def logits_of(
    model: BaseCTRModel | Members, task: Task, *, class_: int = 1, batch_size: int = 4096
) -> Logits:
    """Return what is explained of a row: the logit of a task in float64.

    Where each class has a logit of its own, which means nothing alone, it is the logarithm of the
    odds of one class against all others. Of a regression it is the number that is predicted.

    Args:
        model: Several models, or a calibrated one, are explained as what they predict together.
        class_: Its number, of a task whose classes have a logit each.
    """

    def logits(inputs: Inputs) -> Array:
        found = score_tasks(model, inputs, batch_size=batch_size)
        of_task: Array = task.restored(doubled(found))[task.name].numpy()
        return of_task if of_task.ndim == 1 else _log_odds(of_task, class_)

    return logits


def replaced(
    row: Inputs, draws: Inputs, schema: DatasetSchema, sets: Sequence[Collection[str]]
) -> Inputs:
    """Copies of a row, each with some fields as they are in a drawn row.

    Args:
        row: One row.
        draws: K rows.
        sets: Names of fields; each set is replaced in K copies.

    Returns:
        S * K rows, set after set.
    """
    count, total = draws.num_rows, len(sets) * draws.num_rows
    own, drawn = row.select(slice(0, 1)), draws.select(slice(None))
    sparse, dense = own.sparse.repeat(total, 1), own.dense.repeat(total, 1)
    ids, lengths = [], [length.repeat(total) for length in own.sequence_lengths]
    for mine, other in zip(own.padded_ids, drawn.padded_ids, strict=True):
        wide = mine.new_zeros(total, max(mine.shape[1], other.shape[1]))  # 0 is padding
        wide[:, : mine.shape[1]] = mine
        ids.append(wide)
    sparse_at, dense_at, sequence_at = _places(schema)
    for number, names in enumerate(sets):
        rows = slice(number * count, (number + 1) * count)
        for name in names:
            if name in sparse_at:
                sparse[rows, sparse_at[name]] = drawn.sparse[:, sparse_at[name]]
            elif name in dense_at:
                dense[rows, dense_at[name]] = drawn.dense[:, dense_at[name]]
            else:
                at = sequence_at[name]
                other = drawn.padded_ids[at]
                ids[at][rows] = 0
                ids[at][rows, : other.shape[1]] = other
                lengths[at][rows] = drawn.sequence_lengths[at]
    return Inputs(sparse, dense, tuple(ids), tuple(lengths))


def single_effects(
    logits: Logits,
    row: Inputs,
    draws: Inputs,
    schema: DatasetSchema,
    features: Collection[str] | None = None,
) -> list[Effect]:
    """Return what replacing each feature of a row alone changes its logit by, largest mean first.

    Args:
        draws: K rows, such as those of training.
        features: Of `features_of`; None: all of them.
    """
    names = _names(schema, features)
    changes = _changes(logits, row, draws, schema, [(name,) for name in names])
    found = [Effect.of((name,), changes[name,]) for name in names]
    return sorted(found, key=_by_size)


def pair_effects(
    logits: Logits,
    row: Inputs,
    draws: Inputs,
    schema: DatasetSchema,
    features: Collection[str] | None = None,
) -> list[Effect]:
    """Return what replacing two features at once changes beyond both alone, largest mean first.

    [f(x_ij) - f(x)] - [f(x_i) - f(x)] - [f(x_j) - f(x)]

    with x_ij the row whose features i and j are those of one drawn row, and the same draw in all
    three. It is 0 for a logit that is a sum over features.
    """
    names = _names(schema, features)
    pairs = list(combinations(names, 2))
    changes = _changes(logits, row, draws, schema, [*((name,) for name in names), *pairs])
    found = [Effect.of((i, j), changes[i, j] - changes[i,] - changes[j,]) for i, j in pairs]
    return sorted(found, key=_by_size)


def pair_terms(model: BaseCTRModel | Members, row: Inputs) -> list[PairTerm] | None:
    """Return the terms r_ij <v_i, v_j> of a row, largest first, of FM (r_ij = 1), FwFM; else None.

    They add up to the part `interactions` of `model.branches`.
    """
    if not isinstance(model, FM | FwFM):
        return None
    model = frozen(model)
    with torch.inference_mode():
        vectors = model.embedding(*row.to(model.device)).field_embeddings[0].double()  # (F, D)
        first, second = torch.triu_indices(len(vectors), len(vectors), 1)
        terms = (vectors[first] * vectors[second]).sum(1)  # pairs (0, 1), (0, 2), ... (1, 2), ...
        if isinstance(model, FwFM):
            terms = terms * model.pairs.strengths
    names = list(model.embedding.group_feature_dims("fm"))
    pairs = combinations(names, 2)
    found = [PairTerm(pair, value) for pair, value in zip(pairs, terms.tolist(), strict=True)]
    return sorted(found, key=lambda term: -abs(term.value))


def parts_of(model: BaseCTRModel | Members, row: Inputs, logit: float) -> dict[str, float] | None:
    """Return the named parts of one row's logit, where they add up to it; else None.

    They do not for several models or tasks, behind a calibration, or for three classes or more.
    """
    if isinstance(model, Members) or len(model.tasks) > 1 or model.num_class > 2:
        return None
    model = frozen(model)
    with torch.inference_mode():
        branches = model.branches(row.to(model.device))
        found = {name: _of_class_1(part[0].double()) for name, part in branches.items()}
    scale = max(1.0, *map(abs, found.values()))
    return found if abs(sum(found.values()) - logit) <= ROUNDING * scale else None


def _changes(
    logits: Logits,
    row: Inputs,
    draws: Inputs,
    schema: DatasetSchema,
    sets: Sequence[tuple[str, ...]],
) -> dict[tuple[str, ...], Array]:
    """What replacing each set of features changes the logit by at each draw, (K,)."""
    fields, before = features_of(schema), logits(row)[0]
    found: dict[tuple[str, ...], Array] = {}
    for some in _some(sets, max(1, ROWS_AT_ONCE // draws.num_rows)):
        named = [[field for name in names for field in fields[name]] for names in some]
        after = logits(replaced(row, draws, schema, named)).reshape(len(some), -1)
        found |= zip(some, after - before, strict=True)
    return found


def _some(sets: Sequence[tuple[str, ...]], count: int) -> Iterator[Sequence[tuple[str, ...]]]:
    for start in range(0, len(sets), count):
        yield sets[start : start + count]


def _names(schema: DatasetSchema, features: Collection[str] | None) -> list[str]:
    """The features that are asked for, in the order of the schema."""
    known = features_of(schema)
    if features is None:
        return list(known)
    for name in features:
        if name not in known:
            raise ArgumentError("features", f"no feature {name!r}; known: {', '.join(known)}")
    return [name for name in known if name in features]


def _places(schema: DatasetSchema) -> tuple[dict[str, int], dict[str, slice], dict[str, int]]:
    """Where sparse, dense and sequence fields stand in `Inputs`."""
    sparse = {field.name: at for at, field in enumerate(schema.sparse_fields)}
    sequences = {field.name: at for at, field in enumerate(schema.sequence_fields)}
    dense, start = {}, 0
    for field in schema.dense_fields:
        dense[field.name] = slice(start, start + field.value_dim)
        start += field.value_dim
    return sparse, dense, sequences


def _by_size(effect: Effect) -> float:
    return -abs(effect.mean)


def _log_odds(logits: Array, class_: int) -> Array:
    """The logarithm of the odds of a class against all others, of logits (N, C)."""
    others = np.delete(logits, class_, axis=1)
    largest = others.max(1, keepdims=True)
    total = largest[:, 0] + np.log(np.exp(others - largest).sum(1))
    found: Array = logits[:, class_] - total
    return found


def _of_class_1(part: Tensor) -> float:
    """A part of one row: of two logits the difference, which is the logit of class 1."""
    return float(part if part.dim() == 0 else part[1] - part[0])
