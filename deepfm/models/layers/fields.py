"""The fields that an embedding layer reads, as plain tuples of ints and texts."""

from collections.abc import Iterable
from typing import NamedTuple


class IdField(NamedTuple):
    """A categorical field and the tables that its ids are looked up in.

    Attributes:
        name: Name of the field.
        rows, dim: Shape of its embedding table; each of its tables has as many rows.
        padding_idx: The id whose row is zero and never trained; None: every row is ordinary.
        combiner: How a sequence is pooled (`mean`, `sum`, `max`, `position`); None: one id per row.
        initializer: Of its tables, as `initializers.initializer_from` reads it.
        table: Name of its tables, which fields may share; None: the field's own name.
        wide_initializer: Of the first-order weights; None: the same.
        trainable: Whether training changes its tables.
        max_length: Places that the combiner `position` has weights for.
    """

    name: str
    rows: int
    dim: int
    padding_idx: int | None
    combiner: str | None
    initializer: str
    table: str | None = None
    wide_initializer: str | None = None
    trainable: bool = True
    max_length: int = 0

    @property
    def table_name(self) -> str:
        """Name of its tables."""
        return self.table or self.name


class DenseField(NamedTuple):
    """A numeric field: raw (`dim` None), encoded, or multiplied with a matrix (value_dim, dim).

    Attributes:
        name: Name of the field.
        dim: Width of its vector; None: it has none.
        value_dim: How many columns of `dense` it has.
        initializer: Of the matrix, as `initializers.initializer_from` reads it.
        edges: Of the bins of a piecewise encoding, rising; empty: there is none.
        frequencies: How many a periodic encoding has; 0: there is none.
        frequency_scale: Their deviation before training.
    """

    name: str
    dim: int | None
    value_dim: int = 1
    initializer: str = "xavier_uniform"
    edges: tuple[float, ...] = ()
    frequencies: int = 0
    frequency_scale: float = 0.1

    @property
    def is_encoded(self) -> bool:
        """Whether its vector is that of an encoding."""
        return self.dim is not None and bool(self.edges or self.frequencies)

    @property
    def shape(self) -> str:
        """A name of all that fields must agree on to be encoded together."""
        several = f"_x{self.value_dim}" if self.value_dim > 1 else ""
        if self.edges:
            return f"piecewise_{self.dim}{several}"
        scale = f"{self.frequency_scale:g}".replace(".", "_")
        return f"periodic_{self.dim}{several}_of_{self.frequencies}_at_{scale}"


class NumbersField(NamedTuple):
    """A sequence field of numbers, whose ids are the bits of float32 numbers.

    Attributes:
        name: Name of the field.
    """

    name: str

    @property
    def dim(self) -> int:
        """Width of an element."""
        return 1


Field = IdField | DenseField | NumbersField


def first_readers(fields: Iterable[IdField]) -> dict[str, IdField]:
    """By name of their tables, the first field that reads them, which describes them.

    Raises:
        ValueError: Two fields disagree about the tables that they share; names both.
    """
    found: dict[str, IdField] = {}
    for field in fields:
        first = found.setdefault(field.table_name, field)
        for key in ("rows", "dim", "padding_idx", "initializer", "wide_initializer", "trainable"):
            if (mine := getattr(field, key)) != (theirs := getattr(first, key)):
                raise ValueError(
                    f"fields {first.name} and {field.name} share the table {field.table_name}, "
                    f"but have {key} {theirs} and {mine}"
                )
    return found
