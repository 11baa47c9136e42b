"""Few values of a categorical field to ids: one look-up in a dictionary per value seen before."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain, product
from typing import Any

import numpy as np

from deepfm.data.encoding.few_tables import Table
from deepfm.data.encoding.few_transforms import TRANSFORMS, reals, unchanged, wholes
from deepfm.data.encoding.few_values import (
    FLAG,
    NOTHING,
    REAL,
    SINGLE,
    TEXT,
    WHOLE,
    Column,
    NotPlain,
    as_texts,
    check_texts,
    check_wholes,
    real_of_text,
    without_nan,
)
from deepfm.data.encoding.scales import FLOAT32_MAX
from deepfm.data.encoding.sequences import LONGEST_LIST

REMEMBERED = 1 << 16  # values per field and type whose ids are kept
TEXTS_REMEMBERED = 1 << 12  # texts per sequence field whose lists of ids are kept
LONGEST_REMEMBERED = 256  # characters of a text


def cannot_be_read() -> None:
    """Leave the error about a value that cannot be read to Arrow's path.

    Raises:
        NotPlain: Always.
    """
    raise NotPlain("a value that cannot be read")


def is_absent() -> None:
    """What a field does whose values are absent where they cannot be read: nothing."""


class Memory:
    """What values became, kept for the next time; forgotten when it is too much.

    Args:
        compute: What makes something of distinct values.
        most: How many values are kept.
    """

    def __init__(self, compute: Callable[[list[Any]], Iterable[Any]], most: int) -> None:
        self._compute, self._most = compute, most
        self._known: dict[Any, Any] = {}

    def of(self, values: Sequence[Any]) -> list[Any]:
        """What values become."""
        known = self._known
        try:
            return list(map(known.__getitem__, values))
        except KeyError:
            pass
        distinct = dict.fromkeys(values)
        new = [value for value in distinct if value not in known]
        found = dict(zip(new, self._compute(new), strict=True))
        is_long = any(isinstance(v, str) and len(v) > LONGEST_REMEMBERED for v in new)
        if is_long or len(known) + len(new) > self._most:
            # nothing is taken out of a dictionary that another thread may read
            known = {value: found[value] if value in found else known[value] for value in distinct}
            if not is_long and len(known) <= self._most:
                self._known = known
        else:
            known.update(found)
        return [known[value] for value in values]


class Ids:
    """The ids of the values of a sparse field, or of the elements of a sequence.

    Args:
        field: As `deepfm.data.encoding.few_rows_spec` describes it.
        table: What gives them their ids.
    """

    def __init__(self, field: Mapping[str, Any], table: Table) -> None:
        self._reads, self._table = field["reads"], table
        transform = field["transform"]
        self._transform = unchanged if transform is None else TRANSFORMS[transform[0]](transform[1])
        self._refuse = cannot_be_read if field["bad_values"] == "error" else is_absent
        self._out_of_range, self._rows = field["out_of_range"], field["vocabulary_size"]
        self._empty_is_absent = field["empty_is_absent"]
        self._elements: list[str] = field["default"]
        # of a sequence it stands in for the list, and for an element that keeps its place
        stands_in = not field["takes_lists"] or field["keeps_places"]
        self._default = self._elements[0] if self._elements and stands_in else None
        self._memories: dict[str, Memory] = {}
        self._of_default: dict[str, list[int]] = {}

    def of(self, kind: str, values: Sequence[object]) -> list[int]:
        """The ids of values without NaN.

        Raises:
            NotPlain: Some value needs the path through Arrow.
        """
        memory = self._memories.get(kind)
        if memory is None:
            memory = self._memories[kind] = Memory(partial(self._computed, kind), REMEMBERED)
        return memory.of(values)

    def of_default(self, kind: str) -> list[int]:
        """The ids of the default's elements, beside elements of a kind."""
        if self._reads == "whole number":
            return [int(float(text)) for text in self._elements]
        if self._reads == "number":
            return self._table.ids(REAL, [float(text) for text in self._elements])
        found = self._of_default.get(kind)
        if found is None:
            read = self._categories(*self._transform(kind, (), self._refuse))[0]
            found = [self._default_id(read, text) for text in self._elements]
            self._of_default[kind] = found
        return found

    def _computed(self, kind: str, values: list[Any]) -> list[int]:
        if kind == TEXT:
            check_texts(values)
        elif kind == WHOLE:
            check_wholes(values)
        kind, found = self._transform(kind, values, self._refuse)
        if self._reads == "whole number":
            return self._table.ids(WHOLE, self._in_range(wholes(kind, found, self._refuse)))
        if self._reads == "number":
            numbers = reals(kind, found, self._refuse)
            if self._default is not None:
                numbers = np.where(np.isnan(numbers), float(self._default), numbers)
            return self._table.ids(REAL, numbers.tolist())
        kind, found = self._categories(kind, found)
        ids = self._table.ids(kind, found)
        if self._default is not None and None in found:
            other = self._default_id(kind, self._default)
            ids = [other if v is None else i for v, i in zip(found, ids, strict=True)]
        return ids

    def _categories(self, kind: str, values: Sequence[Any]) -> tuple[str, Sequence[Any]]:
        """The values as texts, or in the types that vocabularies hold."""
        if self._reads == "text" or kind == NOTHING:
            kind, values = TEXT, as_texts(kind, values)
        elif kind == FLAG:
            kind, values = WHOLE, [None if value is None else int(value) for value in values]
        if kind == TEXT and self._empty_is_absent:
            values = [value or None for value in values]
        return kind, values

    def _default_id(self, kind: str, text: str) -> int:
        """The id of a default among values of a kind: as a number, if they are and it is one."""
        if kind == WHOLE:
            if text.removeprefix("-").isdecimal() and text.isascii():
                if not -(2**63) <= int(text) < 2**63:
                    raise NotPlain("a default beyond int64")
                return self._table.ids(WHOLE, [int(text)])[0]
            if text[:1] in "+-0":
                raise NotPlain(f"the default {text!r} as a whole number")
        elif kind in (REAL, SINGLE) and (number := real_of_text(text)) is not None:
            if kind == SINGLE:
                if abs(number) > FLOAT32_MAX:
                    raise NotPlain("a default beyond float32")
                number = float(np.float32(number))
            return self._table.ids(kind, [number])[0]
        return self._table.ids(TEXT, [text])[0]

    def _in_range(self, numbers: list[int | None]) -> list[int]:
        """Whole numbers as ids, -1 for absent ones."""
        absent = -1 if self._default is None else int(self._default)
        beyond = 0 if self._out_of_range == "row0" else -1
        found = []
        for number in numbers:
            if number is None:
                found.append(absent)
            elif 0 <= number < self._rows:
                found.append(number)
            elif self._out_of_range == "error":
                raise NotPlain("a whole number without a row")
            else:
                found.append(beyond)
        return found


class Cross:
    """The combinations of the values of several columns, as `deepfm.data.encoding.crosses`."""

    def __init__(self, field: Mapping[str, Any]) -> None:
        self._cut, self._takes_lists = field["cut"], field["takes_lists"]

    def column(self, columns: Sequence[Column]) -> Column:
        """The texts of the combinations, or lists of them."""
        parts = [self._parts(column) for column in columns]
        rows = [["_".join(one) for one in product(*row)] for row in zip(*parts, strict=True)]
        if self._takes_lists:
            return Column(TEXT, rows, True)
        if any(len(row) > 1 for row in rows):
            raise NotPlain("several values in a row")
        return Column(TEXT, [row[0] if row else None for row in rows])

    def _parts(self, column: Column) -> list[list[str]]:
        """The values of each cell, as texts."""
        kind, values, is_list = column
        if not is_list:
            if kind == TEXT:
                check_texts(values)
            elif kind == WHOLE:
                check_wholes(values)
            if kind != TEXT or not self._cut:
                return [[text] if text else [] for text in as_texts(kind, values)]
            values = [text.split(self._cut) if text else () for text in values]
        lists: list[Any] = [part or () for part in values]
        texts = iter(as_texts(kind, list(chain.from_iterable(lists))))
        return [[text for text in (next(texts) for _ in part) if text] for part in lists]


class Sequences:
    """Lists of ids of a sequence field, padded.

    Args:
        field, table: As those of `Ids`.
    """

    def __init__(self, field: Mapping[str, Any], table: Table) -> None:
        self._ids = Ids(field, table)
        self._cut, self._absent = field["cut"], field["absent_id"]
        self._longest, self._keeps_first = field["max_length"], field["keep"] == "first"
        self._has_default = bool(field["default"])
        self._keeps_places = field["keeps_places"]
        self.sequence: str = field["sequence"]
        self._of_texts = Memory(self._of_cut_texts, TEXTS_REMEMBERED)

    def padded(self, column: Column) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Padded ids (N, L) int64, lengths (N,) int64, and lengths before lists were cut.

        Of a field that leaves elements out before it cuts, the last are the lengths.

        Raises:
            NotPlain: Some value needs the path through Arrow.
        """
        lists = self._lists(column)
        whole = lengths = list(map(len, lists))
        if self._keeps_places and self._longest and max(lengths) > self._longest:
            lists = [self._cut_to_length(one) for one in lists]
            lengths = list(map(len, lists))
        longest = self._longest or max(max(lengths), 1)
        padded = np.zeros((len(lists), longest), np.int64)
        if len(lists) == 1:
            padded[0, : lengths[0]] = lists[0]
            return padded, np.array(lengths, np.int64), np.array(whole)
        of_rows = np.array(lengths, np.int64)
        padded[np.arange(longest) < of_rows[:, None]] = list(chain.from_iterable(lists))
        return padded, of_rows, np.array(whole)

    def _cut_to_length(self, ids: list[int]) -> list[int]:
        return ids[: self._longest] if self._keeps_first else ids[-self._longest :]

    def _lists(self, column: Column) -> list[list[int]]:
        """The ids that are kept of each row; where elements keep their places, before it is cut."""
        kind, values, is_list = column
        if is_list:
            return self._of_lists(kind, values)
        if kind == NOTHING:
            return self._of_lists(NOTHING, [()] * len(values))
        if kind != TEXT:
            found = without_nan(column)
            return self._of_lists(kind, [() if value is None else (value,) for value in found])
        if not self._cut:
            if any(text is not None for text in values):
                raise NotPlain("texts that nothing cuts")
            return self._of_lists(NOTHING, [()] * len(values))
        return self._of_texts.of(values)

    def _of_cut_texts(self, texts: list[str | None]) -> list[list[int]]:
        return self._of_lists(TEXT, [text.split(self._cut) if text else () for text in texts])

    def _of_lists(self, kind: str, lists: Sequence[Sequence[object] | None]) -> list[list[int]]:
        elements = list(chain.from_iterable(filter(None, lists)))
        if kind in (REAL, SINGLE):
            elements = [None if value != value else value for value in elements]
        ids = self._ids.of(kind, elements)
        absent, longest = self._absent, self._longest
        default = self._ids.of_default(kind) if self._has_default else []
        keeps_all = self._keeps_places
        all_known = keeps_all or min((*ids, *default), default=absent + 1) > absent
        found, start = [], 0
        for part in lists:
            own = default
            if part:
                own = ids[start : start + len(part)]
                start += len(part)
            if not all_known:
                own = [one for one in own if one > absent]
            if longest and len(own) > longest and not keeps_all:
                own = self._cut_to_length(own)
            if len(part or ()) > LONGEST_LIST and not longest:
                raise NotPlain("a very long list")
            found.append(own)
        return found
