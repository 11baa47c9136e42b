"""The views of a batch that models are made of: three that most read, and groups by name.

Decided here: which fields each view shows, which are projected, and how the weights that are no
table begin. `lookup` makes the vectors, `views` arranges them, `storage` keeps the tables.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepfm.errors import ArgumentError
from deepfm.models.layers.fields import DenseField, Field, IdField, NumbersField
from deepfm.models.layers.lookup import (
    LocatedParts,
    Lookup,
    Part,
    Request,
    Vectors,
    merged,
    slices,
)
from deepfm.models.layers.named_weights import NamedWeights
from deepfm.models.layers.sequences import (
    FIELDS,
    Encoding,
    SequenceFields,
    SequenceView,
    only_encoded,
    sequence_view,
)
from deepfm.models.layers.storage import PackedTables
from deepfm.models.layers.tables import EMBEDDING, WIDE, Read, Tables, is_wide, table_name
from deepfm.models.layers.variational_dropout import VariationalDropout
from deepfm.models.layers.views import end_to_end, fields_at_one_dim, fields_of_flat, sums


class Views(NamedTuple):
    """What a model sees of a batch.

    Attributes:
        first_order: Sum of the fields' first-order weights, (B, 1); zeros where the layer has none.
        field_embeddings: One vector per field, (B, F, D); None where nobody reads that view.
        flat_embeddings: The fields' own vectors end to end, (B, total).
        groups: Those of further groups end to end, by name, (B, total) each.
        sequences: Events and what they are compared with, by name.
    """

    first_order: Tensor
    field_embeddings: Tensor | None
    flat_embeddings: Tensor
    groups: Mapping[str, Tensor] = {}
    sequences: Mapping[str, SequenceView] = {}


class FlatGroup(NamedTuple):
    """Fields whose vectors stand end to end in a view of their own.

    Attributes:
        fields: Names, in the order of the view; a raw dense field stands there as its numbers.
        suffix: Of the tables that it reads: its own ones, unless it is empty.
        dim: Width of these tables, which need a suffix then; None: each field's own.
    """

    fields: Sequence[str]
    suffix: str = EMBEDDING
    dim: int | None = None


class Groups(NamedTuple):
    """Which fields the views show, by name, in the order of the views.

    Attributes:
        wide: Of `first_order`, the sum of their first-order vectors; no dense fields.
        fm: Of `field_embeddings`. A raw dense field may stand there if its `value_dim` is
            `fm_embedding_dim`.
        deep: Of `flat_embeddings`, where a raw dense field stands as its numbers.
        field_vectors: Whose vectors `field_embeddings` shows: those of `fm`; those of `fm` as what
            the variational dropout of `deep` leaves of them (`deep`); or the first-order vectors
            of `wide`.
    """

    wide: Sequence[str]
    fm: Sequence[str]
    deep: Sequence[str]
    field_vectors: str = "fm"

    def read(self, *, first_order: bool, field_embeddings: bool, flat_embeddings: bool) -> "Groups":
        """Without the fields of views that nobody reads."""
        of_wide = self.field_vectors == "wide"
        return self._replace(
            wide=self.wide if first_order or of_wide else (),
            fm=self.fm if field_embeddings and not of_wide else (),
            deep=self.deep if flat_embeddings else (),
        )


def every_field(fields: Sequence[Field], encoded: Collection[str] = ()) -> Groups:
    """Every field in every view, in the order of the inputs.

    The raw dense fields, which have no vector, stand last in `deep` and not in `fm`. Sequences of
    numbers stand nowhere.

    Args:
        encoded: Sequence fields that stand in `deep` as what encoders make of them, only.
    """
    embedded = [
        field.name
        for field in fields
        if field.dim is not None and not isinstance(field, NumbersField)
    ]
    raw = [field.name for field in fields if field.dim is None]
    return Groups(
        wide=[field.name for field in fields if isinstance(field, IdField)],
        fm=embedded,
        deep=[*(name for name in embedded if name not in encoded), *raw],
    )


class FeatureEmbedding(Lookup):
    """Looks up, pools and projects the fields of a batch into `Views`.

    What the vector of a field is, `Lookup` says. Fields whose dim is not `fm_embedding_dim` pass
    a linear map without bias, so that a zero vector stays zero, on the way to `field_embeddings`;
    all others are the very same vectors in both views.

    Without groups every field is in every view, as `every_field` says, and every dense field
    counts in the first-order term, with w · x or, if it is piecewise, with a weight per bin times
    its encoding; a group has no such weights.

    Source: H. Guo et al., "DeepFM", IJCAI 2017, arXiv:1703.04247, Section 2.1 (FM and DNN share
    the embedding vectors).

    NOTE[DIFF]: The paper gives every field the same dim. Fields may differ here, and the
    projection exists for them alone.

    Args:
        fields: As `Lookup` reads them.
        fm_embedding_dim: D of `field_embeddings`; None: nobody reads that view, and there are no
            projections. Where it shows first-order vectors, D is `wide_dim` instead.
        first_order: Whether anybody reads `first_order`.
        flat_embeddings: Whether anybody reads that view; else it is empty, (B, 0).
        groups: The fields of the views; None: there are no groups.
        others: Further views, by name.
        suffixes: Of the tables of `wide`, `fm` and `deep`, where these are their own.
        sequences: Those that somebody reads, by name.
        encodings: What encoders make of these, behind the vectors of a flat view, or in the place
            of pooled vectors.
        wide_dim: Width of a first-order vector.
        variational_dropout: Whether each group of 2 fields or more has a `VariationalDropout`.
        tables: How the tables are stored: a subclass of `Tables`.

    Attributes:
        num_fields, fm_embedding_dim: F and D of `field_embeddings`; 0 where nobody reads it.
        total_dim: Width of `flat_embeddings`.
        rest_dim: Width of `rest`.
        first_order: Whether there is a first-order term.
        dropouts: The variational dropout of each group that has one.

    Example:
        >>> fields = [IdField("city", 10, 4, 0, None, "xavier_uniform"), DenseField("age", None)]
        >>> layer = FeatureEmbedding(fields, fm_embedding_dim=8, first_order=True)
        >>> views = layer(torch.tensor([[3], [0]]), torch.tensor([[0.5], [2.0]]), (), ())
        >>> [tuple(view.shape) for view in views[:3]]
        [(2, 1), (2, 1, 8), (2, 5)]
        >>> list(layer.tables.state_dict())
        ['city.weight', 'city_wide.weight']
    """

    _plain_columns: Tensor
    _place: Tensor

    def __init__(
        self,
        fields: Sequence[Field],
        *,
        fm_embedding_dim: int | None,
        first_order: bool,
        flat_embeddings: bool = True,
        groups: Groups | None = None,
        others: Mapping[str, FlatGroup] | None = None,
        suffixes: Mapping[str, str] | None = None,
        sequences: Mapping[str, SequenceFields] | None = None,
        encodings: Sequence[Encoding] = (),
        wide_dim: int = 1,
        variational_dropout: bool = False,
        tables: Callable[[Sequence[IdField], Sequence[Read]], Tables] = PackedTables,
    ) -> None:
        of_sequences = {} if sequences is None else dict(sequences)
        encoded = only_encoded(of_sequences, encodings)
        given = every_field(fields, encoded) if groups is None else groups
        shown = given.read(
            first_order=first_order,
            field_embeddings=fm_embedding_dim is not None,
            flat_embeddings=flat_embeddings,
        )
        numbers = {field.name: field.value_dim for field in fields if isinstance(field, DenseField)}
        weighted = numbers if first_order and groups is None else {}
        shows_wide = shown.field_vectors == "wide"
        has_first_order = first_order and bool(shown.wide or weighted)
        keeps_wide = shows_wide or (variational_dropout and has_first_order)
        others = {} if others is None else others
        self._suffixes = {"wide": "", "fm": "", "deep": ""} | dict(suffixes or {})
        self._suffixes["wide"] = table_name(WIDE, self._suffixes["wide"])
        wide = Request(shown.wide, self._suffixes["wide"], wide_dim, ordered=keeps_wide)
        fm, deep = (
            Request(names, self._suffixes[group])
            for group, names in (("fm", shown.fm), ("deep", shown.deep))
        )
        requests = [fm, deep, wide, *(Request(*group) for group in others.values())]
        for own in of_sequences.values():
            requests.append(Request(own.query, own.suffix))
            requests.append(Request(own.sequence, own.suffix, pooled=False))
        super().__init__(fields, requests, first_order=bool(weighted), tables=tables)
        self.first_order, self._keeps_wide = has_first_order, keeps_wide
        self.fm_embedding_dim = wide_dim if shows_wide else fm_embedding_dim or 0
        self._field_vectors = shown.field_vectors
        self._wide_parts, self._fm_parts, self._deep_parts = (
            self.parts(request.fields, request.suffix) for request in (wide, fm, deep)
        )
        self._set_sequences(
            of_sequences, encodings, [fm, deep, *(Request(*g) for g in others.values())]
        )
        self._others = {
            name: (self.parts(group.fields, group.suffix), group.suffix)
            for name, group in others.items()
        }
        widths = {field.name: field.dim or numbers[field.name] for field in fields}
        of_tables = {field.name for field in fields if isinstance(field, IdField)}
        self._groups = {
            "wide": dict.fromkeys(shown.wide, wide_dim) | weighted,
            "fm": dict.fromkeys(shown.fm, self.fm_embedding_dim),
            "deep": {name: widths[name] for name in shown.deep},
        }
        for group, (names, _, dim) in others.items():
            self._groups[group] = {
                name: dim if dim is not None and name in of_tables else widths[name]
                for name in names
            }
        for name, encoder, _, group in encodings:
            if group != FIELDS:
                self._groups[group][name] = encoder.output_dim
        self.total_dim = sum(self._groups["deep"].values())
        self._set_fields(shown.wide if shows_wide else shown.fm)
        self.projections = NamedWeights(self._projected(shown.fm))
        self._set_dense_weights(sum(weighted.values()))
        self.dropouts = nn.ModuleDict()
        if variational_dropout:
            self._add_dropouts()
        # On the device meta nothing has a value, and torch would import its compiler to draw one.
        if not any(weight.is_meta for weight in self.parameters()):
            self.reset_parameters()

    def _set_sequences(
        self,
        sequences: Mapping[str, SequenceFields],
        encodings: Sequence[Encoding],
        shown: Sequence[Request],
    ) -> None:
        """Set what stands in the views of sequences, and what encoders make of them.

        Args:
            shown: What views of pooled vectors ask for.
        """
        inputs = [
            field.name
            for field in self.fields
            if isinstance(field, NumbersField)
            or (isinstance(field, IdField) and field.combiner is not None)
        ]
        self._sequence_views = {
            name: (own, self.parts(own.query, own.suffix), inputs.index(own.sequence[0]))
            for name, own in sequences.items()
        }
        self.encoders = nn.ModuleList(encoding.encoder for encoding in encodings)
        self._encodings = [(encoding.sequence, encoding.group) for encoding in encodings]
        # By sequence whose pooled vectors an encoder stands in for: widths and places of these.
        self._replaced: dict[str, list[tuple[int, list[tuple[str, str]]]]] = {}
        dims = {field.name: field.dim for field in self.fields}
        asked = {name for own in sequences.values() for name in own.query}
        for encoding in encodings:
            if encoding.group == FIELDS:
                names = sequences[encoding.sequence].sequence
                places = {
                    name: [(request.suffix, name) for request in shown if name in request.fields]
                    for name in names
                }
                self._replaced[encoding.sequence] = [
                    (dims[name] or 0, places[name]) for name in names
                ]
                for piece in self._pieces:
                    if not is_wide(piece.suffix):
                        piece.pooled.difference_update({*names} - asked)

    def _set_dense_weights(self, num_columns: int) -> None:
        """Make first-order weights of so many dense columns, but those that have one per bin."""
        groups = [group for group in self.encoded_fields() if group.first_order is not None]
        binned = [column for group in groups for column in group.columns]
        plain = [column for column in range(num_columns) if column not in binned]
        self.dense_first_order = nn.Parameter(torch.empty(len(plain))) if plain else None
        order = [*plain, *binned]
        place = sorted(range(len(order)), key=order.__getitem__)
        for name, columns in (("_plain_columns", plain), ("_place", place)):
            self.register_buffer(name, torch.tensor(columns, dtype=torch.int64), persistent=False)

    def _set_fields(self, names: Sequence[str]) -> None:
        """Set what `field_embeddings` shows, and which columns of `flat_embeddings` it lacks."""
        self.num_fields = len(names)
        columns = slices(self._groups["deep"])
        self._fm_in_deep = {name: columns[name] for name in names if name in columns}
        self._rest = merged([part for name, part in columns.items() if name not in names])
        self.rest_dim = sum(part.stop - part.start for part in self._rest)

    def _projected(self, names: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Shapes of the projections of those of the fields that have another width."""
        own, dim = {field.name: field.dim for field in self.fields}, self.fm_embedding_dim
        widths = {name: own[name] for name in names}
        return {
            name: (dim, width)
            for name, width in widths.items()
            if width is not None and width != dim
        }

    def _add_dropouts(self) -> None:
        """A variational dropout for each group of 2 fields or more with vectors of its own."""
        for group, widths in self._groups.items():
            shares = group == "fm" and self._field_vectors == "deep"
            if len(widths) > 1 and not shares:
                self.dropouts[group] = VariationalDropout(widths)

    def reset_parameters(self) -> None:
        """Begin tables and matrices by their own initializer, all else Xavier uniform."""
        super().reset_parameters()
        for weight in self.projections.parameters():
            nn.init.xavier_uniform_(weight)
        if self.dense_first_order is not None:
            nn.init.xavier_uniform_(self.dense_first_order.detach().unsqueeze(0))
        for dropout in self.variational_dropouts().values():
            dropout.reset_parameters()

    def first_order_weights(self) -> list[Tensor]:
        """Return the weights that only the first-order term reads, without a gradient."""
        if self._field_vectors == "wide":
            return []
        found = [
            self.tables[name]
            for name, t in self.tables.logical.items()
            if t.trainable and is_wide(t.suffix)
        ]
        groups = [group.first_order for group in self.encoded_fields()]
        dense = [weight for weight in (self.dense_first_order, *groups) if weight is not None]
        return [weight.detach() for weight in (*found, *dense)]

    def vector_weights(self) -> list[Tensor]:
        """Return the weights that field vectors are multiples of, without a gradient."""
        reads_wide = self._field_vectors == "wide"
        found = [
            self.tables[name]
            for name, table in self.tables.logical.items()
            if table.trainable and (reads_wide or not is_wide(table.suffix))
        ]
        found += self.dense_vectors.parameters()
        for group in self.encoded_fields():
            found += [group.weight, group.bias]
        return [weight.detach() for weight in found]

    def variational_dropouts(self) -> dict[str, VariationalDropout]:
        """Return the variational dropout of each group that has one."""
        found = self.dropouts.items()
        return {name: module for name, module in found if isinstance(module, VariationalDropout)}

    def has_group(self, group: str) -> bool:
        """Return whether any view shows fields of the group."""
        return bool(self._groups.get(group))

    def group_feature_dims(self, group: str) -> dict[str, int]:
        """Return the width of each field's vector in a view, in the view's order.

        Raises:
            ValueError: No view shows the group.
        """
        if not self.has_group(group):
            known = ", ".join(name for name in self._groups if self.has_group(name))
            raise ArgumentError("group", f"nothing reads {group!r}; known: {known}")
        return dict(self._groups[group])

    def group_dims(self, group: str) -> list[int]:
        """Return the widths of `group_feature_dims`."""
        return list(self.group_feature_dims(group).values())

    def group_total_dim(self, group: str) -> int:
        """Return the sum of `group_dims`."""
        return sum(self.group_dims(group))

    def forward(
        self,
        sparse: Tensor,
        dense: Tensor,
        sequence_ids: Sequence[Tensor],
        sequence_lengths: Sequence[Tensor],
        located: LocatedParts | None = None,
    ) -> Views:
        """Return views of B rows; the arguments are the fields of `deepfm.data.batch.Inputs`."""
        vectors = self.vectors(sparse, dense, sequence_ids, sequence_lengths, located)
        sequences = {
            name: sequence_view(vectors, own, query, sequence_lengths[place])
            for name, (own, query, place) in self._sequence_views.items()
        }
        encoded = self._encoded(vectors, sequences)
        flat = dense[:, :0]
        if "deep" not in self._others:
            flat = self._flat(vectors, "deep", self._deep_parts, self._suffixes["deep"], encoded)
        groups = {
            name: self._flat(vectors, name, parts, suffix, encoded)
            for name, (parts, suffix) in self._others.items()
        }
        if not self._keeps_wide:
            first_order, fields = self._first_order(vectors), self._fields(vectors, flat)
            return Views(first_order, fields, flat, groups, sequences)
        wide = self._wide(vectors)
        first_order = dense.new_zeros(dense.shape[0], 1)
        if self.first_order:
            first_order = wide.sum(1, keepdim=True)
        if self._field_vectors == "wide":
            fields = wide.unflatten(1, (self.num_fields, -1))
        else:
            fields = self._fields(vectors, flat)
        return Views(first_order, fields, flat, groups, sequences)

    def _encoded(
        self, vectors: Vectors, sequences: Mapping[str, SequenceView]
    ) -> dict[str, list[Tensor]]:
        """What encoders give to each flat view, (B, output_dim) each; pooled vectors that they
        stand in for become theirs."""
        encoded: dict[str, list[Tensor]] = {}
        for encoder, (sequence, group) in zip(self.encoders, self._encodings, strict=True):
            output = encoder(sequences[sequence])
            if group != FIELDS:
                encoded.setdefault(group, []).append(output)
                continue
            widths, places = zip(*self._replaced[sequence], strict=True)
            for part, keys in zip(output.split(widths, dim=1), places, strict=True):
                vectors.runs.update(dict.fromkeys(keys, part.unsqueeze(1)))
        return encoded

    def _flat(
        self,
        vectors: Vectors,
        group: str,
        parts: Sequence[Part],
        suffix: str,
        encoded: Mapping[str, Sequence[Tensor]],
    ) -> Tensor:
        """A flat view, (B, total), after its variational dropout."""
        shown = [*end_to_end(vectors, parts, suffix), *encoded.get(group, ())]
        if not shown:
            return vectors.dense[:, :0]
        return self._masked(group, torch.cat(shown, dim=1))

    def _first_order(self, vectors: Vectors) -> Tensor:
        """The sum of the first-order vectors, (B, 1)."""
        terms = sums(vectors, self._suffixes["wide"])
        terms += [term.sum(1, keepdim=True) for term in self._dense_terms(vectors)]
        if not terms:
            return vectors.dense.new_zeros(vectors.dense.shape[0], 1)
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    def _dense_terms(self, vectors: Vectors) -> list[Tensor]:
        """The first-order terms of dense columns, (B, columns) each: plain ones, then binned."""
        if self.dense_first_order is None:
            return vectors.terms
        numbers = vectors.dense
        if vectors.terms:
            numbers = numbers.index_select(1, self._plain_columns)
        return [numbers * self.dense_first_order, *vectors.terms]

    def _wide(self, vectors: Vectors) -> Tensor:
        """The first-order vectors end to end, (B, F_w * w), after their variational dropout."""
        parts = end_to_end(vectors, self._wide_parts, self._suffixes["wide"])
        terms = self._dense_terms(vectors)
        if vectors.terms:
            terms = [torch.cat(terms, dim=1).index_select(1, self._place)]
        parts += terms
        return self._masked("wide", torch.cat(parts, dim=1))

    def _fields(self, vectors: Vectors, flat: Tensor) -> Tensor | None:
        """The vectors of the group `fm` at one dim, (B, F, D), after its variational dropout."""
        if not self.fm_embedding_dim:
            return None
        if self._field_vectors == "deep" and "deep" in self.dropouts:
            return fields_of_flat(flat, self._fm_in_deep, self.projections)
        fields = fields_at_one_dim(
            vectors,
            self._fm_parts,
            self.projections,
            self.fm_embedding_dim,
            self._suffixes["fm"],
        )
        if "fm" in self.dropouts:
            return self._masked("fm", fields.flatten(1)).view_as(fields)
        return fields

    def _masked(self, group: str, x: Tensor) -> Tensor:
        """A group's vectors end to end, (B, total), after its variational dropout, if any."""
        if group not in self.dropouts:
            return x
        masked: Tensor = self.dropouts[group](x)
        return masked

    def rest(self, flat_embeddings: Tensor) -> Tensor:
        """Return the columns of fields that have no vector in `field_embeddings`, (B, rest_dim)."""
        parts = [flat_embeddings[:, part] for part in self._rest]
        return parts[0] if len(parts) == 1 else torch.cat([flat_embeddings[:, :0], *parts], dim=1)

    def l2_reg(
        self,
        sparse: Tensor,
        dense: Tensor,
        sequence_ids: Sequence[Tensor],
        sequence_lengths: Sequence[Tensor],
        located: LocatedParts | None = None,
        *,
        rate: float,
        scope: str,
    ) -> Tensor:
        """Return `rate / 2` times the squared norm of table rows, first-order ones included, ().

        Scope `batch`: each row of each table that a valid position of the batch refers to counts
        once, however often it is referred to; the sum is not divided by B. Scope `table`: every
        row counts, whatever the batch. Projections, dense weights and tables that are not
        trainable are never counted.
        """
        if scope not in ("batch", "table"):
            raise ArgumentError("scope", f"expected batch or table, got {scope!r}")
        if scope == "table":
            norms = self.tables.squared_norms_of_all()
        else:
            ids = self.ids(sparse, sequence_ids, sequence_lengths, located)
            norms = self.tables.squared_norms(ids)
        return rate / 2 * sum(norms, dense.new_zeros(()))
