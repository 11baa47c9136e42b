"""Candidates from files: what a published protocol ranks each test positive among.

A file names users and items by their raw ids, as the data does. A `table` has the columns `user`,
`positive` and `negatives`, the last a list, or a text that `separator` cuts. The form `ncf` is
that of He et al., "Neural Collaborative Filtering", WWW 2017: on each line `(user,positive)` and
then the negatives, tabs between all, no header.

Decided here: a file that does not fit the data is an error by its line. A negative that its user
has interacted with in training is counted and warned of, because published files have none.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.files.columns import is_list, named_in_errors
from deepfm.data.files.packed import DAMAGED, opened
from deepfm.data.files.read import read_rows
from deepfm.data.files.rows import Rows
from deepfm.data.options import CandidatesConfig
from deepfm.data.sampling import Interactions
from deepfm.data.schema import DatasetSchema
from deepfm.data.sources.tables import RawTables, find, id_field
from deepfm.errors import ConfigError, DataError, Place, nearest, shown
from deepfm.utils.logging import LOGGER
from deepfm.utils.places import AnyPath

COLUMNS = ("user", "positive", "negatives")
_NCF_PAIR = re.compile(r"\(([^,()]+),([^,()]+)\)")


class Listed(NamedTuple):
    """The lines of candidate files, L of them, by positions in the tables of users and items.

    Attributes:
        user, positive: (L,) int64.
        negatives: (L, C) int64; -1 fills the lines that have fewer than the longest.
        parts: The rows in which the lines stand.
    """

    user: np.ndarray
    positive: np.ndarray
    negatives: np.ndarray
    parts: Sequence[Rows]

    def place(self, index: int) -> Place:
        """Where a line stands."""
        return _place(self.parts, index)


def read_candidates(
    config: CandidatesConfig, files: Sequence[AnyPath], schema: DatasetSchema, tables: RawTables
) -> Listed:
    """The lines of candidate files.

    Raises:
        DataError: A file is malformed, or names a user or an item that the data does not have.
    """
    parts = list(FORMS[config.form](config, files))
    table = pa.concat_tables([part.table for part in parts]).combine_chunks()
    if not len(table):
        place = Place(file=str(files[0]))
        raise DataError("expected a line of candidates, found none", place=place)

    def at(index: int) -> Place:
        return _place(parts, index)

    negatives = table["negatives"].combine_chunks()
    count = pc.fill_null(pc.list_value_length(negatives), 0).to_numpy(zero_copy_only=False)
    if not count.all():
        raise DataError("expected negatives, found none", place=at(int(count.argmin())))
    line_of = np.repeat(np.arange(len(table)), count)
    user = _positions(table["user"].combine_chunks(), "user", schema, tables, at)
    positive = _positions(table["positive"].combine_chunks(), "item", schema, tables, at)
    flat = _positions(
        negatives.flatten(), "item", schema, tables, lambda index: at(int(line_of[index]))
    )
    padded = np.full((len(table), count.max(initial=0)), -1)
    padded[np.arange(padded.shape[1]) < count[:, None]] = flat
    if (own := padded == positive[:, None]).any():
        line = int(own.any(axis=1).argmax())
        raise DataError("the positive is one of its own negatives", place=at(line))
    return Listed(user, positive, padded, parts)


def candidates_of(
    listed: Listed,
    user: np.ndarray,
    item: np.ndarray,
    *,
    schema: DatasetSchema,
    tables: RawTables,
    trained: Interactions,
    expected: int,
) -> np.ndarray:
    """The candidates of each positive row of the test split, in the order of their line.

    Args:
        user, item: Of these rows, (U,) int64 positions.
        trained: The pairs of the training split.
        expected: Candidates of a validation row; the test split has as many, at most.

    Returns:
        Item positions, (U, C) int64, -1 where a line has fewer.

    Raises:
        ConfigError: The longest line has another number of negatives than expected.
        DataError: A line is of no positive test row or there twice, or a row has no line.
    """
    if (longest := listed.negatives.shape[1]) != expected:
        raise ConfigError(
            f"data.candidates has {longest:,} negatives per positive, so that validation and test "
            f"would not compare; set it to {longest}, found {expected}",
            key="data.num_neg_eval",
        )
    own, keys = user * trained.num_items + item, listed.user * trained.num_items + listed.positive
    names = _Names(schema, tables)
    if not (known := np.isin(keys, own)).all():
        line = int(known.argmin())
        held_out = item[user == listed.user[line]]
        found = ", ".join(names.item(k) for k in held_out) or "none"
        raise DataError(
            f"user {names.user(listed.user[line])} has no positive test row of item "
            f"{names.item(listed.positive[line])}; that user's: {found}",
            place=listed.place(line),
        )
    order = np.argsort(keys, kind="stable")
    if len(again := order[1:][keys[order[1:]] == keys[order[:-1]]]):
        line = int(again.min())
        raise DataError(
            f"a second line of user {names.user(listed.user[line])} and item "
            f"{names.item(listed.positive[line])}",
            place=listed.place(line),
        )
    if not (has_line := np.isin(own, keys)).all():
        row, others = int(has_line.argmin()), int((~has_line).sum()) - 1
        more = f", and none for {others:,} other positives" if others else ""
        raise DataError(
            f"data.candidates: no line for user {names.user(user[row])} and the test positive "
            f"{names.item(item[row])}{more}"
        )
    of_rows: np.ndarray = listed.negatives[order[np.searchsorted(keys[order], own)]]
    _warn_of_known(user, of_rows, trained)
    return of_rows


def _warn_of_known(user: np.ndarray, items: np.ndarray, trained: Interactions) -> None:
    """Say how many negatives are none, because their user has interacted with them."""
    row, column = np.nonzero(items >= 0)
    known = trained.contains(user[row], items[row, column])
    if known.any():
        LOGGER.warning(
            f"data.candidates: {known.sum():,} of {len(known):,} negatives are items that their "
            f"user has interacted with in training, of {len(np.unique(row[known])):,} positives"
        )


class _Names(NamedTuple):
    """Raw ids, as an error shows them."""

    schema: DatasetSchema
    tables: RawTables

    def user(self, position: int) -> str:
        return self._shown(self.tables.users, "user", position)

    def item(self, position: int) -> str:
        return self._shown(self.tables.items, "item", position)

    def _shown(self, table: pa.Table, side: str, position: int) -> str:
        return shown(table[id_field(self.schema, side).column][int(position)].as_py())


def _positions(
    values: pa.Array,
    side: str,
    schema: DatasetSchema,
    tables: RawTables,
    place: Callable[[int], Place],
) -> np.ndarray:
    """Positions of raw ids in the table of users or items, (N,) int64."""
    column = id_field(schema, side).column
    table = tables.users if side == "user" else tables.items
    with named_in_errors(column):
        found = find(values, table[column].combine_chunks())
    if found.null_count:
        index = pc.index(found.is_null(), True).as_py()
        raise DataError(
            f"no {side} of the data has {column} {shown(values[index].as_py())}",
            place=place(index),
        )
    return np.asarray(found.to_numpy(zero_copy_only=False)).astype(np.int64)


def _place(parts: Sequence[Rows], index: int) -> Place:
    for part in parts:
        if index < len(part.table):
            return part.place(index)
        index -= len(part.table)
    raise IndexError(index)


def _table(config: CandidatesConfig, files: Sequence[AnyPath]) -> Iterator[Rows]:
    """The rows of tables, whose negatives become lists."""
    for rows in read_rows(
        files, delimiter=config.delimiter, columns=config.columns, encoding=config.encoding
    ):
        for name in COLUMNS:
            if name not in rows.table.column_names:
                raise DataError(
                    f"no column {name!r}, which candidates need; "
                    f"{nearest(name, rows.table.column_names)}",
                    place=Place(file=str(rows.path)),
                )
        negatives = rows.table["negatives"]
        if not is_list(negatives.type):
            negatives = pc.split_pattern(negatives.cast(pa.string()), config.separator)
        columns = [rows.table["user"], rows.table["positive"], negatives]
        yield rows._replace(table=pa.table(columns, COLUMNS))


def _ncf(config: CandidatesConfig, files: Sequence[AnyPath]) -> Iterator[Rows]:
    """The lines of files as those of He et al."""
    for path in files:
        users, positives, negatives = [], [], []
        for number, line in enumerate(_lines(path, config.encoding), start=1):
            pair, *others = line.split("\t")
            if (found := _NCF_PAIR.fullmatch(pair)) is None:
                raise DataError(
                    f"expected (user,positive) and negatives with tabs between, found "
                    f"{shown(line)}",
                    place=Place(file=str(path), line=number),
                )
            users.append(found[1])
            positives.append(found[2])
            negatives.append(others)
        lists = pa.array(negatives, pa.list_(pa.string()))
        columns = [pa.array(users, pa.string()), pa.array(positives, pa.string()), lists]
        yield Rows(pa.table(columns, COLUMNS), path, first=1)


def _lines(path: AnyPath, encoding: str) -> list[str]:
    """The lines of a text, which may be packed."""
    place = Place(file=str(path))
    try:
        with opened(path) as file:
            content: bytes = file.content.read()
        return content.decode(encoding).removesuffix("\n").splitlines()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", place=place) from None
    except (*DAMAGED, pa.ArrowException, ValueError, LookupError) as error:
        raise DataError(f"cannot be read as {encoding} text: {error}", place=place) from None


FORMS: dict[str, Callable[[CandidatesConfig, Sequence[AnyPath]], Iterator[Rows]]] = {
    "table": _table,
    "ncf": _ncf,
}
