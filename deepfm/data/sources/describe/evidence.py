"""What columns say about the label: leaks, ids that are numbers, fields that describe an id.

Everything is measured out of fold: what a row's value says comes from other rows, so that a column
whose values are all different says nothing, however many there are.
"""

from typing import NamedTuple

import numpy as np

from deepfm.data.sources.describe.columns import ColumnSummary, codes_of

MAX_ROWS = 200_000  # of which the evidence is taken
FOLDS = 5
SMOOTHING = 10.0  # rows of the mean of all that are added to those of a value
BINS = 32  # that stand for a smooth function of a number
FINE_BINS = 256  # that would show a leak in a number
LEAK = 0.99  # AUC above which a column alone knows the label
SUSPECT = 0.95  # AUC above which somebody has to say whether it is known before the label is
AT_LEAST = 50  # rows of each class, or rows that are present, for a verdict about leaks
CLEAR = 2.0  # standard errors by which one explanation must be better than another


class Signal:
    """The label of some rows as numbers, and their folds.

    Args:
        label: 0 or 1, or any number, (N,).
        is_binary: Whether they are 0 and 1.

    Attributes:
        rows: Which rows of the table these are, (n,); a sample of a large one.
        label: Of those rows, (n,).
    """

    def __init__(self, label: np.ndarray, *, is_binary: bool) -> None:
        rng = np.random.default_rng(0)
        known = np.flatnonzero(np.isfinite(label))
        if len(known) > MAX_ROWS:
            known = np.sort(rng.permutation(known)[:MAX_ROWS])
        self.rows, self.is_binary = known, is_binary
        self.label = label[known].astype(np.float64)
        if not is_binary and len(known):
            self.label = (self.label - self.label.mean()) / (self.label.std() or 1.0)
        self._fold = rng.integers(FOLDS, size=len(known))

    @property
    def has_enough(self) -> bool:
        """Whether there are enough rows, of both classes, for a verdict."""
        if not self.is_binary:
            return len(self.label) >= 2 * AT_LEAST
        return bool(min(self.label.sum(), (1 - self.label).sum()) >= AT_LEAST)

    def out_of_fold(self, codes: np.ndarray) -> np.ndarray:
        """The smoothed mean label of each row's value, from the other folds, (n,)."""
        count = int(codes.max(initial=0)) + 1
        cells = codes * FOLDS + self._fold
        rows = np.bincount(cells, minlength=count * FOLDS).reshape(count, FOLDS)
        sums = np.bincount(cells, self.label, count * FOLDS).reshape(count, FOLDS)
        others, other_sums = rows.sum(1, keepdims=True) - rows, sums.sum(1, keepdims=True) - sums
        prior = other_sums.sum(0) / np.maximum(others.sum(0), 1)
        means = (other_sums + SMOOTHING * prior) / (others + SMOOTHING)
        found: np.ndarray = means[codes, self._fold]
        return found

    def losses(self, means: np.ndarray) -> np.ndarray:
        """How wrong each mean is, (n,): log loss of classes, squared error of numbers."""
        found: np.ndarray = np.square(self.label - means)
        if self.is_binary:
            likely = np.where(self.label > 0, means, 1 - means)
            found = -np.log(np.clip(likely, 1e-9, None))
        return found

    def strength(self, means: np.ndarray) -> float:
        """AUC of means for a label of 0 and 1, else the share of its variance they explain."""
        if not self.is_binary:
            return 1 - float(np.square(self.label - means).mean())
        from sklearn.metrics import roc_auc_score  # slow to import

        return float(roc_auc_score(self.label, means))


class Evidence(NamedTuple):
    """What one column says about the label.

    Attributes:
        strength: AUC (share of variance, of a number) that the column alone reaches out of fold;
            None where there are too few rows.
        leak: Why the column is a leak; empty if it seems none.
        names_something: Of whole numbers: standard errors by which single values say more about
            the label than their order does; below 0 it is the order that says more.
    """

    strength: float | None = None
    leak: str = ""
    names_something: float = 0.0


def evidence_of(column: ColumnSummary, signal: Signal) -> Evidence:
    """What a column says about the label."""
    if not signal.has_enough:
        return Evidence()
    if leak := _only_present(column, signal):
        return Evidence(leak=leak)
    if column.kind in ("list", "vector"):
        return Evidence()
    by_value = signal.out_of_fold(codes_of(column)[signal.rows])
    strength, names_something = signal.strength(by_value), 0.0
    if column.numbers is not None and column.distinct > BINS:
        numbers = column.numbers[signal.rows]
        by_order = signal.out_of_fold(_binned(numbers, BINS))
        fine = signal.out_of_fold(_binned(numbers, FINE_BINS))
        strength = max(strength, signal.strength(fine))
        names_something = _errors_better(signal.losses(by_order) - signal.losses(by_value))
    leak = ""
    if strength > LEAK:
        what = "AUC" if signal.is_binary else "share of the label's variance"
        leak = f"alone it knows the label ({what} {strength:.3f} out of fold): a leak?"
    return Evidence(strength, leak, names_something)


def depends_on(column: ColumnSummary, codes: np.ndarray) -> bool:
    """Whether ids that come back always have equal values of a column.

    Args:
        codes: The id of each row, (N,).
    """
    comes_back = np.bincount(codes)[codes] > 1
    if comes_back.sum() < AT_LEAST:
        return False  # nothing could speak against it
    codes, values = codes[comes_back], codes_of(column)[comes_back]
    pairs = np.unique(codes * (values.max(initial=0) + 1) + values)
    return len(pairs) == len(np.unique(codes))


def _only_present(column: ColumnSummary, signal: Signal) -> str:
    """Why presence alone gives the label away, if it does."""
    if not signal.is_binary or not column.missing:
        return ""
    present = column.is_present[signal.rows]
    count = int(present.sum())
    if count >= AT_LEAST and count < len(present):
        for value in (1, 0):
            if (signal.label[present] == value).all():
                return f"present only where the label is {value} ({count:,} rows): a leak"
    return ""


def _binned(numbers: np.ndarray, count: int) -> np.ndarray:
    """Which of so many bins of equally many rows each number is in; NaN in one of its own."""
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        return np.zeros(len(numbers), np.int64)
    edges = np.unique(np.quantile(known, np.linspace(0, 1, count + 1)[1:-1]))
    bins = np.searchsorted(edges, numbers, side="right")
    return np.where(np.isnan(numbers), len(edges) + 1, bins).astype(np.int64)


def _errors_better(gains: np.ndarray) -> float:
    """A mean of gains in standard errors."""
    error = gains.std() / np.sqrt(len(gains))
    return float(gains.mean() / error) if error > 0 else 0.0
