"""Embedding tables, and the three views of a batch that all models are made of.

Decided here: how sequences are pooled, which fields each view shows, which are projected, and how
the weights that are no table begin. Only `storage` knows how the tables are stored.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepfm.models.layers.storage import PackedTables, TableSpec, initializer_from
from deepfm.models.layers.variational_dropout import VariationalDropout

COMBINERS = ("mean", "sum", "max")


class DenseSpec(NamedTuple):
    """A numeric field: raw (`dim` None), or multiplied with a learned matrix (value_dim, dim).

    Attributes:
        name: Name of the field.
        dim: Width of its vector; None: it has none.
        value_dim: How many columns of `dense` it has.
        initializer: Of the matrix, as `storage.initializer_from` reads it.
    """

    name: str
    dim: int | None
    value_dim: int = 1
    initializer: str = "xavier_uniform"


class Views(NamedTuple):
    """What a model sees of a batch.

    Attributes:
        first_order: Sum of the fields' first-order weights, (B, 1); zeros where the layer has none.
        field_embeddings: One vector per field, (B, F, D); None where nobody reads that view.
        flat_embeddings: The fields' own vectors end to end, (B, total).
    """

    first_order: Tensor
    field_embeddings: Tensor | None
    flat_embeddings: Tensor


class FeatureEmbedding(nn.Module):
    """Looks up, pools and projects the fields of a batch into `Views`.

    A sparse field gives the row of its id; -1 means no value, the zero vector. A sequence field
    gives the `mean`, `sum` or `max` of its valid rows: positions below the length whose id is
    neither `padding_idx` nor -1; without any, the zero vector. A linear dense field gives its
    numbers times a learned matrix. Fields whose dim is not `fm_embedding_dim` pass a linear map
    without bias, so that a zero vector stays zero, on the way to `field_embeddings`; all others
    are the very same vectors in both views.

    A view shows the fields of a group, in the group's order: `first_order` is the sum of the
    first-order vectors of `wide`, `field_embeddings` shows `fm`, `flat_embeddings` shows `deep`,
    where a raw dense field stands as its numbers. Without groups every field is in every view.
    Then the raw dense fields, which have no vector, stand last in `flat_embeddings`, and every
    dense field counts in the first-order term with w · x; a group has no such weights.

    Ids are not checked here: an id beyond its table is the caller's mistake.

    Source: H. Guo et al., "DeepFM", IJCAI 2017, arXiv:1703.04247, Section 2.1 (FM and DNN share
    the embedding vectors).

    NOTE[DIFF]: The paper gives every field the same dim. Fields may differ here, and the
    projection exists for them alone.
    NOTE[DIFF]: Sequences are gathered and pooled under a mask, not by `nn.EmbeddingBag`, some of
    whose options return wrong values on MPS; the result is the same.

    Args:
        fields: The fields in the order of the inputs. The k-th sparse field reads `sparse[:, k]`,
            a dense field the columns of `dense` that follow those of the dense field before it,
            the k-th sequence field `sequence_ids[k]`.
        fm_embedding_dim: D of `field_embeddings`; None: nobody reads that view, and there are no
            projections.
        first_order: Whether anybody reads `first_order`.
        groups: Names of the fields of `wide`, `fm` and `deep`; None: there are no groups. A raw
            dense field may be in `fm` if its `value_dim` is `fm_embedding_dim`.
        wide_dim: Width of a first-order vector.
        field_group: Whether `field_embeddings` shows the vectors of `fm`, or the first-order
            vectors of `wide`, whose D is `wide_dim`.
        fm_shows_deep: Whether `fm` is no group of its own but shows fields of `deep`, as what the
            variational dropout of `deep` leaves of them.
        variational_dropout: Whether each group of 2 fields or more has a `VariationalDropout`.

    Attributes:
        num_fields, fm_embedding_dim: F and D of `field_embeddings`.
        total_dim: Width of `flat_embeddings`.
        rest_dim: Width of `rest`.
        first_order: Whether there is a first-order term.
        dropouts: The variational dropout of each group that has one.

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
        groups: Mapping[str, Sequence[str]] | None = None,
        wide_dim: int = 1,
        field_group: str = "fm",
        fm_shows_deep: bool = False,
        variational_dropout: bool = False,
    ) -> None:
        super().__init__()
        self.fields = tuple(fields)
        tables = [field for field in self.fields if isinstance(field, TableSpec)]
        self._sparse = [table for table in tables if table.combiner is None]
        self._sequences = [table for table in tables if table.combiner is not None]
        self._dense = [field for field in self.fields if isinstance(field, DenseSpec)]
        self._columns = _slices({field.name: field.value_dim for field in self._dense})
        self._dense_dim = sum(field.value_dim for field in self._dense)
        self.fm_embedding_dim = wide_dim if field_group == "wide" else fm_embedding_dim
        self.field_group = field_group if self.fm_embedding_dim is not None else None
        self.wide_dim = wide_dim
        has_dense_weights = first_order and groups is None and bool(self._dense)
        wide, fm, deep = self._set_groups(groups, first_order, has_dense_weights)
        self.first_order = first_order and bool(self._groups["wide"])

        self.tables = PackedTables(
            tables, wide=wide_dim if wide else 0, embedded={*fm, *deep}, first_order={*wide}
        )
        self._lookups = []
        for layout, held in self.tables.layouts.items():
            sparse = [k for k, table in enumerate(self._sparse) if table.name in held.fields]
            sequences = [k for k, table in enumerate(self._sequences) if table.name in held.fields]
            names = [self._sparse[k].name for k in sparse]
            runs = _runs(names, (fm, deep)) if held.dim else []
            wide_runs = _runs(names, (wide,)) if held.wide else []
            self._lookups.append(_Lookup(layout, sparse, sequences, runs, wide_runs))
        self._wide_parts = self._parts(wide, [lookup.wide_runs for lookup in self._lookups])
        runs = [lookup.runs for lookup in self._lookups]
        self._fm_parts, self._deep_parts = (self._parts(view, runs) for view in (fm, deep))
        linear = [f for f in self._dense if f.dim is not None and f.name in {*fm, *deep}]
        self._linear = {field.name: field.initializer for field in linear}
        self.dense_vectors = NamedWeights({f.name: (f.value_dim, f.dim) for f in linear})
        dims = {field.name: field.dim for field in self.fields if field.dim is not None}
        self.projections = NamedWeights(
            {
                name: (fm_embedding_dim, dims[name])
                for name in fm
                if dims.get(name, fm_embedding_dim) != fm_embedding_dim
            }
        )
        self.dense_first_order = (
            nn.Parameter(torch.empty(self._dense_dim)) if has_dense_weights else None
        )
        self._keeps_wide = field_group == "wide" or (variational_dropout and self.first_order)
        self.dropouts = nn.ModuleDict(
            {
                group: VariationalDropout(widths)
                for group, widths in self._groups.items()
                if variational_dropout and len(widths) > 1 and not (group == "fm" and fm_shows_deep)
            }
        )
        places = _slices(self._groups["deep"])
        self._fm_in_deep: dict[str, slice] = {}  # where `fm` shows masked vectors
        if fm_shows_deep and "deep" in self.dropouts:
            self._fm_in_deep = {name: places[name] for name in fm}
        self.reset_parameters()

    def _set_groups(
        self,
        groups: Mapping[str, Sequence[str]] | None,
        first_order: bool,
        has_dense_weights: bool,
    ) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Set the widths of the groups that are read; give their fields with a wide table, of
        `field_embeddings` where it shows `fm`, and of `flat_embeddings`."""
        widths = {f.name: f.dim for f in self.fields if f.dim is not None}
        if groups is None:
            raw = [field.name for field in self._dense if field.dim is None]
            names = [table.name for table in self.fields if isinstance(table, TableSpec)]
            groups = {"wide": names, "fm": list(widths), "deep": [*widths, *raw]}
        widths |= {field.name: field.value_dim for field in self._dense if field.dim is None}
        reads_wide = first_order or self.field_group == "wide"
        wide = tuple(groups.get("wide", ()) if reads_wide else ())
        fm = tuple(groups["fm"] if self.field_group == "fm" else ())
        deep = tuple(groups["deep"])
        self._groups = {
            "wide": dict.fromkeys(wide, self.wide_dim),
            "fm": dict.fromkeys(fm, self.fm_embedding_dim),
            "deep": {name: widths[name] for name in deep},
        }
        if has_dense_weights:
            self._groups["wide"] |= {field.name: field.value_dim for field in self._dense}
        self.num_fields = len(wide if self.field_group == "wide" else fm)
        self.total_dim = self.group_total_dim("deep")
        places = _slices(self._groups["deep"])
        shown = {*fm} if self.field_group == "fm" else {*wide}
        self._rest = _merged(places[name] for name in deep if name not in shown)
        self.rest_dim = sum(part.stop - part.start for part in self._rest)
        return wide, fm, deep

    def _parts(
        self, view: Sequence[str], runs: Sequence[Sequence[tuple[str, ...]]]
    ) -> "list[tuple[str, ...] | slice]":
        """What stands end to end in a view: runs of fields, and columns of raw dense ones."""
        heads = {run[0]: run for of_lookup in runs for run in of_lookup}
        inside = {name for run in heads.values() for name in run[1:]}
        raw = {field.name for field in self._dense if field.dim is None}
        parts: list[tuple[str, ...] | slice] = []
        for name in view:
            if name in raw:
                before = parts.pop() if parts and isinstance(parts[-1], slice) else None
                parts += _merged([*([before] if before else []), self._columns[name]])
            elif name not in inside:
                parts.append(heads.get(name, (name,)))
        return parts

    def reset_parameters(self) -> None:
        """Tables and matrices by their own initializer, all other weights Xavier uniform."""
        self.tables.reset_parameters()
        for name, initializer in self._linear.items():
            initializer_from(initializer)(self.dense_vectors[name].detach())
        for weight in self.projections.parameters():
            nn.init.xavier_uniform_(weight)
        if self.dense_first_order is not None:
            nn.init.xavier_uniform_(self.dense_first_order.detach().unsqueeze(0))
        for dropout in self.dropouts.values():
            dropout.reset_parameters()

    def has_group(self, group: str) -> bool:
        """Whether any view shows fields of the group."""
        return bool(self._groups.get(group))

    def group_feature_dims(self, group: str) -> dict[str, int]:
        """Width of each field's vector in a view, in the view's order.

        Raises:
            ValueError: No view shows the group.
        """
        if not self.has_group(group):
            known = ", ".join(name for name in self._groups if self.has_group(name))
            raise ValueError(f"group: nothing reads {group!r}; known: {known}")
        return dict(self._groups[group])

    def group_dims(self, group: str) -> list[int]:
        """The widths of `group_feature_dims`."""
        return list(self.group_feature_dims(group).values())

    def group_total_dim(self, group: str) -> int:
        """The sum of `group_dims`."""
        return sum(self.group_dims(group))

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
        wide_vectors: dict[str, Tensor] = {}  # the same, (B, fields, w)
        first_order = [dense.new_zeros(dense.shape[0], 1)]  # terms, (B, 1)
        bags = self._bags(sequence_ids, sequence_lengths)
        for lookup, rows in self._located(sparse, bags):
            embeddings, wide = self.tables.lookup(lookup.layout, rows)
            own = [bags[k] for k in lookup.sequences]
            if embeddings is not None:
                _split(embeddings, lookup.runs, own, vectors)
            if wide is not None and self._keeps_wide:
                _split(wide, lookup.wide_runs, own, wide_vectors)
            elif wide is not None:
                self._add_up(wide, len(lookup.sparse), own, first_order)
        for name in self._linear:
            values, matrix = dense[:, self._columns[name]], self.dense_vectors[name]
            vector = values * matrix if len(matrix) == 1 else values @ matrix  # (B, d)
            vectors[name] = vector.unsqueeze(1)
        if self.dense_first_order is not None:
            terms = dense * self.dense_first_order
            if not self._keeps_wide:
                first_order.append(terms.sum(1, keepdim=True))
        flat = [
            dense[:, part] if isinstance(part, slice) else vectors[part[0]].flatten(1)
            for part in self._deep_parts
        ]
        flat = self._masked("deep", torch.cat(flat, dim=1))
        if not self._keeps_wide:
            return Views(sum(first_order), self._fields(vectors, dense, flat), flat)
        parts = [wide_vectors[part[0]].flatten(1) for part in self._wide_parts]
        parts += [] if self.dense_first_order is None else [terms]
        wide = self._masked("wide", torch.cat(parts, dim=1))  # (B, F_w * w)
        linear = wide.sum(1, keepdim=True) if self.first_order else first_order[0]
        if self.field_group == "wide":
            return Views(linear, wide.unflatten(1, (self.num_fields, -1)), flat)
        return Views(linear, self._fields(vectors, dense, flat), flat)

    def rest(self, flat_embeddings: Tensor) -> Tensor:
        """The columns of fields that have no vector in `field_embeddings`, (B, rest_dim)."""
        parts = [flat_embeddings[:, part] for part in self._rest]
        return parts[0] if len(parts) == 1 else torch.cat([flat_embeddings[:, :0], *parts], dim=1)

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
        row counts, whatever the batch. Projections, dense weights and tables that are not
        trainable are never counted.
        """
        if scope not in ("batch", "table"):
            raise ValueError(f"scope: expected batch or table, got {scope!r}")
        total = dense.new_zeros(())
        if scope == "table":
            for weight in self.tables.parameters():
                if weight.requires_grad:
                    total = total + weight.square().sum()
            return rate / 2 * total
        bags = self._bags(sequence_ids, sequence_lengths)
        for lookup, rows in self._located(sparse, bags):
            if self.tables.layouts[lookup.layout].trainable:
                total = total + self.tables.squared_norm(lookup.layout, rows)
        return rate / 2 * total

    def _bags(
        self, sequence_ids: Sequence[Tensor], sequence_lengths: Sequence[Tensor]
    ) -> "list[_Bag]":
        bags = []
        for table, ids, lengths in zip(
            self._sequences, sequence_ids, sequence_lengths, strict=True
        ):
            position = torch.arange(ids.shape[1], device=ids.device)
            nothing = -1 if table.padding_idx is None else table.padding_idx
            valid = (position < lengths.unsqueeze(1)) & (ids != nothing)  # (B, L)
            bags.append(_Bag(table, ids, valid))
        return bags

    def _located(
        self, sparse: Tensor, bags: "Sequence[_Bag]"
    ) -> "Iterator[tuple[_Lookup, Tensor]]":
        """Where the rows of each lookup lie, (B, C): sparse fields first, then sequences."""
        for lookup in self._lookups:
            ids = sparse
            if len(lookup.sparse) < sparse.shape[1]:
                ids = torch.cat([sparse[:, :0], *(sparse[:, k : k + 1] for k in lookup.sparse)], 1)
            own = [(bags[k].table.name, bags[k].ids, bags[k].valid) for k in lookup.sequences]
            yield lookup, self.tables.locate(lookup.layout, ids, own)

    def _add_up(
        self, wide: Tensor, num_sparse: int, bags: "Sequence[_Bag]", first_order: list[Tensor]
    ) -> None:
        """Append sums of first-order vectors (B, C, w): of the sparse fields, and per sequence."""
        single, *parts = wide.split([num_sparse, *(bag.ids.shape[1] for bag in bags)], dim=1)
        first_order.append(single.flatten(1).sum(1, keepdim=True))  # (B, 1)
        for bag, part in zip(bags, parts, strict=True):
            vector = pool(part, bag.valid, bag.table.combiner)  # (B, w)
            first_order.append(vector if self.wide_dim == 1 else vector.sum(1, keepdim=True))

    def _fields(self, vectors: Mapping[str, Tensor], dense: Tensor, flat: Tensor) -> Tensor | None:
        """The vectors of the group `fm` at one dim, (B, F, D), after its variational dropout."""
        if self.field_group is None:
            return None
        if self._fm_in_deep:
            shown = {name: flat[:, place] for name, place in self._fm_in_deep.items()}
            for name in shown:
                if name in self.projections:
                    shown[name] = F.linear(shown[name], self.projections[name])
            return torch.stack(list(shown.values()), dim=1)
        fields = self._aligned(vectors, dense)
        if "fm" in self.dropouts:
            return self._masked("fm", fields.flatten(1)).view_as(fields)
        return fields

    def _aligned(self, vectors: Mapping[str, Tensor], dense: Tensor) -> Tensor:
        """The vectors of the group `fm` at one dim, (B, F, D)."""
        aligned = []
        for part in self._fm_parts:
            if isinstance(part, slice):
                own = dense[:, part].unflatten(1, (-1, self.fm_embedding_dim))
            elif part[0] in self.projections:
                projected = [
                    F.linear(vector, self.projections[name])
                    for name, vector in zip(part, vectors[part[0]].unbind(1), strict=True)
                ]
                own = torch.stack(projected, dim=1)
            else:
                own = vectors[part[0]]
            aligned.append(own)
        if len(aligned) == 1:
            (fields,) = aligned
        else:
            nothing = dense.new_zeros(dense.shape[0], 0, self.fm_embedding_dim)
            fields = torch.cat([nothing, *aligned], dim=1)
        return fields

    def _masked(self, group: str, x: Tensor) -> Tensor:
        """A group's vectors end to end, (B, total), after its variational dropout, if any."""
        return self.dropouts[group](x) if group in self.dropouts else x

    def _check_shapes(self, sparse: Tensor, dense: Tensor, sequence_ids: Sequence[Tensor]) -> None:
        for what, tensor, width in (
            ("sparse ids", sparse, len(self._sparse)),
            ("dense values", dense, self._dense_dim),
        ):
            if tensor.dim() != 2 or tensor.shape[1] != width:
                raise ValueError(f"expected {what} (B, {width}), got {tuple(tensor.shape)}")
        if len(sequence_ids) != len(self._sequences):
            raise ValueError(
                f"expected ids of {len(self._sequences)} sequence fields, got {len(sequence_ids)}"
            )


class _Lookup(NamedTuple):
    """The fields that read one physical table, as positions among sparse and sequence fields, and
    the runs of its sparse fields in the views of embeddings and of first-order vectors."""

    layout: str
    sparse: list[int]
    sequences: list[int]
    runs: list[tuple[str, ...]]
    wide_runs: list[tuple[str, ...]]


class _Bag(NamedTuple):
    """A sequence field of a batch: ids and which of them count, both (B, L)."""

    table: TableSpec
    ids: Tensor
    valid: Tensor


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


def _split(
    found: Tensor,
    runs: Sequence[tuple[str, ...]],
    bags: Sequence[_Bag],
    vectors: dict[str, Tensor],
) -> None:
    """Put a lookup's vectors (B, C, d) under the names of the runs' first fields, (B, fields, d),
    and pooled under those of its sequences, (B, 1, d)."""
    parts = found.split([*map(len, runs), *(bag.ids.shape[1] for bag in bags)], dim=1)
    for run, part in zip(runs, parts, strict=False):
        vectors[run[0]] = part
    for bag, part in zip(bags, parts[len(runs) :], strict=True):
        vectors[bag.table.name] = pool(part, bag.valid, bag.table.combiner).unsqueeze(1)


def _slices(widths: Mapping[str, int]) -> dict[str, slice]:
    """Where each name's columns lie, end to end.

    Example:
        >>> _slices({"a": 2, "b": 1})
        {'a': slice(0, 2, None), 'b': slice(2, 3, None)}
    """
    slices, start = {}, 0
    for name, width in widths.items():
        slices[name], start = slice(start, start + width), start + width
    return slices


def _merged(slices: Iterable[slice]) -> list[slice]:
    """Slices in order, those that touch as one."""
    merged: list[slice] = []
    for part in slices:
        if merged and merged[-1].stop == part.start:
            merged[-1] = slice(merged[-1].start, part.stop)
        else:
            merged.append(part)
    return merged


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
    if combiner == "max" and vectors.shape[1]:  # of no positions there is no maximum
        vectors = vectors.masked_fill(~valid.unsqueeze(-1), -math.inf)  # (B, L, d)
        return vectors.amax(1).masked_fill(count == 0, 0.0)
    # A product costs a tenth of filling under a mask that is broadcast, on the CPU.
    total = (vectors * valid.unsqueeze(-1).to(vectors.dtype)).sum(1)  # (B, d)
    return total / count.clamp(min=1) if combiner == "mean" else total
