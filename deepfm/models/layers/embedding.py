"""Embedding tables, and the three views of a batch that all models are made of.

Decided here: how sequences are pooled, which fields are projected, and how the weights that are
no table begin. Only `storage` knows how the tables are stored.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepfm.models.layers.storage import PackedTables, TableSpec

COMBINERS = ("mean", "sum", "max")


class DenseSpec(NamedTuple):
    """A numeric field: raw (`dim` None), or multiplied with a learned vector of width `dim`."""

    name: str
    dim: int | None


class Views(NamedTuple):
    """What a model sees of a batch.

    Attributes:
        first_order: Sum of the fields' first-order weights, (B, 1); zeros where the layer has none.
        field_embeddings: One vector per embedded field, (B, F, D); None where the layer was built
            without `fm_embedding_dim`.
        flat_embeddings: The fields' own vectors end to end, then the raw dense columns, (B, total).
    """

    first_order: Tensor
    field_embeddings: Tensor | None
    flat_embeddings: Tensor


class FeatureEmbedding(nn.Module):
    """Looks up, pools and projects the fields of a batch into `Views`.

    A sparse field gives the row of its id. A sequence field gives the `mean`, `sum` or `max` of
    its valid rows: positions below the length whose id is not `padding_idx`; without any, the
    zero vector. A linear dense field gives its value times a learned vector. Fields whose dim is
    not `fm_embedding_dim` pass a linear map without bias, so that a zero vector stays zero, on
    the way to `field_embeddings`; all others are the very same vectors in both views.

    A raw dense field has no vector: it stands in the last columns of `flat_embeddings`. In the
    first-order term every dense field counts with w · x.

    Ids are not checked here: an id beyond its table is the caller's mistake.

    Source: H. Guo et al., "DeepFM", IJCAI 2017, arXiv:1703.04247, Section 2.1 (FM and DNN share
    the embedding vectors).

    NOTE[DIFF]: The paper gives every field the same dim. Fields may differ here, and the
    projection exists for them alone.
    NOTE[DIFF]: Sequences are gathered and pooled under a mask, not by `nn.EmbeddingBag`, some of
    whose options return wrong values on MPS; the result is the same.

    Args:
        fields: The fields in the order of the views. The k-th sparse field reads `sparse[:, k]`,
            the k-th dense field `dense[:, k]`, the k-th sequence field `sequence_ids[k]`.
        fm_embedding_dim: D of `field_embeddings`; None: nobody reads that view, and there are no
            projections.
        first_order: Whether there are first-order weights.

    Attributes:
        num_fields: Embedded fields, the F of `field_embeddings`.
        total_dim: Width of `flat_embeddings`.
        dense_tail_dim: Raw dense columns at the end of `flat_embeddings`.

    Example:
        >>> fields = [TableSpec("city", 10, 4, 0, None, "xavier_uniform"), DenseSpec("age", None)]
        >>> layer = FeatureEmbedding(fields, fm_embedding_dim=8, first_order=True)
        >>> views = layer(torch.tensor([[3], [0]]), torch.tensor([[0.5], [2.0]]), (), ())
        >>> [tuple(view.shape) for view in views]
        [(2, 1), (2, 1, 8), (2, 5)]
        >>> list(layer.tables.state_dict())
        ['city.weight', 'city_wide.weight']
    """

    def __init__(
        self,
        fields: Sequence[TableSpec | DenseSpec],
        *,
        fm_embedding_dim: int | None,
        first_order: bool,
    ) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.fm_embedding_dim = fm_embedding_dim
        tables = [field for field in self.fields if isinstance(field, TableSpec)]
        dense = [field for field in self.fields if isinstance(field, DenseSpec)]
        dims = {field.name: field.dim for field in self.fields if field.dim is not None}
        self.num_fields = len(dims)
        self.dense_tail_dim = sum(field.dim is None for field in dense)
        self.total_dim = sum(dims.values()) + self.dense_tail_dim
        self._dense = dense
        self._sparse = [table for table in tables if table.combiner is None]
        self._sequences = [table for table in tables if table.combiner is not None]
        self._groups = [
            _Group(
                dim,
                [k for k, table in enumerate(self._sparse) if table.dim == dim],
                [k for k, table in enumerate(self._sequences) if table.dim == dim],
            )
            for dim in dict.fromkeys(table.dim for table in tables)
        ]
        self._runs = _runs(self.fields)

        self.tables = PackedTables(tables, wide=first_order)
        self.dense_vectors = NamedWeights(
            {field.name: (1, field.dim) for field in dense if field.dim is not None}
        )
        self.projections = NamedWeights(
            {
                name: (fm_embedding_dim, dim)
                for name, dim in dims.items()
                if fm_embedding_dim not in (None, dim)
            }
        )
        self.first_order = first_order
        self.dense_first_order = (
            nn.Parameter(torch.empty(len(dense))) if first_order and dense else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Tables by their own initializer, all other weights Xavier uniform."""
        self.tables.reset_parameters()
        for weight in (*self.dense_vectors.parameters(), *self.projections.parameters()):
            nn.init.xavier_uniform_(weight)
        if self.dense_first_order is not None:
            nn.init.xavier_uniform_(self.dense_first_order.detach().unsqueeze(0))

    def forward(
        self,
        sparse: Tensor,
        dense: Tensor,
        sequence_ids: Sequence[Tensor],
        sequence_lengths: Sequence[Tensor],
    ) -> Views:
        """Views of B rows; the arguments are the fields of `deepfm.data.batch.Inputs`."""
        self._check_shapes(sparse, dense, sequence_ids)
        vectors: dict[str, Tensor] = {}  # by the first field of a run, (B, fields, d)
        first_order = [dense.new_zeros(dense.shape[0], 1)]  # terms, (B, 1)
        bags = self._bags(sequence_ids, sequence_lengths)
        for group, rows in self._located(sparse, bags):
            self._add_group(group, rows, bags, vectors, first_order)
        for k, field in enumerate(self._dense):
            if field.dim is not None:
                vector = dense[:, k : k + 1] * self.dense_vectors[field.name]  # (B, d)
                vectors[field.name] = vector.unsqueeze(1)
        if self.dense_first_order is not None:
            first_order.append((dense * self.dense_first_order).sum(1, keepdim=True))
        parts = [vectors[run[0]] for run in self._runs]
        flat = torch.cat([*(part.flatten(1) for part in parts), self._raw(dense)], dim=1)
        return Views(sum(first_order), self._aligned(parts, dense), flat)

    def l2_reg(
        self,
        sparse: Tensor,
        dense: Tensor,
        sequence_ids: Sequence[Tensor],
        sequence_lengths: Sequence[Tensor],
        *,
        rate: float,
        scope: str,
    ) -> Tensor:
        """`rate / 2` times the squared norm of table rows, first-order tables included, ().

        Scope `batch`: each row of each table that a valid position of the batch refers to counts
        once, however often it is referred to; the sum is not divided by B. Scope `table`: every
        row counts, whatever the batch. Projections and dense weights are never counted.
        """
        if scope not in ("batch", "table"):
            raise ValueError(f"scope: expected batch or table, got {scope!r}")
        total = dense.new_zeros(())
        if scope == "table":
            for weight in self.tables.parameters():
                total = total + weight.square().sum()
            return rate / 2 * total
        bags = self._bags(sequence_ids, sequence_lengths)
        for group, rows in self._located(sparse, bags):
            total = total + self.tables.squared_norm(group.dim, rows)
        return rate / 2 * total

    def _bags(
        self, sequence_ids: Sequence[Tensor], sequence_lengths: Sequence[Tensor]
    ) -> "list[_Bag]":
        bags = []
        for table, ids, lengths in zip(
            self._sequences, sequence_ids, sequence_lengths, strict=True
        ):
            position = torch.arange(ids.shape[1], device=ids.device)
            valid = position < lengths.unsqueeze(1)  # (B, L)
            if table.padding_idx is not None:
                valid = valid & (ids != table.padding_idx)
            bags.append(_Bag(table, ids, valid))
        return bags

    def _located(self, sparse: Tensor, bags: "Sequence[_Bag]") -> "Iterator[tuple[_Group, Tensor]]":
        """Where the rows of each group lie, (B, C): sparse fields first, then sequences."""
        for group in self._groups:
            ids = sparse
            if len(group.sparse) < sparse.shape[1]:
                ids = torch.cat([sparse[:, :0], *(sparse[:, k : k + 1] for k in group.sparse)], 1)
            own = [(bags[k].table.name, bags[k].ids, bags[k].valid) for k in group.sequences]
            yield group, self.tables.locate(group.dim, ids, own)

    def _add_group(
        self,
        group: "_Group",
        rows: Tensor,
        bags: "Sequence[_Bag]",
        vectors: dict[str, Tensor],
        first_order: list[Tensor],
    ) -> None:
        """Look up the tables of one dim and pool their sequences."""
        embeddings, wide = self.tables.lookup(group.dim, rows)  # (B, C, d) and (B, C)
        names = {self._sparse[k].name for k in group.sparse}
        runs = [run for run in self._runs if run[0] in names]
        own = [bags[k] for k in group.sequences]
        lengths = [bag.ids.shape[1] for bag in own]
        parts = embeddings.split([*map(len, runs), *lengths], dim=1)
        for run, part in zip(runs, parts, strict=False):
            vectors[run[0]] = part  # (B, fields of the run, d)
        for bag, part in zip(own, parts[len(runs) :], strict=True):
            vectors[bag.table.name] = pool(part, bag.valid, bag.table.combiner).unsqueeze(1)
        if wide is not None:
            single, *parts = wide.split([len(group.sparse), *lengths], dim=1)
            first_order.append(single.sum(1, keepdim=True))  # (B, 1)
            for bag, part in zip(own, parts, strict=True):
                first_order.append(pool(part.unsqueeze(2), bag.valid, bag.table.combiner))

    def _raw(self, dense: Tensor) -> Tensor:
        """The raw columns, (B, dense_tail_dim)."""
        if self.dense_tail_dim == len(self._dense):
            return dense
        raw = [dense[:, k : k + 1] for k, field in enumerate(self._dense) if field.dim is None]
        return torch.cat([dense[:, :0], *raw], dim=1)

    def _aligned(self, parts: Sequence[Tensor], dense: Tensor) -> Tensor | None:
        if self.fm_embedding_dim is None:
            return None
        aligned = [
            torch.stack(
                [
                    F.linear(vector, self.projections[name])
                    for name, vector in zip(run, part.unbind(1), strict=True)
                ],
                dim=1,
            )
            if run[0] in self.projections
            else part
            for run, part in zip(self._runs, parts, strict=True)
        ]
        if len(aligned) == 1:
            return aligned[0]
        return torch.cat(
            [dense.new_zeros(dense.shape[0], 0, self.fm_embedding_dim), *aligned], dim=1
        )

    def _check_shapes(self, sparse: Tensor, dense: Tensor, sequence_ids: Sequence[Tensor]) -> None:
        for what, tensor, width in (
            ("sparse ids", sparse, len(self._sparse)),
            ("dense values", dense, len(self._dense)),
        ):
            if tensor.dim() != 2 or tensor.shape[1] != width:
                raise ValueError(f"expected {what} (B, {width}), got {tuple(tensor.shape)}")
        if len(sequence_ids) != len(self._sequences):
            raise ValueError(
                f"expected ids of {len(self._sequences)} sequence fields, got {len(sequence_ids)}"
            )


class _Group(NamedTuple):
    """The fields whose tables have one dim, as positions among sparse and sequence fields."""

    dim: int
    sparse: list[int]
    sequences: list[int]


class _Bag(NamedTuple):
    """A sequence field of a batch: ids and which of them count, both (B, L)."""

    table: TableSpec
    ids: Tensor
    valid: Tensor


def _runs(fields: Sequence[TableSpec | DenseSpec]) -> list[tuple[str, ...]]:
    """The embedded fields in order; sparse neighbours of one dim, looked up together, are one."""
    runs: list[tuple[str, ...]] = []
    before = None  # the dim of the run, if it may go on
    for field in fields:
        if field.dim is None:
            continue
        dim = field.dim if isinstance(field, TableSpec) and field.combiner is None else None
        if runs and dim is not None and dim == before:
            runs[-1] += (field.name,)
        else:
            runs.append((field.name,))
        before = dim
    return runs


class NamedWeights(nn.Module):
    """Matrices under names that only the data decides; `state_dict` keys are `<name>.weight`.

    `nn.ModuleDict` and `nn.ParameterDict` refuse names such as `type`, `keys` or `children`,
    because the attribute would hide a method. Here the attribute is called `<name>_weight`, and
    saving and loading translate.

    Example:
        >>> weights = NamedWeights({"type": (5, 2)})
        >>> list(weights.state_dict()), tuple(weights["type"].shape)
        (['type.weight'], (5, 2))
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        super().__init__()
        self._names = tuple(shapes)
        for name, shape in shapes.items():
            self.register_parameter(f"{name}_weight", nn.Parameter(torch.empty(shape)))

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> Tensor:
        return getattr(self, f"{name}_weight")

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        for name in self._names:
            weight = self[name]
            destination[f"{prefix}{name}.weight"] = weight if keep_vars else weight.detach()

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ) -> None:
        keys = {f"{prefix}{name}_weight": f"{prefix}{name}.weight" for name in self._names}
        own = {inside: state_dict[key] for inside, key in keys.items() if key in state_dict}
        missing: list[str] = []
        super()._load_from_state_dict(
            own, prefix, local_metadata, strict, missing, unexpected_keys, error_msgs
        )
        missing_keys += [keys[inside] for inside in missing]
        known = set(keys.values())
        unexpected_keys += [k for k in state_dict if k.startswith(prefix) and k not in known]


def pool(vectors: Tensor, valid: Tensor, combiner: str) -> Tensor:
    """One vector per bag, (B, d), from vectors (B, L, d) and the mask (B, L) of those that count.

    `mean` divides by the number of valid vectors, not by L. A bag without any is zero.

    Example:
        >>> vectors = torch.tensor([[[2.0], [-4.0], [9.0]]])
        >>> valid = torch.tensor([[True, True, False]])
        >>> [pool(vectors, valid, combiner).item() for combiner in COMBINERS]
        [-1.0, -2.0, 2.0]
    """
    if combiner not in COMBINERS:
        raise ValueError(f"combiner: expected one of {', '.join(COMBINERS)}, got {combiner!r}")
    count = valid.sum(1, keepdim=True)  # (B, 1)
    if combiner == "max":
        vectors = vectors.masked_fill(~valid.unsqueeze(-1), -math.inf)  # (B, L, d)
        return vectors.amax(1).masked_fill(count == 0, 0.0)
    # A product costs a tenth of filling under a mask that is broadcast, on the CPU.
    total = (vectors * valid.unsqueeze(-1).to(vectors.dtype)).sum(1)  # (B, d)
    return total / count.clamp(min=1) if combiner == "mean" else total
