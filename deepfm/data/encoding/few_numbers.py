"""Few values of all dense fields to scaled numbers, all fields in one array."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from deepfm.data.encoding.few_ids import cannot_be_read, is_absent
from deepfm.data.encoding.few_transforms import TRANSFORMS, Transform, reals
from deepfm.data.encoding.few_values import (
    NOTHING,
    REAL,
    SINGLE,
    TEXT,
    WHOLE,
    Column,
    NotPlain,
    check_texts,
    check_wholes,
)
from deepfm.data.encoding.scales import FLOAT32_MAX

_LARGE = 2.0**63  # numbers from here on may be no int64, beyond float32 or infinite


class DenseFields:
    """The dense fields of some groups.

    Args:
        fields: As `deepfm.data.encoding.few_rows_spec` describes them.
        scalers: The figures of each field, by its name.
    """

    def __init__(
        self, fields: Sequence[Mapping[str, Any]], scalers: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self._fields = [_Field(field) for field in fields]
        rows = dict[str, slice]()
        width = 0
        for field in self._fields:
            field.rows = rows[field.name] = slice(width, width + field.width)
            width += field.width
        self._width = width
        self._indicators = [(f.rows, rows[f.source]) for f in self._fields if f.source]
        self._is_plain = not any(field.is_special for field in self._fields)
        widths = [field.width for field in self._fields]

        def figures(key: str) -> list[Any]:
            return [scalers[field.name][key] for field in self._fields]

        def by_row(values: Any) -> np.ndarray:
            """A value per field as one per number, (width, 1)."""
            return np.repeat(np.array(values), widths)[:, None]

        self._needed = by_row([field["needs_number"] for field in fields])
        self._above = by_row([float(field["above"]) for field in fields])
        self._has_above = bool(np.isfinite(self._above).any())
        self._fill = by_row(figures("fill"))
        limits = figures("limits")
        self._has_limits = any(pair is not None for pair in limits)
        self._low = by_row([-np.inf if pair is None else pair[0] for pair in limits])
        self._high = by_row([np.inf if pair is None else pair[1] for pair in limits])
        self._in_logarithms = np.flatnonzero(by_row(figures("is_logarithmic")))
        self._origin = by_row(figures("origin"))
        spans = np.array(figures("span"), np.float64)
        self._span = by_row(np.where(spans == 0, 1.0, spans))
        self._constant = np.flatnonzero(by_row(spans == 0))
        self._default = np.full((width, 1), np.nan, np.float32)
        for field, default in zip(self._fields, figures("default"), strict=True):
            if default is not None:
                self._default[field.rows, 0] = default
        self._has_default = not np.isnan(self._default).all()

    def scaled(self, columns: Sequence[Column], rows: int) -> np.ndarray:
        """The scaled numbers of the fields' columns, (N, sum of `value_dim`) float32.

        Raises:
            NotPlain: Some value needs the path through Arrow.
        """
        if not self._fields:
            return np.empty((rows, 0), np.float32)
        numbers = self._numbers(columns, rows)
        absent = np.isnan(numbers)
        has_absent = bool(absent.any())
        if has_absent:
            if (absent & self._needed).any():
                raise NotPlain("a number that is missing")
            numbers = np.where(absent, self._fill, numbers)
        if self._has_limits:
            numbers = np.clip(numbers, self._low, self._high)
        if len(self._in_logarithms):
            numbers[self._in_logarithms] = np.log1p(numbers[self._in_logarithms])
        with np.errstate(over="ignore"):
            numbers = (numbers - self._origin) / self._span
        if len(self._constant):
            numbers[self._constant] = 0.0
        scaled = np.clip(numbers, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)
        if has_absent and self._has_default:
            scaled = np.where(absent & ~np.isnan(self._default), self._default, scaled)
        return np.ascontiguousarray(scaled.T)

    def _numbers(self, columns: Sequence[Column], rows: int) -> np.ndarray:
        """All numbers, (sum of `value_dim`, N) float64; NaN where none is there or is read."""
        if self._is_plain and all(c.kind != TEXT and not c.is_list for c in columns):
            try:
                numbers = np.array([column.values for column in columns], np.float64)
            except OverflowError:
                raise NotPlain("a whole number beyond int64") from None
        else:
            numbers = np.empty((self._width, rows))
            for field, column in zip(self._fields, columns, strict=True):
                numbers[field.rows] = field.numbers(column, rows)
        self._refuse_bad(numbers, columns)
        for own, source in self._indicators:
            numbers[own] = np.isnan(numbers[source]).any(0)
        return numbers

    def _refuse_bad(self, numbers: np.ndarray, columns: Sequence[Column]) -> None:
        """Set numbers that a field cannot have to NaN, in place."""
        suspect = np.abs(numbers) >= _LARGE
        if self._has_above:
            suspect |= numbers <= self._above
        if not suspect.any():
            return
        for column in columns:
            if column.kind == WHOLE and not column.is_list:
                check_wholes(column.values)
        bad = (np.abs(numbers) > FLOAT32_MAX) | (numbers <= self._above)
        for field in self._fields:
            if bad[field.rows].any():
                field.refuse()
                numbers[field.rows, bad[field.rows].any(0)] = np.nan


class _Field:
    """How the numbers of one field are read.

    Attributes:
        rows: Which rows of all numbers are the field's.
        source: Of an indicator of another field: that field's name.
    """

    rows: slice

    def __init__(self, field: Mapping[str, Any]) -> None:
        self.name, self.width, self.source = field["name"], field["value_dim"], field["source"]
        self._cut = field["cut"]
        transform = field["transform"]
        self._transform: Transform | None = None
        if transform is not None and not self.source:
            self._transform = TRANSFORMS[transform[0]](transform[1])
        self.refuse = cannot_be_read if field["bad_values"] == "error" else is_absent
        self._is_indicator = field["is_indicator"]
        self.is_special = self._transform is not None or self.width > 1 or self._is_indicator

    def numbers(self, column: Column, rows: int) -> Any:
        """The numbers of a column, (N,) or (value_dim, N); NaN where none is there or is read."""
        if self.source:  # known when the other field's numbers are
            return 0.0
        kind, values, is_list = column
        if self._is_indicator:
            if is_list:
                return [float(value is None) for value in values]
        elif is_list or self.width > 1 or (self._cut and kind in (TEXT, NOTHING)):
            return self._vectors(column, rows)
        return self._reals(kind, values)

    def _reals(self, kind: str, values: Sequence[Any]) -> np.ndarray:
        if kind == TEXT:
            check_texts(values)
        elif kind == WHOLE:
            check_wholes(values)
        if self._transform is not None:
            if kind in (REAL, SINGLE):
                values = [None if value != value else value for value in values]
            kind, values = self._transform(kind, values, self.refuse)
        return reals(kind, values, self.refuse)

    def _vectors(self, column: Column, rows: int) -> np.ndarray:
        """Vectors, (value_dim, N); all NaN where one is absent, or cannot be read as a whole."""
        kind, values, is_list = column
        found = np.full((rows, self.width), np.nan)
        if kind == NOTHING and not is_list:
            return found.T
        lists: list[Any] = values
        if not is_list:
            if kind != TEXT or not self._cut:
                raise NotPlain("values that are no vectors")
            check_texts(values)
            lists = [text.split(self._cut) if text else () for text in values]
        lengths = np.array([len(part) if part else 0 for part in lists])
        fits = lengths == self.width
        flat = list(chain.from_iterable(part for part in lists if part and len(part) == self.width))
        read = self._reals(kind, flat)
        bad_number = np.abs(read) > FLOAT32_MAX
        found[fits] = np.where(bad_number, np.nan, read).reshape(-1, self.width)
        bad = lengths != 0
        bad[fits] = np.isnan(found[fits]).any(1)
        if bad.any():
            self.refuse()
            found[bad] = np.nan
        return found.T
