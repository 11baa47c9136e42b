"""What one column is as a field: an id or a quantity, how it is scaled, what speaks against it."""

import re
from typing import Any, NamedTuple

import numpy as np

from deepfm.data.files.columns import is_text
from deepfm.data.schema import FieldSchema
from deepfm.data.sources.describe.columns import ColumnSummary, words_of
from deepfm.data.sources.describe.evidence import CLEAR, Evidence

ABSENT = "(absent)"  # a value of its own, where an id has none
_FEW = 10  # whole numbers with at most this many distinct values are taken for categories
_ID_WORDS = {
    "id", "ids", "ip", "app", "device", "os", "channel", "zip", "zipcode", "zipcodes", "code",
    "codes", "user", "item", "uid", "iid", "site", "domain", "campaign", "advertiser", "publisher",
    "creative", "brand", "category", "cat", "sku", "store", "region", "city", "country", "postcode",
    "browser", "model", "uuid", "key", "hash",
}  # fmt: skip
_BINS = FieldSchema.bins  # of a piecewise number, by default
_LONG_RANGE = 150  # more whole numbers without gaps are no ages: they number something
_WORDS_OF_A_TEXT = 4  # on average, of values of which most are different: nothing to embed


class FieldGuess(NamedTuple):
    """A field of the config.

    Attributes:
        settings: What stands in its braces.
        facts: What they rest on.
        against: Why it is only proposed, in a comment; empty for a good one.
    """

    name: str
    settings: dict[str, Any]
    facts: str
    against: str = ""


def names_something(column: ColumnSummary, evidence: Evidence) -> tuple[bool, str]:
    """Whether whole numbers are names, and what says so."""
    if not column.is_whole:
        return False, ""
    if column.distinct <= _FEW:
        return True, f"at most {_FEW} values"
    words = words_of(column.name)
    if words and words[-1] in _ID_WORDS:
        return True, f"an id by its name ({words[-1]!r})"
    per_value = len(column.values) * (1 - column.missing) / column.distinct
    span = column.high - column.low + 1
    if column.distinct <= _BINS:  # each of its values has an edge of its own
        is_far = column.low > 5 * span
        return is_far, "an id: far from zero" if is_far else ""
    if evidence.names_something > CLEAR and per_value >= 5:
        return True, "an id: single values say more than their order"
    if evidence.names_something < -CLEAR:
        return False, "a quantity: its order says more than single values"
    if per_value >= 2 and column.distinct > max(_LONG_RANGE, span / 2):
        return True, "an id: nearly all numbers of a long range occur"
    if per_value >= 2 and column.low > 5 * span:
        return True, "an id: far from zero"
    return False, ""


def speaks_against(column: ColumnSummary) -> str:
    """Why a column is no field; empty for a good one."""
    present = len(column.values) * (1 - column.missing)
    if column.distinct < 1:
        return "it is empty"
    if column.distinct == 1 and not column.missing:
        return "a constant says nothing"
    is_name = column.kind == "text" or _may_number_rows(column)
    if is_name and present > 50 and column.distinct > 0.95 * present:
        own = "a row number?" if column.kind == "number" else "an id or a text?"
        return f"nearly every row has its own value: {own}"
    if column.kind == "text" and is_text(column.values.type):
        lengths = [len(text.split()) for text in column.values.slice(0, 500).to_pylist() if text]
        is_long = lengths and np.mean(lengths) >= _WORDS_OF_A_TEXT
        if is_long and column.distinct > 0.5 * present:
            return "a text of many words, which is nothing to embed"
    return ""


def _may_number_rows(column: ColumnSummary) -> bool:
    """Whether whole numbers, if nearly all are different, are no amounts: by their name, because
    they fill their range, or because they rise from row to row."""
    if column.numbers is None or not column.is_whole:
        return False
    words = words_of(column.name)
    known = column.numbers[~np.isnan(column.numbers)]
    fills = column.distinct > (column.high - column.low + 1) / 3
    return bool(words and words[-1] in _ID_WORDS) or fills or bool((np.diff(known) > 0).all())


def scale_of(column: ColumnSummary) -> str:
    """`log1p` for numbers above 0 whose large ones are far beyond the usual ones."""
    assert column.numbers is not None
    known = column.numbers[~np.isnan(column.numbers)]
    if column.low < 0 or not len(known):
        return "standard"
    middle, high = np.quantile(known, [0.5, 0.99])
    return "log1p" if high + 1 > 10 * (middle + 1) or column.high > 1000 else "standard"


def with_own_names(fields: list[FieldGuess]) -> list[FieldGuess]:
    """Fields whose names hold letters, digits and _ alone, each its own."""
    taken: set[str] = set()
    found = []
    for field in fields:
        name = stem = re.sub(r"\W", "_", field.name) or "_"
        count = 1
        indicator = "_missing" if field.settings.get("missing") == "indicator" else ""
        while {name, f"{name}{indicator}"} & taken:
            count += 1
            name = f"{stem}_{count}"
        taken |= {name, f"{name}{indicator}"}
        settings = dict(field.settings)
        if settings["column"] == name:
            del settings["column"]
        found.append(field._replace(name=name, settings=settings))
    return found
