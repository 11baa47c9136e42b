"""What a scikit-learn estimator is given, as columns with names: an Arrow table, whatever it was.

pandas, polars and Arrow keep their columns' types. Of an array each column is one of the table,
called `x0`, `x1`, … as scikit-learn calls features that have no name; NaN is an absent value.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.sources.describe.columns import summarized
from deepfm.data.sources.describe.times import guess_time, time_columns
from deepfm.data.sources.rows_given import as_table
from deepfm.errors import ConfigError, DataError, Place, nearest

Column = str | int  # a column's name, or its position


def is_frame(given: object) -> bool:
    """Whether it has columns with names: pandas, polars, Arrow."""
    return hasattr(given, "columns")


def table_of(given: Any) -> pa.Table:
    """N rows of a frame, or of an array (N, F), as an Arrow table.

    Raises:
        DataError: The values of a column are of types that do not go together.
    """
    if is_frame(given):
        return as_table(given)
    names = position_names(given.shape[1])
    return pa.table({name: _values(name, of) for name, of in zip(names, given.T, strict=True)})


def position_names(count: int) -> list[str]:
    """The names of columns that have none.

    Example:
        >>> position_names(2)
        ['x0', 'x1']
    """
    return [f"x{place}" for place in range(count)]


def _values(name: str, column: np.ndarray) -> pa.Array:
    try:
        return pa.array(column, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError) as error:
        types = ", ".join(sorted({type(value).__name__ for value in column.tolist()}))
        raise DataError(
            f"expected values of one type, found {types}: {str(error).splitlines()[0]}",
            place=Place(column=name),
        ) from None


def name_of(column: Column | None, names: list[str], key: str) -> str | None:
    """The name of a column that is given by its name or position.

    Raises:
        ConfigError: There is no such column.
    """
    if column is None:
        return None
    if isinstance(column, int | np.integer) and not isinstance(column, bool):
        if not 0 <= column < len(names):
            raise ConfigError(f"expected a position below {len(names)}, found {column}", key=key)
        return names[column]
    if column not in names:
        raise ConfigError(f"no column {column!r}; {nearest(str(column), names)}", key=key)
    return column


def with_whole_ids(rows: pa.Table, columns: list[str]) -> pa.Table:
    """The rows, with ids as whole numbers that stand in them as floating ones: 17.0 is 17."""
    for place, name in enumerate(rows.column_names):
        if name not in columns or not pa.types.is_floating(rows[name].type):
            continue
        values = rows[name].cast(pa.float64())
        values = pc.if_else(pc.is_nan(values), None, values)
        if pc.all(pc.equal(values, pc.floor(values))).as_py():
            rows = rows.set_column(place, name, values.cast(pa.int64(), safe=False))
    return rows


def times_of(rows: pa.Table, name: str) -> np.ndarray:
    """What puts rows in order, (N,): the times of a column, or its numbers.

    Raises:
        ConfigError: It holds neither in every row.
    """
    column = summarized(name, rows[name])
    found = guess_time(time_columns([column]), [column], name)
    assert found is not None  # of a column that is named
    if np.isnan(found.seconds).any():
        raise ConfigError(f"{name} holds no time in some row", key="time")
    return found.seconds
