"""Inputs become vectors by field: rows of tables, pooled or one by one, and projected numbers.

Decided here: which ids of a sequence count, how they are pooled, and that one call of the tables
carries the ids of all fields.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepfm.errors import ArgumentError
from deepfm.models.layers.fields import DenseField, Field, IdField, NumbersField
from deepfm.models.layers.initializers import initializer_from
from deepfm.models.layers.named_weights import NamedWeights
from deepfm.models.layers.numbers import EncodedFields, groups_of_one_shape
from deepfm.models.layers.storage import PackedTables
from deepfm.models.layers.tables import EMBEDDING, Answer, Bag, Ids, Located, Read, Tables, is_wide

POOLED = ("mean", "sum", "max")  # combiners without weights of their own
POSITION_DECAY = 0.1  # per place, of the weights of positions before training


class Request(NamedTuple):
    """What a view asks for.

    Attributes:
        fields: Names, in the order in which the view shows them.
        suffix: Which of a field's tables.
        dim: Width of those tables; None: each field's own.
        pooled: Whether a sequence is one vector; else its vectors one by one, with their mask.
        ordered: Whether fields stand side by side; False: the view adds them up in any order.
    """

    fields: Sequence[str]
    suffix: str = EMBEDDING
    dim: int | None = None
    pooled: bool = True
    ordered: bool = True


class SequenceVectors(NamedTuple):
    """Vectors of a sequence field, (B, L, d), and which of them count, (B, L).

    A vector that does not count is zero.
    """

    vectors: Tensor
    valid: Tensor


class Vectors(NamedTuple):
    """The vectors of a batch.

    Attributes:
        runs: Of fields that stand side by side, (B, fields, d), by suffix and first field.
        sequences: Of sequences that a view wants one by one, by suffix and field.
        dense: The numbers of the dense fields, (B, sum of value_dim).
        terms: First-order terms of the encoded columns that have some, (B, columns) each.
    """

    runs: dict[tuple[str, str], Tensor]
    sequences: dict[tuple[str, str], SequenceVectors]
    dense: Tensor
    terms: list[Tensor]


# As `Located`, by parameter, in a batch that knows no layer.
LocatedParts = Mapping[str, tuple[Tensor, Tensor, Tensor]]
# A part of a view: fields that are looked up side by side, or columns of raw numbers.
Part = tuple[str, ...] | slice


class Lookup(nn.Module):
    """Turns the inputs of a batch into `Vectors`.

    A sparse field gives the row of its id; -1 means no value, the zero vector. A sequence field
    gives the `mean`, `sum` or `max` of its valid rows: positions below the length whose id is
    neither `padding_idx` nor -1; without any, the zero vector. With the combiner `position` it
    gives sum_l w_l v_l, with w the softmax, over the valid rows, of a learned weight per place
    counted from the last one on. A linear dense field gives its
    numbers times a learned matrix, an encoded one what `EncodedFields` says, a raw one has no
    vector. A sequence of numbers is a sequence of vectors of one number, and is never pooled.

    A subclass arranges the vectors in views, and calls `reset_parameters` once it is made.

    Ids are not checked here: an id beyond its table is the caller's mistake.

    NOTE[DIFF]: Sequences are gathered and pooled under a mask, not by `nn.EmbeddingBag`, some of
    whose options return wrong values on MPS; the result is the same.

    Args:
        fields: The fields in the order of the inputs. The k-th sparse field reads `sparse[:, k]`,
            a dense field the columns of `dense` that follow those of the dense field before it,
            the k-th sequence field `sequence_ids[k]`.
        requests: What the views ask for.
        first_order: Whether dense fields have first-order weights.
        tables: How the tables are stored.
    """

    def __init__(
        self,
        fields: Sequence[Field],
        requests: Sequence[Request],
        *,
        first_order: bool = False,
        tables: Callable[[Sequence[IdField], Sequence[Read]], Tables] = PackedTables,
    ) -> None:
        super().__init__()
        self.fields = tuple(fields)
        ids = [field for field in self.fields if isinstance(field, IdField)]
        self._dense = [field for field in self.fields if isinstance(field, DenseField)]
        self._columns = slices({field.name: field.value_dim for field in self._dense})
        self._num_sparse = sum(field.combiner is None for field in ids)
        self._sequences = [field for field in ids if field.combiner is not None]
        given = [
            field
            for field in self.fields
            if isinstance(field, NumbersField) or field in self._sequences
        ]
        self._num_sequences = len(given)
        self._places = [k for k, field in enumerate(given) if isinstance(field, IdField)]
        self._numbers = {
            field.name: k for k, field in enumerate(given) if isinstance(field, NumbersField)
        }
        known = {field.name for field in ids}
        reads = [
            Read(name, request.suffix, request.dim)
            for request in requests
            for name in request.fields
            if name in known
        ]
        self.tables = tables(ids, list(dict.fromkeys(reads)))
        self._pieces = [
            _Piece.of(answer, self._sequences, requests) for answer in self.tables.answers
        ]
        shown = {name for request in requests for name in request.fields}
        vectors = [field for field in self._dense if field.dim is not None and field.name in shown]
        linear = [field for field in vectors if not field.is_encoded]
        self._linear = {field.name: field.initializer for field in linear}
        self.dense_vectors = NamedWeights(
            {field.name: (field.value_dim, field.dim) for field in linear if field.dim is not None}
        )
        by_place = [field for field in self._sequences if field.combiner == "position"]
        self.positions = NamedWeights({field.name: (field.max_length,) for field in by_place})
        self.encoded = nn.ModuleDict()
        self._encoded_runs: dict[str, list[tuple[str, ...]]] = {}
        orders = [r.fields for r in requests if not is_wide(r.suffix) and r.ordered]
        for shape, fields_of in groups_of_one_shape(vectors).items():
            places = [range(part.start, part.stop) for part in map(self._columns_of, fields_of)]
            columns = list(itertools.chain(*places))
            self.encoded[shape] = EncodedFields(fields_of, columns, first_order=first_order)
            self._encoded_runs[shape] = _runs([field.name for field in fields_of], orders)

    def _columns_of(self, field: DenseField) -> slice:
        return self._columns[field.name]

    def encoded_fields(self) -> list[EncodedFields]:
        """The encoded dense fields that have a vector, in groups of one shape."""
        return [group for group in self.encoded.values() if isinstance(group, EncodedFields)]

    def reset_parameters(self) -> None:
        """Tables and matrices by their own initializer; weights of places fall with their age."""
        self.tables.reset_parameters()
        for weight in self.positions.parameters():
            weight.detach().copy_(-POSITION_DECAY * torch.arange(len(weight)))
        for name, initializer in self._linear.items():
            initializer_from(initializer)(self.dense_vectors[name].detach())
        for group in self.encoded_fields():
            group.reset_parameters()

    def parts(self, names: Sequence[str], suffix: str = EMBEDDING) -> list[Part]:
        """What stands end to end in a view of these fields: runs, and columns of raw numbers.

        Fields that have no table are the same whatever the suffix.
        """
        heads = {
            run[0]: run for piece in self._pieces if piece.suffix == suffix for run in piece.runs
        }
        if not is_wide(suffix):
            heads |= {run[0]: run for runs in self._encoded_runs.values() for run in runs}
        inside = {name for run in heads.values() for name in run[1:]}
        raw = {field.name for field in self._dense if field.dim is None}
        parts: list[Part] = []
        for name in names:
            if name in raw:
                columns, last = self._columns[name], parts[-1] if parts else ()
                if isinstance(last, slice) and last.stop == columns.start:
                    parts[-1] = slice(last.start, columns.stop)
                else:
                    parts.append(columns)
            elif name not in inside:
                parts.append(heads.get(name, (name,)))
        return parts

    def vectors(
        self,
        sparse: Tensor,
        dense: Tensor,
        sequence_ids: Sequence[Tensor],
        sequence_lengths: Sequence[Tensor],
        located: LocatedParts | None = None,
    ) -> Vectors:
        """Vectors of B rows; the arguments are the fields of `deepfm.data.batch.Inputs`."""
        self._check_shapes(sparse, dense, sequence_ids)
        ids = self.ids(sparse, sequence_ids, sequence_lengths, located)
        found = Vectors({}, {}, dense, [])
        shares = self._shares(ids.bags, [sequence_lengths[k] for k in self._places])
        for piece, answer in zip(self._pieces, self.tables.lookup(ids), strict=True):
            piece.cut(answer, ids.bags, shares, found)
        for name, k in self._numbers.items():
            found.sequences[EMBEDDING, name] = numbers_of(sequence_ids[k], sequence_lengths[k])
        for name in self._linear:
            values, matrix = dense[:, self._columns[name]], self.dense_vectors[name]
            vector = values * matrix if len(matrix) == 1 else values @ matrix  # (B, d)
            found.runs[EMBEDDING, name] = vector.unsqueeze(1)
        for shape, group in self.encoded.items():
            of_fields, terms = group(dense)  # (B, F, d)
            runs = self._encoded_runs[shape]
            for run, part in zip(runs, of_fields.split([*map(len, runs)], dim=1), strict=True):
                found.runs[EMBEDDING, run[0]] = part
            if terms is not None:
                found.terms.append(terms)
        return found

    def _shares(self, bags: Sequence[Bag], lengths: Sequence[Tensor]) -> dict[str, Tensor]:
        """Of fields that are pooled by position, what each vector counts, (B, L)."""
        return {
            field.name: shares_of_places(self.positions[field.name], bag.valid, length)
            for field, bag, length in zip(self._sequences, bags, lengths, strict=True)
            if field.name in self.positions
        }

    def located(
        self, sparse: Tensor, sequence_ids: Sequence[Tensor], sequence_lengths: Sequence[Tensor]
    ) -> Mapping[str, Located] | None:
        """What can be found of the tables' rows before these ids, on the CPU, are looked up."""
        return self.tables.located(self.ids(sparse, sequence_ids, sequence_lengths))

    def ids(
        self,
        sparse: Tensor,
        sequence_ids: Sequence[Tensor],
        sequence_lengths: Sequence[Tensor],
        located: LocatedParts | None = None,
    ) -> Ids:
        """The ids of a batch, and which of them count in a sequence."""
        bags = []
        for field, k in zip(self._sequences, self._places, strict=True):
            ids, lengths = sequence_ids[k], sequence_lengths[k]
            position = torch.arange(ids.shape[1], device=ids.device)
            nothing = -1 if field.padding_idx is None else field.padding_idx
            valid = (position < lengths.unsqueeze(1)) & (ids != nothing)  # (B, L)
            bags.append(Bag(ids, valid))
        if located is None:
            return Ids(sparse, bags)
        return Ids(sparse, bags, {name: Located(*parts) for name, parts in located.items()})

    def _check_shapes(self, sparse: Tensor, dense: Tensor, sequence_ids: Sequence[Tensor]) -> None:
        for what, tensor, width in (
            ("sparse ids", sparse, self._num_sparse),
            ("dense values", dense, sum(field.value_dim for field in self._dense)),
        ):
            if tensor.dim() != 2 or tensor.shape[1] != width:
                raise ValueError(f"expected {what} (B, {width}), got {tuple(tensor.shape)}")
        if len(sequence_ids) != self._num_sequences:
            raise ValueError(
                f"expected ids of {self._num_sequences} sequence fields, got {len(sequence_ids)}"
            )


class _Piece(NamedTuple):
    """How an answer of the tables is cut.

    Attributes:
        suffix: Of its tables.
        runs: Its sparse fields, those together that stand together in every view.
        sequences: By position among the sequence fields.
        pooled, unpooled: Names of those that a view wants so.
    """

    suffix: str
    runs: list[tuple[str, ...]]
    sequences: dict[int, IdField]
    pooled: set[str]
    unpooled: set[str]

    @classmethod
    def of(
        cls, answer: Answer, sequences: Sequence[IdField], requests: Sequence[Request]
    ) -> "_Piece":
        own = [request for request in requests if request.suffix == answer.suffix]
        return cls(
            answer.suffix,
            _runs(answer.sparse, [request.fields for request in own if request.ordered]),
            {k: field for k, field in enumerate(sequences) if field.name in answer.sequences},
            {name for request in own if request.pooled for name in request.fields},
            {name for request in own if not request.pooled for name in request.fields},
        )

    def cut(
        self,
        answer: Tensor,
        bags: Sequence[Bag],
        shares: Mapping[str, Tensor],
        found: Vectors,
    ) -> None:
        """Put vectors (B, C, d) where they belong; `shares` are those of their places."""
        widths = [*map(len, self.runs), *(bags[k].ids.shape[1] for k in self.sequences)]
        parts = answer.split(widths, dim=1)
        for run, part in zip(self.runs, parts, strict=False):
            found.runs[self.suffix, run[0]] = part
        for (k, field), part in zip(self.sequences.items(), parts[len(self.runs) :], strict=True):
            valid, key = bags[k].valid, (self.suffix, field.name)
            if field.name in self.pooled:
                if field.name in shares:
                    found.runs[key] = shares[field.name].unsqueeze(1) @ part  # (B, 1, d)
                else:
                    found.runs[key] = pool(part, valid, str(field.combiner)).unsqueeze(1)
            if field.name in self.unpooled:
                found.sequences[key] = SequenceVectors(part, valid)


def _runs(names: Sequence[str], views: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Fields that are looked up side by side, cut into runs that stand side by side in all views.

    Example:
        >>> _runs("abcd", ["xabcd", "bcd"])
        [('a',), ('b', 'c', 'd')]
    """
    runs: list[tuple[str, ...]] = []
    neighbours = [set(itertools.pairwise(view)) for view in views]
    for name in names:
        if runs and all(
            (runs[-1][-1], name) in pairs or (runs[-1][-1] not in view and name not in view)
            for view, pairs in zip(views, neighbours, strict=True)
        ):
            runs[-1] += (name,)
        else:
            runs.append((name,))
    return runs


def slices(widths: Mapping[str, int]) -> dict[str, slice]:
    """Where each name's columns lie, end to end.

    Example:
        >>> slices({"a": 2, "b": 1})
        {'a': slice(0, 2, None), 'b': slice(2, 3, None)}
    """
    found, start = {}, 0
    for name, width in widths.items():
        found[name], start = slice(start, start + width), start + width
    return found


def merged(columns: Sequence[slice]) -> list[slice]:
    """Slices in order, those that touch as one.

    Example:
        >>> merged([slice(0, 2), slice(2, 3), slice(5, 6)])
        [slice(0, 3, None), slice(5, 6, None)]
    """
    found: list[slice] = []
    for part in columns:
        if found and found[-1].stop == part.start:
            found[-1] = slice(found[-1].start, part.stop)
        else:
            found.append(part)
    return found


def numbers_of(bits: Tensor, lengths: Tensor) -> SequenceVectors:
    """The numbers of a sequence, (B, L, 1), and which are there: those of no bits are not.

    Args:
        bits: Of float32 numbers, as whole numbers from 0 on; -1 for none, (B, L).
        lengths: Of the rows, (B,).

    Example:
        >>> numbers_of(torch.tensor([[0x3F800000, 0xC0000000, -1]]), torch.tensor([3]))[0].flatten()
        tensor([ 1., -2.,  0.])
    """
    position = torch.arange(bits.shape[1], device=bits.device)
    valid = (position < lengths.unsqueeze(1)) & (bits != -1)
    signed = torch.where(bits < 2**31, bits, bits - 2**32).to(torch.int32)
    numbers = torch.where(valid, signed.view(torch.float32), 0.0)
    return SequenceVectors(numbers.unsqueeze(2), valid)


def shares_of_places(weights: Tensor, valid: Tensor, lengths: Tensor) -> Tensor:
    """The softmax over the valid places of each row, (B, L); zeros where there is none.

    The last element of a row has the first weight, the one before it the second, and so on.

    Args:
        weights: Of the places, counted from the last one on, (max_length,).
        valid: Which elements count, (B, L).
        lengths: Of the rows, (B,).

    Example:
        >>> weights, valid = torch.zeros(4), torch.tensor([[True, True, False]])
        >>> shares_of_places(weights, valid, torch.tensor([2]))
        tensor([[0.5000, 0.5000, 0.0000]])
    """
    position = torch.arange(1, valid.shape[1] + 1, device=valid.device)
    place = (lengths.unsqueeze(1) - position).clamp_(0, len(weights) - 1)  # (B, L)
    # Not -inf, of which a row without valid places would be all: that is NaN, and its gradient too.
    lowest = torch.finfo(weights.dtype).min
    return torch.where(valid, weights[place], lowest).softmax(1) * valid


def pool(vectors: Tensor, valid: Tensor, combiner: str) -> Tensor:
    """One vector per bag, (B, d), from vectors (B, L, d) and the mask (B, L) of those that count.

    `mean` divides by the number of valid vectors, not by L. A bag without any is zero.

    Example:
        >>> vectors = torch.tensor([[[2.0], [-4.0], [9.0]]])
        >>> valid = torch.tensor([[True, True, False]])
        >>> [pool(vectors, valid, combiner).item() for combiner in ("mean", "sum", "max")]
        [-1.0, -2.0, 2.0]
    """
    if combiner not in POOLED:
        raise ArgumentError("combiner", f"expected one of {', '.join(POOLED)}, got {combiner!r}")
    count = valid.sum(1, keepdim=True)  # (B, 1)
    if combiner == "max" and vectors.shape[1]:  # of no positions there is no maximum
        vectors = vectors.masked_fill(~valid.unsqueeze(-1), -math.inf)  # (B, L, d)
        return vectors.amax(1).masked_fill(count == 0, 0.0)
    # A product costs a tenth of filling under a mask that is broadcast, on the CPU.
    total = (vectors * valid.unsqueeze(-1).to(vectors.dtype)).sum(1)  # (B, d)
    return total / count.clamp(min=1) if combiner == "mean" else total
