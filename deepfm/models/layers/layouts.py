"""Which rows of which tables the ids of a batch refer to: tables side by side and end to end.

Decided here: tables that the same fields read share row numbers, and those of equal widths follow
each other, so that the rows of a batch are found once for all of them, whatever stores them.
"""

from abc import ABC
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deepfm.models.layers.fields import IdField
from deepfm.models.layers.tables import Answer, Ids, Located, Read, Table, Tables

# Up to this many table rows per lookup, ticking them off costs less than sorting the lookups: 5
# times less with a tenth of a row per lookup, as much with 9 (measured on one core).
_SMALL = 4


class Layout(NamedTuple):
    """Tables side by side and end to end: what a row of them holds, and who reads it.

    Attributes:
        columns: Of each table in a row, by its suffix, in order.
        trainable: Whether training changes it.
        height: How many rows it has.
        sparse: Positions among the sparse fields of those that read its rows, all of each row.
        sequences: The same of sequence fields, each with the first row of its table.
        null: The row of every id that means "nothing".
        offsets: Of the sparse fields, the first row of each one's table, on the CPU.
        padding: Of the sparse fields, the id that means "nothing"; -1 if there is no such id.
    """

    columns: dict[str, slice]
    trainable: bool
    height: int
    sparse: list[int]
    sequences: dict[int, int]
    null: int
    offsets: Tensor
    padding: Tensor

    @property
    def widths(self) -> list[int]:
        """Widths of the tables that share a row, in column order."""
        return [columns.stop - columns.start for columns in self.columns.values()]


class Place(NamedTuple):
    """Where a table lies: a rectangle of a layout."""

    layout: str
    rows: slice
    columns: slice


class LaidOutTables(Tables, ABC):
    """Embedding tables whose rows are numbered by layouts; a subclass stores them.

    Attributes:
        layouts: By name.
        places: Where each table lies, by its name.
    """

    def __init__(self, fields: Sequence[IdField], reads: Sequence[Read]) -> None:
        super().__init__(fields, reads)
        self.layouts: dict[str, Layout] = {}
        self.places: dict[str, Place] = {}
        answers: list[Answer] = []
        for side_by_side in self._alike():
            answers += self._lay_out(f"packed_{len(self.layouts)}", side_by_side)
        self.answers = tuple(answers)
        self.places = {name: self.places[name] for name in self.logical}

    def _alike(self) -> list[list[list[Table]]]:
        """The tables that lie side by side, since the same fields read them, and of those that
        have equal dims all that lie end to end."""
        beside: dict[str, dict[tuple[str, ...], list[Table]]]
        beside = {field.table_name: {} for field in self.fields}
        for table in self.logical.values():
            beside[table.base].setdefault(table.readers, []).append(table)
        below: dict[tuple[object, ...], list[list[Table]]] = {}
        for of_base in beside.values():
            for row in of_base.values():
                widths = tuple((table.suffix, table.dim) for table in row)
                below.setdefault((widths, row[0].trainable), []).append(row)
        return list(below.values())

    def _lay_out(self, name: str, rows: list[list[Table]]) -> list[Answer]:
        """Lay out these tables, those of a list side by side, the lists end to end; gives what a
        lookup answers from them."""
        columns, width = {}, 0
        for table in rows[0]:
            columns[table.suffix] = slice(width, width + table.dim)
            width += table.dim
        offsets, padding, height = {}, {}, 0
        for side_by_side in rows:
            first = side_by_side[0]
            for table in side_by_side:
                place = slice(height, height + table.rows)
                self.places[table.name] = Place(name, place, columns[table.suffix])
            if first.padding_idx is not None:
                padding[first.base] = first.padding_idx
            offsets[first.base] = height
            height += first.rows
        base = next(iter(padding), None)
        null = height if base is None else offsets[base] + padding[base]
        height += base is None
        readers = {reader for first, *_ in rows for reader in first.readers}
        sparse, sequences = self._positions(readers)
        numbers = {
            "offsets": [offsets[field.table_name] for field in sparse.values()],
            "padding": [padding.get(field.table_name, -1) for field in sparse.values()],
        }
        on_cpu = [torch.tensor(n, dtype=torch.int64, device="cpu") for n in numbers.values()]
        for what, values in zip(numbers, on_cpu, strict=True):
            own = values.to(torch.get_default_device())
            self.register_buffer(f"{name}_{what}", own, persistent=False)
        starts = {k: offsets[field.table_name] for k, field in sequences.items()}
        trainable = rows[0][0].trainable
        self.layouts[name] = Layout(columns, trainable, height, list(sparse), starts, null, *on_cpu)
        of_sparse = tuple(field.name for field in sparse.values())
        of_bags = tuple(field.name for field in sequences.values())
        return [Answer(suffix, of_sparse, of_bags) for suffix in columns]

    def _positions(self, names: Collection[str]) -> tuple[dict[int, IdField], dict[int, IdField]]:
        """These fields by their positions among the sparse fields, and among the sequences."""
        sparse = [field for field in self.fields if field.combiner is None]
        sequences = [field for field in self.fields if field.combiner is not None]
        own, bags = (
            {k: field for k, field in enumerate(kind) if field.name in names}
            for kind in (sparse, sequences)
        )
        return own, bags

    def located(self, ids: Ids) -> dict[str, Located]:
        """The rows of each trainable layout that the ids refer to."""
        return {
            name: self._located(name, ids)
            for name, layout in self.layouts.items()
            if layout.trainable
        }

    def _located(self, name: str, ids: Ids) -> Located:
        if ids.located is not None and name in ids.located:
            return ids.located[name]
        rows = self._rows(name, ids)
        distinct, place = distinct_rows(rows.flatten(), self.layouts[name].height)
        return Located(distinct, place.view(rows.shape), distinct)

    def _rows(self, name: str, ids: Ids) -> Tensor:
        """The rows of a layout for the ids of all fields that read it, (B, C)."""
        layout, sparse = self.layouts[name], ids.sparse
        if len(layout.sparse) < sparse.shape[1]:
            own = [sparse[:, k : k + 1] for k in layout.sparse]
            sparse = torch.cat([sparse[:, :0], *own], dim=1)
        offsets, padding = getattr(self, f"{name}_offsets"), getattr(self, f"{name}_padding")
        if offsets.device != sparse.device:  # of a batch that is on its way to the tables
            offsets, padding = layout.offsets, layout.padding
        parts = [(sparse + offsets).masked_fill(sparse == padding, layout.null)]
        for k, start in layout.sequences.items():
            bag = ids.bags[k]
            parts.append((bag.ids + start).masked_fill(~bag.valid, layout.null))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def distinct_rows(rows: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """The distinct numbers among `rows` (N,), ascending, (U,), and the place of each row there.

    Of rows on another device than the CPU, U costs a synchronisation. The numbers are below
    `total`.
    """
    if rows.device.type != "cpu" or total > _SMALL * len(rows):
        distinct, place = torch.unique(rows, return_inverse=True)
        return distinct, place
    seen = torch.zeros(total, dtype=torch.uint8).index_fill_(0, rows, 1)
    distinct = seen.nonzero().squeeze(1)
    place = torch.empty(total, dtype=torch.int64)
    place.index_copy_(0, distinct, torch.arange(len(distinct)))
    return distinct, place.index_select(0, rows)
