"""Rows that a caller gives in memory, in any of the forms that people hold them in.

They are an Arrow table, a frame of pandas or of another library that hands its columns to Arrow
(polars), a list with a dict per row, or a dict with the values of each column. A value that some of
the dicts lack is absent. pandas and polars are not imported: a frame is told by what it can do.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from deepfm.data.encoding.few_values import (
    FLAG,
    NOTHING,
    REAL,
    SINGLE,
    TEXT,
    WHOLE,
    Column,
    NotPlain,
    Values,
)
from deepfm.data.files.columns import is_list, is_text
from deepfm.errors import DataError, Place, shown

Given = Any  # an Arrow table, a frame, a list of dicts, or a dict of lists and arrays

_EXPECTED = (
    "expected rows as a pyarrow.Table, a pandas or polars frame, a list with a dict per row, or a "
    "dict with the values of each column"
)


def as_table(given: Given, only: Collection[str] | None = None) -> pa.Table:
    """The rows as an Arrow table.

    Args:
        given: N rows in any of the forms.
        only: The columns that are wanted, as far as they are there; None: all of them.

    Raises:
        DataError: It is none of the forms, the columns have unequal lengths, or the values of a
            column are of types that do not go together.

    Example:
        >>> as_table([{"a": 1}, {"a": 2, "b": "x"}]).to_pydict()
        {'a': [1, 2], 'b': [None, 'x']}
    """
    if isinstance(given, pa.RecordBatch):
        given = pa.Table.from_batches([given])
    elif not isinstance(given, pa.Table) and _is_other_frame(given):
        given = _of_stream(given)
    if isinstance(given, pa.Table):
        return (
            given
            if only is None
            else given.select(
                [place for place, name in enumerate(given.column_names) if name in only]
            )
        )
    names, rows, column = _columns(given, only)
    found = {name: _as_array(name, column(name)) for name in names}
    if not found:  # so that the rows are counted
        return pa.table({"": pa.nulls(rows)}).select([])
    return pa.table(found)


def plain_columns(
    given: Given, only: Collection[str] | None = None
) -> tuple[dict[str, Values], int]:
    """The rows as `deepfm.data.encoding.few_rows.FewRows.encode` takes them, and how many they are.

    What is encoded of them is what is encoded of `as_table(given, only)`.

    Args:
        given, only: As those of `as_table`.

    Raises:
        NotPlain: Some column has to go through Arrow, which has the error if there is one.
        DataError: It is none of the forms, or the columns have unequal lengths.
    """
    if isinstance(given, pa.Table | pa.RecordBatch) or _is_other_frame(given):
        table = as_table(given, only)
        names = table.column_names
        if len(set(names)) < len(names):
            raise NotPlain("a column name that is given twice")
        return {name: _of_arrow(table[name]) for name in names}, table.num_rows
    names, rows, column = _columns(given, only)
    found: dict[str, Values] = {}
    for name in names:
        values = column(name)
        if _is_series(values):
            values = _of_series(values)
        elif isinstance(values, pa.Array | pa.ChunkedArray):
            values = _of_arrow(values)
        elif isinstance(values, np.ndarray) and values.dtype == object:
            values = values.tolist()
        found[name] = values
    return found, rows


def _columns(
    given: Given, only: Collection[str] | None
) -> tuple[list[str], int, Callable[[str], Any]]:
    """Names, number of rows, and what gives a column's values by its name.

    Raises:
        DataError: As in `as_table`.
    """
    if isinstance(given, list | tuple):
        return _of_dicts(given, only)
    if _is_pandas(given):
        names = [str(name) for name in given.columns]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"a column name is given twice: {twice}")
        places = {name: place for place, name in enumerate(names) if only is None or name in only}
        return list(places), len(given), lambda name: given.iloc[:, places[name]]
    if not isinstance(given, Mapping):
        raise DataError(f"{_EXPECTED}; found {type(given).__name__}")
    rows: int | None = None
    first = ""
    for name, values in given.items():
        _check_name(name)
        if not _is_column(values):
            raise DataError(
                f"expected the column's values, one per row, found {shown(values)}; "
                "a single row is a list with one dict",
                place=Place(column=name),
            )
        if rows is None:
            rows, first = len(values), name
        elif len(values) != rows:
            raise DataError(
                f"expected {rows:,} values, as in column {first}, found {len(values):,}",
                place=Place(column=name),
            )
    names = [name for name in given if only is None or name in only]
    return names, rows or 0, given.__getitem__


def _of_dicts(
    given: Sequence[Any], only: Collection[str] | None
) -> tuple[list[str], int, Callable[[str], Any]]:
    names: dict[str, None] = {}
    for place, row in enumerate(given):
        if not isinstance(row, Mapping):
            raise DataError(
                f"{_EXPECTED}; found a {type(row).__name__} in the list: {shown(row)}",
                place=Place(row=place + 1),
            )
        if row.keys() != names.keys():
            names.update(dict.fromkeys(row))
    for name in names:
        _check_name(name)
    wanted = [name for name in names if only is None or name in only]
    return wanted, len(given), lambda name: [row.get(name) for row in given]


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise DataError(f"expected the name of a column, found {shown(name)}")


def _is_column(values: object) -> bool:
    if isinstance(values, np.ndarray):
        return values.ndim > 0
    is_many = isinstance(values, Sequence | pa.Array | pa.ChunkedArray) or _is_series(values)
    return is_many and not isinstance(values, str | bytes)


def _is_series(values: object) -> bool:
    """Whether it is a column of pandas or polars."""
    return hasattr(values, "to_numpy") and hasattr(values, "dtype") and hasattr(values, "name")


def _is_pandas(given: object) -> bool:
    return hasattr(given, "iloc") and hasattr(given, "columns")


def _is_other_frame(given: object) -> bool:
    has_stream = hasattr(given, "__arrow_c_stream__") or hasattr(given, "to_arrow")
    return has_stream and not _is_pandas(given) and not _is_series(given)


def _of_stream(given: Any) -> pa.Table:
    try:
        # their own way first: polars hands on views of texts otherwise, which Arrow hardly casts
        found = given.to_arrow() if hasattr(given, "to_arrow") else pa.table(given)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"{_EXPECTED}; found {type(given).__name__}: {error}") from None
    if not isinstance(found, pa.Table):
        raise DataError(f"{_EXPECTED}; found {type(given).__name__}")
    return found


def _as_array(name: str, values: Any) -> pa.Array | pa.ChunkedArray:
    """The values of a column as an Arrow array.

    Raises:
        DataError: They are of types that do not go together, or of one that Arrow does not have.
    """
    try:
        if isinstance(values, pa.Array | pa.ChunkedArray):
            return values
        if _is_series(values):
            if hasattr(values, "to_arrow"):
                return values.to_arrow()
            return pa.array(values, from_pandas=True)
        if isinstance(values, np.ndarray):
            if values.ndim == 2:
                flat = pa.array(np.ascontiguousarray(values).ravel())
                return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
            if values.dtype == object:
                values = values.tolist()
        return pa.array(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        problem = str(error).splitlines()[0]
        types = sorted({type(v).__name__ for v in values if v is not None})
        raise DataError(
            f"expected values of one type, found {', '.join(types)}: {problem}",
            place=Place(column=name),
        ) from None


def _of_arrow(column: pa.Array | pa.ChunkedArray) -> Values:
    """The values of an Arrow column with their type.

    Raises:
        NotPlain: They are of a type that has no equal in Python, such as decimals.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        if not is_text(kind) and not pa.types.is_integer(kind):
            raise NotPlain(f"a dictionary of {kind}")
        column = column.cast(kind)
    if is_list(kind):
        return Column(_kind_of(kind.value_type), column.to_pylist(), True)
    name = _kind_of(kind)
    if name in (REAL, SINGLE):
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        return Column(name, column.to_numpy(zero_copy_only=False).tolist())
    return Column(name, column.to_pylist())


def _kind_of(kind: pa.DataType) -> str:
    """The name in `few_values` of a type of single values."""
    if is_text(kind):
        return TEXT
    if pa.types.is_integer(kind):
        return WHOLE
    if pa.types.is_floating(kind):
        return REAL if kind == pa.float64() else SINGLE
    if pa.types.is_boolean(kind):
        return FLAG
    if pa.types.is_null(kind):
        return NOTHING
    raise NotPlain(f"values of type {kind}")


def _of_series(series: Any) -> Values:
    """The values of a column of pandas; of other libraries through Arrow."""
    if hasattr(series, "iloc") and isinstance(series.dtype, np.dtype):
        values: np.ndarray = series.to_numpy()
        if values.dtype.kind in "biuf":
            return values
    return _of_arrow(_as_array(str(series.name), series))
