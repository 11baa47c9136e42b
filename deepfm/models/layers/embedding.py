"""Embedding tables, and the three views of a batch that all models are made of.

Decided here: what a logical table is (`<name>`, and `<name>_wide` for the first-order term), how
sequences are pooled, which fields are projected, and how every one of these weights begins.
Only `PlainTables` knows how the tables are stored.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INITIALIZERS = ("xavier_uniform", "uniform_rows", "normal(STD)")
COMBINERS = ("mean", "sum", "max")


class TableSpec(NamedTuple):
    """A categorical field.

    Attributes:
        name: Name of the field and of its table.
        rows, dim: Shape of the table.
        padding_idx: The id whose row is zero and never trained; None: every row is ordinary.
        combiner: How a sequence is pooled (`mean`, `sum`, `max`); None: one id per row.
        initializer: One of `INITIALIZERS`, with a number in the place of STD.
    """

    name: str
    rows: int
    dim: int
    padding_idx: int | None
    combiner: str | None
    initializer: str


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
        self._num_sparse = sum(table.combiner is None for table in tables)
        self._num_sequences = len(tables) - self._num_sparse
        self._num_dense = len(dense)

        wide = [table._replace(name=_wide(table.name), dim=1) for table in tables]
        self.tables = PlainTables([*tables, *wide] if first_order else tables)
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
        values = dict(zip(self._dense_names(), dense.unbind(1), strict=True))
        ids = dict(self._table_ids(sparse, sequence_ids, sequence_lengths))
        vectors, raw = {}, []
        first_order = dense.new_zeros(dense.shape[0], 1)  # (B, 1)
        for field in self.fields:
            if isinstance(field, TableSpec):
                vectors[field.name] = self._pooled(field, field.name, *ids[field.name])  # (B, d)
                if self.first_order:
                    wide = self._pooled(field, _wide(field.name), *ids[field.name])  # (B, 1)
                    first_order = first_order + wide
            elif field.dim is not None:
                value = values[field.name].unsqueeze(1)
                vectors[field.name] = value * self.dense_vectors[field.name]  # (B, d)
            else:
                raw.append(values[field.name].unsqueeze(1))  # (B, 1)
        if self.dense_first_order is not None:
            first_order = first_order + (dense * self.dense_first_order).sum(1, keepdim=True)
        flat = torch.cat([dense[:, :0], *vectors.values(), *raw], dim=1)  # (B, total)
        return Views(first_order, self._aligned(vectors, dense), flat)

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
        specs = {field.name: field for field in self.fields}
        for name, (ids, valid) in self._table_ids(sparse, sequence_ids, sequence_lengths):
            padding_idx = specs[name].padding_idx
            if valid is not None:
                ids = ids[valid]
            elif padding_idx is not None:
                ids = ids[ids != padding_idx]
            rows = torch.unique(ids)
            for table in (name, _wide(name)) if self.first_order else (name,):
                total = total + self.tables.lookup(table, rows).square().sum()
        return rate / 2 * total

    def _dense_names(self) -> Iterator[str]:
        return (field.name for field in self.fields if isinstance(field, DenseSpec))

    def _table_ids(
        self, sparse: Tensor, sequence_ids: Sequence[Tensor], sequence_lengths: Sequence[Tensor]
    ) -> Iterator[tuple[str, tuple[Tensor, Tensor | None]]]:
        """Per table its ids with the mask of valid positions: (B,) and None, or twice (B, L)."""
        columns = iter(sparse.unbind(1))
        bags = iter(zip(sequence_ids, sequence_lengths, strict=True))
        for field in self.fields:
            if isinstance(field, DenseSpec):
                continue
            if field.combiner is None:
                yield field.name, (next(columns), None)
            else:
                ids, lengths = next(bags)
                position = torch.arange(ids.shape[1], device=ids.device)
                valid = position < lengths.unsqueeze(1)  # (B, L)
                if field.padding_idx is not None:
                    valid = valid & (ids != field.padding_idx)
                yield field.name, (ids, valid)

    def _pooled(self, spec: TableSpec, table: str, ids: Tensor, valid: Tensor | None) -> Tensor:
        rows = self.tables.lookup(table, ids)  # (B, d) or (B, L, d)
        return rows if valid is None else pool(rows, valid, spec.combiner)

    def _aligned(self, vectors: Mapping[str, Tensor], dense: Tensor) -> Tensor | None:
        if self.fm_embedding_dim is None:
            return None
        if not vectors:
            return dense.new_zeros(dense.shape[0], 0, self.fm_embedding_dim)
        aligned = [
            F.linear(vector, self.projections[name]) if name in self.projections else vector
            for name, vector in vectors.items()
        ]
        return torch.stack(aligned, dim=1)  # (B, F, D)

    def _check_shapes(self, sparse: Tensor, dense: Tensor, sequence_ids: Sequence[Tensor]) -> None:
        for what, tensor, width in (
            ("sparse ids", sparse, self._num_sparse),
            ("dense values", dense, self._num_dense),
        ):
            if tensor.dim() != 2 or tensor.shape[1] != width:
                raise ValueError(f"expected {what} (B, {width}), got {tuple(tensor.shape)}")
        if len(sequence_ids) != self._num_sequences:
            raise ValueError(
                f"expected ids of {self._num_sequences} sequence fields, got {len(sequence_ids)}"
            )


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


class PlainTables(NamedWeights):
    """Storage of logical tables: one parameter each, gradients by autograd.

    Callers see names, rows and vectors only, so that another storage can take its place.
    """

    def __init__(self, specs: Sequence[TableSpec]) -> None:
        super().__init__({spec.name: (spec.rows, spec.dim) for spec in specs})
        self._specs = {spec.name: spec for spec in specs}

    def reset_parameters(self) -> None:
        """Initialize each table by its own shape; the padding row is zero."""
        for name, spec in self._specs.items():
            weight = self[name].detach()
            initializer_from(spec.initializer)(weight)
            if spec.padding_idx is not None:
                weight[spec.padding_idx] = 0.0

    def lookup(self, name: str, ids: Tensor) -> Tensor:
        """Rows of a table, (..., dim) for ids (...); the padding row receives no gradient."""
        return F.embedding(ids, self[name], self._specs[name].padding_idx)


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
    fill = -math.inf if combiner == "max" else 0.0
    vectors = vectors.masked_fill(~valid.unsqueeze(-1), fill)  # (B, L, d)
    if combiner == "max":
        return vectors.amax(1).masked_fill(count == 0, 0.0)
    total = vectors.sum(1)  # (B, d)
    return total / count.clamp(min=1) if combiner == "mean" else total


def initializer_from(text: str) -> Callable[[Tensor], Tensor]:
    """The in-place initializer that a text names.

    `xavier_uniform`: uniform in ±sqrt(6 / (rows + dim)), X. Glorot and Y. Bengio, AISTATS 2010.
    `uniform_rows`: uniform in ±1 / sqrt(rows). `normal(STD)`: mean 0, deviation STD.

    Raises:
        ValueError: The text is none of these, or STD is not a number above 0.

    Example:
        >>> torch.all(initializer_from("uniform_rows")(torch.empty(4, 3)).abs() <= 0.5)
        tensor(True)
    """
    if text == "xavier_uniform":
        return nn.init.xavier_uniform_
    if text == "uniform_rows":
        return lambda weight: nn.init.uniform_(
            weight, -(weight.shape[0] ** -0.5), weight.shape[0] ** -0.5
        )
    if match := re.fullmatch(r"normal\(([0-9.eE+-]+)\)", text):
        try:
            std = float(match[1])
        except ValueError:
            std = math.nan
        if 0 < std < math.inf:
            return lambda weight: nn.init.normal_(weight, 0.0, std)
    raise ValueError(f"initializer: expected one of {', '.join(INITIALIZERS)}, got {text!r}")


def _wide(name: str) -> str:
    """Name of the table with a field's first-order weights."""
    return f"{name}_wide"
