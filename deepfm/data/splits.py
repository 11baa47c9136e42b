"""Which rows train, validate and test."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.encoding.cells import A_TIME, read_times, where
from deepfm.data.files.columns import is_text, named_in_errors
from deepfm.data.split_parts import RandomSplit, StratifiedSplit, TimeSplit
from deepfm.data.split_times import Times, TimeSample
from deepfm.errors import ConfigError, DataError

SPLIT_NAMES = ("train", "valid", "test")


class SplitOptions(NamedTuple):
    """What the settings say about a split.

    Attributes:
        fractions: Shares of train, valid and test.
        seed: Of random splits.
        stratify: Whether every class of the label is split in these shares.
        num_class: Classes of the label; 0: it has none.
        time_column: Raw column of a row's time.
        min_interactions: Rows that a user needs to be evaluated.
    """

    fractions: tuple[float, ...] = (0.8, 0.1, 0.1)
    seed: int = 0
    stratify: bool = False
    num_class: int = 2
    time_column: str | None = None
    min_interactions: int = 3


class RowsToSplit(NamedTuple):
    """Some rows of a table, which come in order, N of them.

    Attributes:
        table: Raw columns, those of `columns` at least.
        role: What the settings call the files that they stand in: a split's name, or `rows`.
        numbers: Over all files, from 0, (N,) int64.
        classes: Of the label, (N,) int64; -1 where it is bad. Zeros where nobody asked for them.
    """

    table: pa.Table
    role: str
    numbers: np.ndarray
    classes: np.ndarray


class Placed(NamedTuple):
    """Where rows belong.

    Attributes:
        split: Index in `SPLIT_NAMES`, (N,) int64; -1: nowhere.
        bad: Where the split's column holds nothing that can be read, (N,) bool; None: nowhere.
    """

    split: np.ndarray
    bad: np.ndarray | None = None


class Split(ABC):
    """A way to divide rows into train, valid and test; `data.split_strategy` names one.

    Attributes:
        name: What a config calls it.
        needs: Settings of `data.table` that must have a value, beside `files` and `fields`.
        makes_ranking: Whether all rows are held in memory and each held-out one is ranked among
            candidates; otherwise the table is streamed into a store.
        has_own_files: Whether each split has files of its own.
        goes_by_time: Whether held-out rows are the later ones, or may be.
    """

    name: str
    needs: ClassVar[tuple[str, ...]] = ()
    makes_ranking: ClassVar[bool] = False
    has_own_files: ClassVar[bool] = False
    goes_by_time: ClassVar[bool] = True


class RankingSplit(Split):
    """A split of rows that are all in memory."""

    makes_ranking = True

    @classmethod
    @abstractmethod
    def divide(cls, rows: "RankedRows", options: SplitOptions) -> "Splits":
        """The rows of each split."""


class RankedRows(NamedTuple):
    """All rows of a ranking task, N of them.

    Attributes:
        user: User of each row, (N,) int.
        time: Anything sortable, (N,).
        role: Index in `SPLIT_NAMES` of the files that each row stands in, (N,) int; None: all
            stand in the same files.
    """

    user: np.ndarray
    time: np.ndarray
    role: np.ndarray | None = None


class StreamedSplit(Split):
    """A split of rows that come in a stream, which can be gone through repeatedly.

    Attributes:
        surveyed, columns: Raw columns that it looks at before all others are read, if any, and
            while rows are divided.
        surveys_classes: Whether the first look is at the classes of the label.
        expected: What must stand in its columns, for an error.
        places_later: Whether it can say where rows belong that were appended to a table, and says
            so without a look at all rows.
        in_shares: Whether several objects can each look at, and divide, a share of the rows:
            runs of rows, of which each object is told what all of them have found.
    """

    expected: str = ""
    in_shares: bool = False

    places_later: bool = False

    def __init__(self, options: SplitOptions) -> None:
        self.options = options
        self.surveyed: tuple[str, ...] = ()
        self.columns: tuple[str, ...] = ()
        self.surveys_classes = False

    @classmethod
    @abstractmethod
    def settings(cls, options: SplitOptions) -> list[object]:
        """What decides where a row belongs, as plain data, for the key of a store."""

    def survey(self, rows: RowsToSplit) -> np.ndarray | None:
        """Look at some rows before any is divided; which of them cannot be read, (N,) bool."""
        return None

    def found(self) -> Mapping[str, np.ndarray]:
        """What the first look has found so far, for `take`."""
        return {}

    def take(self, found: Sequence[Mapping[str, np.ndarray]], share: int) -> None:
        """Divide the rows of one share from now on, knowing what was found in all, in order."""

    def know_times(self, are_dates: bool | None) -> None:
        """Told what all times are, before any is looked at; None: the first one will say."""

    def restart(self) -> None:
        """Called before each time through all rows."""

    @abstractmethod
    def divide(self, rows: RowsToSplit) -> Placed:
        """Where the next rows belong."""

    def split_names(self, roles: Collection[str]) -> tuple[str, ...]:
        """The splits that the settings ask for.

        Args:
            roles: What the files are called that there are.
        """
        shares = zip(SPLIT_NAMES, self.options.fractions, strict=True)
        return tuple(name for name, share in shares if share > 0)


class PredefinedFiles(StreamedSplit):
    """Each split is in files of its own."""

    name = "predefined"
    needs = ("valid_files",)
    has_own_files = True
    in_shares = True
    places_later = True

    @classmethod
    def settings(cls, options: SplitOptions) -> list[object]:
        return [cls.name]

    def divide(self, rows: RowsToSplit) -> Placed:
        return Placed(np.full(len(rows.numbers), SPLIT_NAMES.index(rows.role)))

    def split_names(self, roles: Collection[str]) -> tuple[str, ...]:
        return tuple(name for name in SPLIT_NAMES if name in roles)


class RandomRows(StreamedSplit):
    """Rows are drawn, each for itself, or with `stratify` class by class.

    Raises:
        ConfigError: `stratify` is set, and the label has no classes.
    """

    name = "random"
    goes_by_time = False
    in_shares = True

    def __init__(self, options: SplitOptions) -> None:
        super().__init__(options)
        if options.stratify and not options.num_class:
            raise ConfigError("the label is a number, which has no classes", key="data.stratify")
        self.surveys_classes = options.stratify
        self.places_later = not options.stratify
        self._sizes = np.zeros(max(2, options.num_class), np.int64)
        self._before = np.zeros_like(self._sizes)  # of each class, in earlier shares
        self._by_number = RandomSplit(options.fractions, options.seed)
        self._by_class: StratifiedSplit | None = None

    @classmethod
    def settings(cls, options: SplitOptions) -> list[object]:
        return [cls.name, options.fractions, options.seed, options.stratify]

    def survey(self, rows: RowsToSplit) -> np.ndarray | None:
        known = rows.classes[rows.classes >= 0]
        self._sizes += np.bincount(known, minlength=len(self._sizes))
        return None

    def found(self) -> Mapping[str, np.ndarray]:
        return {"sizes": self._sizes}

    def take(self, found: Sequence[Mapping[str, np.ndarray]], share: int) -> None:
        sizes = np.array([one["sizes"] for one in found])
        self._sizes, self._before = sizes.sum(0), sizes[:share].sum(0)

    def restart(self) -> None:
        if self.options.stratify:
            self._by_class = StratifiedSplit(
                self.options.fractions,
                self.options.seed,
                self._sizes.tolist(),
                self._before.tolist(),
            )

    def divide(self, rows: RowsToSplit) -> Placed:
        if self._by_class is not None:
            return Placed(self._by_class.parts(rows.classes))
        return Placed(self._by_number.parts(rows.numbers))


class ByTime(StreamedSplit):
    """Old rows train, newer ones validate, the newest test."""

    name = "time"
    needs = ("time_column",)
    expected = A_TIME
    in_shares = True

    def __init__(self, options: SplitOptions) -> None:
        super().__init__(options)
        self._column = options.time_column or ""
        self.surveyed = self.columns = (self._column,)
        self._times, self._sample = Times(), TimeSample()
        self._cut: TimeSplit | None = None

    @classmethod
    def settings(cls, options: SplitOptions) -> list[object]:
        return [cls.name, options.fractions]

    def survey(self, rows: RowsToSplit) -> np.ndarray | None:
        times, bad = self._read(rows)
        self._sample.add(rows.numbers[~bad], times[~bad])
        return bad

    def found(self) -> Mapping[str, np.ndarray]:
        return self._sample.found()

    def take(self, found: Sequence[Mapping[str, np.ndarray]], share: int) -> None:
        self._sample = TimeSample()
        for one in found:
            self._sample.merge(one)

    def know_times(self, are_dates: bool | None) -> None:
        self._times = Times(are_dates)

    def divide(self, rows: RowsToSplit) -> Placed:
        if self._cut is None:
            self._cut = TimeSplit.of(self.options.fractions, self._sample.times)
        times, bad = self._read(rows)
        return Placed(self._cut.parts(times), bad)

    def _read(self, rows: RowsToSplit) -> tuple[np.ndarray, np.ndarray]:
        with named_in_errors(self._column):
            return self._times.read(rows.table[self._column].combine_chunks())


class LeaveOneOut(RankingSplit):
    """Each user's last row tests, the one before validates, all earlier ones train."""

    name = "leave_one_out"
    needs = ("user_field", "item_field", "time_column")

    @classmethod
    def divide(cls, rows: RankedRows, options: SplitOptions) -> "Splits":
        return leave_one_out(rows.user, rows.time, min_interactions=options.min_interactions)


class PredefinedRanking(RankingSplit):
    """The test rows are in files of their own, and so may be those that validate.

    Without files of validation rows, each user's last training row validates, and trains no more.
    """

    name = "predefined_ranking"
    needs = ("user_field", "item_field", "time_column", "test_files")
    has_own_files = True

    @classmethod
    def divide(cls, rows: RankedRows, options: SplitOptions) -> "Splits":
        assert rows.role is not None  # what has files of its own knows them
        train, valid, test = (np.flatnonzero(rows.role == part) for part in range(3))
        if not len(valid):
            last = _last_rows(rows.user[train], rows.time[train])
            enough = np.bincount(rows.user) >= options.min_interactions
            valid = np.sort(train[last[enough[rows.user[train[last]]]]])
            validates = np.zeros(len(rows.user), bool)
            validates[valid] = True
            train = train[~validates[train]]
        return Splits(train, valid, test)


SPLITS: dict[str, type[Split]] = {
    split.name: split
    for split in (LeaveOneOut, PredefinedRanking, PredefinedFiles, RandomRows, ByTime)
}


class Splits(NamedTuple):
    """Row numbers of each split, ascending."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def leave_one_out(user: np.ndarray, time: np.ndarray, *, min_interactions: int) -> Splits:
    """Each user's last row tests, the one before validates, all earlier ones train.

    Rows of a user are ordered by time, and by row number where times are equal. A user with
    fewer than `min_interactions` rows trains only.

    Args:
        user: User of each row, (N,) int.
        time: Anything sortable, (N,).
        min_interactions: At least 3, so that every evaluated user has a training row.

    Example:
        >>> leave_one_out(np.array([0, 0, 1, 0]), np.array([3, 1, 9, 3]), min_interactions=3)
        Splits(train=array([1, 2]), valid=array([0]), test=array([3]))
    """
    order = np.lexsort((time, user))  # a stable sort: equal times keep the order of rows
    counts = np.bincount(user)
    end = np.cumsum(counts)[user[order]]
    from_last = end - 1 - np.arange(len(user))  # 0: the user's last row
    held_out = counts[user[order]] >= min_interactions
    return Splits(
        train=np.sort(order[~held_out | (from_last >= 2)]),
        valid=np.sort(order[held_out & (from_last == 1)]),
        test=np.sort(order[held_out & (from_last == 0)]),
    )


def _last_rows(user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Each user's last row, by time and then by row number."""
    order = np.lexsort((time, user))
    is_last = np.append(user[order[1:]] != user[order[:-1]], True)
    last: np.ndarray = order[is_last[: len(order)]]
    return last


def sortable(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Numbers in the order of the times, (N,), and which values are none, (N,) bool.

    Numbers count as they are, also where all are texts. Other texts are times of ISO 8601, and
    within a second in the order of the texts.

    Raises:
        DataError: The values are of a type that has no order.

    Example:
        >>> sortable(pa.array(["10", "9"]))[0], sortable(pa.array(["2024-01-02", "2023-12-31"]))[0]
        (array([10,  9]), array([1, 0]))
    """
    if is_text(values.type):
        values = pc.if_else(pc.equal(values, ""), None, values)
        for kind in (pa.int64(), pa.float64()):
            try:
                values = values.cast(kind)
                break
            except pa.ArrowInvalid:
                continue
    bad = where(values.is_null(nan_is_null=True))
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return pc.fill_null(values, 0).to_numpy(zero_copy_only=False), bad
    try:
        rank = pc.rank(values, tiebreaker="dense").to_numpy().astype(np.int64)
    except pa.ArrowException:
        raise DataError(f"expected times, found {values.type}") from None
    if is_text(values.type):
        seconds, read = read_times(values)
        rank = np.unique(np.column_stack([seconds, rank]), axis=0, return_inverse=True)[1].ravel()
        bad = ~read
    return rank, bad
