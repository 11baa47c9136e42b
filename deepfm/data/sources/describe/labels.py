"""Which column is the label, what kind of label it is, and what counts as 1."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.files.columns import is_text
from deepfm.data.sources.describe.columns import ColumnSummary, as_texts, words_of
from deepfm.errors import ConfigError, nearest

_LABEL_WORDS = (
    "label", "click", "clicked", "clicks", "target", "y", "conversion", "converted", "attributed",
    "purchase", "purchased", "bought", "churn", "churned", "fraud", "default", "subscribed",
    "response", "responded", "outcome", "class", "income", "survived", "recommended",
)  # fmt: skip
_RATING_WORDS = ("rating", "ratings", "stars", "score")
_NUMBER_WORDS = {"price", "value", "amount", "sales", "revenue", "val", "target"}
_POSITIVE = {
    "yes", "true", "1", "1.0", "y", "t", "click", "clicked", "buy", "bought", "purchase",
    "purchased", "positive", "pos", "success", "converted", "conversion", "subscribed", "churn",
    "churned", "yes.", "true.", "fraud", "default", "defaulted", "accepted", "approved", "liked",
    "like", "responded", "won", "spam", "on", "good", "recommended", "sold", "survived", "active",
}  # fmt: skip
_NEGATIVE = {
    "no", "false", "0", "0.0", "n", "f", "none", "negative", "neg", "failure", "no.", "false.",
    "normal", "ham", "off", "bad", "rejected", "denied", "refused", "lost", "stayed", "skip",
    "skipped", "view", "viewed", "impression", "ignored", "legit", "benign", "inactive", "-1",
}  # fmt: skip
_FEW_CLASSES = 30
_FEW_NUMBERS = 10  # whole numbers with at most so many values are classes


class LabelGuess(NamedTuple):
    """What is to be predicted.

    Attributes:
        column: The column; None: the label is that there is a row at all.
        kind: `binary`, `class` or `number`.
        positive: The text of what counts as 1; None: the column holds zeros and ones.
        threshold: Numbers from it on count as 1; None: none does.
        classes: Of a `class`.
        values: 0 and 1, the number of the class, or the number; NaN without a label, (N,).
        reason: What the guess rests on.
    """

    column: ColumnSummary | None
    kind: str
    positive: str | None
    threshold: float | None
    classes: tuple[str, ...]
    values: np.ndarray
    reason: str

    def smallest_class_of(self, rows: int) -> int:
        """How many of the first rows are of the rarest class; of a number all."""
        known = self.values[:rows]
        known = known[np.isfinite(known)]
        if self.kind == "number":
            return len(known)
        return int(np.bincount(known.astype(int), minlength=2).min()) if len(known) else 0


def guess_label(
    columns: Sequence[ColumnSummary], name: str | None, positive: str | None
) -> LabelGuess:
    """The label of a table.

    Args:
        name: The column that its user names; None: it is guessed.
        positive: The value that counts as 1, as its user says; None: it is guessed.

    Raises:
        ConfigError: There is no such column or value.
    """
    if name is None:
        column, why = _guess_column(columns)
    else:
        by_name = {column.name: column for column in columns}
        if name not in by_name:
            raise ConfigError(f"--label: no column {name!r}; {nearest(name, by_name)}")
        column, why = by_name[name], "as told"
    return _label(column, positive, why)


def _guess_column(columns: Sequence[ColumnSummary]) -> tuple[ColumnSummary, str]:
    columns = [c for c in columns if c.distinct > 1 and c.kind in ("number", "text")]
    two = [c for c in columns if c.distinct == 2]
    two = [c for c in two if not c.missing] or two
    zeros_and_ones = [c for c in two if c.kind == "number" and (c.low, c.high) == (0, 1)]
    named = [c for c in columns if set(words_of(c.name)) & set(_LABEL_WORDS)]
    exact = [c for c in columns if c.name.lower() in _LABEL_WORDS]
    ratings = [c for c in columns if set(words_of(c.name)) & set(_RATING_WORDS)]
    ratings = [c for c in ratings if c.kind == "number"]

    few = [c for c in exact if c.distinct <= _FEW_CLASSES]
    numbers = [c for c in columns if c.kind == "number" and set(words_of(c.name)) & _NUMBER_WORDS]
    ways = (
        (_in_both(exact, zeros_and_ones), "by its name, zeros and ones"),
        (_in_both(named, zeros_and_ones), "by its name, zeros and ones"),
        (_in_both(named, two), "by its name, two values"),
        (few, "by its name"),
        (zeros_and_ones, "zeros and ones"),
        ([c for c in two if c.kind == "text"][::-1], "two texts, the last such column"),
        (ratings, "by its name"),
        (numbers[::-1], "by its name"),
        (
            [c for c in columns if c.kind == "number" or c.distinct <= _FEW_CLASSES][::-1],
            "the last",
        ),
    )
    for found, why in ways:
        if found:
            return found[0], why
    raise ConfigError(
        "no column may be the label: a number, or a text of few values; --label names one, --user "
        "and --item make a ranking task of positives only"
    )


def _in_both(one: Sequence[ColumnSummary], other: Sequence[ColumnSummary]) -> list[ColumnSummary]:
    names = {column.name for column in other}
    return [column for column in one if column.name in names]


def _label(column: ColumnSummary, positive: str | None, why: str) -> LabelGuess:
    if positive is not None or column.distinct == 2:
        return _binary(column, positive, why)
    rating = set(words_of(column.name)) & set(_RATING_WORDS)
    if rating and column.kind == "number" and column.distinct <= 11 and column.high <= 10:
        limit = 4.0 if column.high <= 5 else 8.0
        if column.low >= limit or column.high < limit:
            limit = column.high  # all would be of one class
        return _above(column, limit, f"{why}; from {limit:g} on")
    if column.kind == "number" and not (column.is_whole and column.distinct <= _FEW_NUMBERS):
        assert column.numbers is not None
        return LabelGuess(column, "number", None, None, (), column.numbers, f"{why}, a number")
    if column.kind not in ("number", "text") or column.distinct > _FEW_CLASSES:
        raise ConfigError(
            f"the column {column.name} ({column.kind}, {column.distinct:,} values) is no label; "
            "--label names another"
        )
    if column.distinct < 2:
        raise ConfigError(
            f"every row has one value of the label {column.name}, so there is nothing to learn; "
            "--label names another column, --user and --item make a ranking task of positives only"
        )
    classes = tuple(_distinct_texts(column))
    codes = _codes(column, classes)
    return LabelGuess(column, "class", None, None, classes, codes, f"{why}, {len(classes)} classes")


def _above(column: ColumnSummary, limit: float, reason: str) -> LabelGuess:
    assert column.numbers is not None
    values = np.where(np.isnan(column.numbers), np.nan, column.numbers >= limit)
    return LabelGuess(column, "binary", None, limit, (), values, reason)


def _binary(column: ColumnSummary, positive: str | None, why: str) -> LabelGuess:
    texts = _distinct_texts(column)
    if positive is not None:
        if positive not in texts:
            raise ConfigError(
                f"--positive: the label {column.name} has no value {positive!r}; "
                f"{nearest(positive, texts)}"
            )
        reason = "as told"
    elif column.kind == "number" and (column.low, column.high) == (0, 1):
        values = column.numbers
        assert values is not None
        return LabelGuess(column, "binary", None, None, (), values, why)
    else:
        positive, reason = _positive_of(column, texts)
    codes = _codes(column, (positive,))
    values = np.where(column.is_present, np.where(codes == 0, 1.0, 0.0), np.nan)
    return LabelGuess(
        column, "binary", positive, None, (), values, f"{why}; {positive!r} is 1: {reason}"
    )


def _positive_of(column: ColumnSummary, texts: Sequence[str]) -> tuple[str, str]:
    """Which of two values counts as 1, and why."""
    if (found := positive_word(texts)) is not None:
        return found
    own = set(words_of(column.name))
    named = [bool(own & set(words_of(text))) for text in texts]
    if sum(named) == 1:
        return texts[named.index(True)], "the label is named after it"
    counts = [int(np.sum(_codes(column, (text,)) == 0)) for text in texts]
    rarer = int(np.argmin(counts))
    return texts[rarer], f"the rarer one ({counts[rarer]:,} rows of {sum(counts):,})"


def positive_word(texts: Sequence[str]) -> tuple[str, str] | None:
    """Which of two texts counts as 1 by what they say, and why; None: they do not say it.

    Example:
        >>> positive_word(["click", "none"]), positive_word(["cat", "dog"])
        (('click', "'click' is a known word"), None)
    """
    plain = [text.strip().lower() for text in texts]
    for words, sign in ((_POSITIVE, 1), (_NEGATIVE, 0)):
        known = [text in words for text in plain]
        if sum(known) == 1:
            chosen = texts[known.index(True)] if sign else texts[known.index(False)]
            return chosen, f"{texts[known.index(True)]!r} is a known word"
    for one, other, text in ((plain[0], plain[1], texts[1]), (plain[1], plain[0], texts[0])):
        if re.fullmatch(rf"(no|not|non|un|in|dis)[\s_-]*{re.escape(other)}", one):
            return text, f"the other one negates it ({one!r})"
    return None


def _distinct_texts(column: ColumnSummary) -> list[str]:
    """The different values as texts, in order: numbers by size."""
    texts = pc.unique(as_texts(column.values.drop_null())).to_pylist()
    texts = [text for text in texts if text != "" and text not in column.no_numbers]
    is_number = column.kind == "number" and _are_numbers(texts)
    return sorted(texts, key=float) if is_number else sorted(texts)


def _are_numbers(texts: Sequence[str]) -> bool:
    """Whether all of some texts are numbers."""
    try:
        return all(np.isfinite(float(text)) for text in texts)
    except ValueError:
        return False


def _codes(column: ColumnSummary, texts: Sequence[str]) -> np.ndarray:
    """The place of each row's value among some texts, NaN for others, (N,)."""
    own = as_texts(column.values)
    places = pc.index_in(own, value_set=pa.array(texts, own.type if is_text(own.type) else None))
    return np.asarray(places.cast(pa.float64()).to_numpy(zero_copy_only=False))
