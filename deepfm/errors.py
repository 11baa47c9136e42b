"""Errors that a user can act on, and the hint that each of them ends with.

The CLI prints the message of a `DeepFMError` on one line, without a traceback, and exits with
its `exit_code`: 2 for a mistake in what the user gave, 1 for what the machine did (network,
disk, a loss that is not a number).

An error carries the parts of its message: where the mistake stands (a key of a config, a place
in the data, an argument of a layer) and what is wrong there. Whoever knows the place better than
the one who raised makes a copy with `at`; nobody takes a message apart.
"""

import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple, Self

LONGEST_VALUE = 80  # characters of a value that an error shows
_LONGEST_WORD = 250  # of what stands without quotation marks, such as a path
_LONGEST_PROBLEM = 2000
_QUOTED = re.compile(rf"'[^'\n]{{{LONGEST_VALUE},}}'|\"[^\"\n]{{{LONGEST_VALUE},}}\"")
_WORD = re.compile(rf"\S{{{_LONGEST_WORD + 1},}}")


def cut(text: str, longest: int = LONGEST_VALUE) -> str:
    """A text as an error shows it: no longer than it helps.

    Example:
        >>> cut("abcdef", 4), cut("abcd", 4)
        ('abc…', 'abcd')
    """
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def shown(value: object) -> str:
    """The repr of a value as an error shows it.

    Example:
        >>> shown([1, 2]), len(shown("x" * 1000))
        ('[1, 2]', 80)
    """
    text = repr(value)
    if len(text) > LONGEST_VALUE and isinstance(value, str):
        return cut(text[:-1], LONGEST_VALUE - 1) + text[-1]
    return cut(text)


def readable(problem: str) -> str:
    """What is wrong, without the greater part of very long values in it.

    Example:
        >>> readable(f"found '{'x' * 1000}'; did you mean 3?")[-22:]
        "xxx…'; did you mean 3?"
    """
    if len(problem) <= LONGEST_VALUE:
        return problem
    problem = _QUOTED.sub(lambda found: cut(found[0][:-1]) + found[0][-1], problem)
    problem = _WORD.sub(lambda found: cut(found[0], _LONGEST_WORD), problem)
    return cut(problem, _LONGEST_PROBLEM)


class DeepFMError(Exception):
    """Base class: something outside the user's input went wrong (network, disk, NaN)."""

    exit_code = 1


class ConfigError(DeepFMError):
    """A configuration key, value or option that cannot be used.

    Attributes:
        problem: What is wrong, what was expected and what was found.
        key: What it is wrong with, such as `training.lr`; empty where that is no single key.
        source: Where the key was read, with what stands before the message: `"x.yaml:17: "`.

    Example:
        >>> error = ConfigError("expected at least 1, found 0", key="epochs")
        >>> print(error)
        epochs: expected at least 1, found 0
        >>> print(error.at(key=f"training.{error.key}", source="x.yaml:17: "))
        x.yaml:17: training.epochs: expected at least 1, found 0
    """

    exit_code = 2

    def __init__(self, problem: str, *, key: str = "", source: str = "") -> None:
        problem = readable(problem)
        super().__init__(problem)
        self.problem, self.key, self.source = problem, key, source

    def __str__(self) -> str:
        key = f"{cut(self.key, 2 * LONGEST_VALUE)}: " if self.key else ""
        return f"{self.source}{key}{self.problem}"

    def at(self, *, key: str | None = None, source: str | None = None) -> Self:
        """Return the same problem with another key or source; None leaves what there is."""
        return type(self)(
            self.problem,
            key=self.key if key is None else key,
            source=self.source if source is None else source,
        )


class Place(NamedTuple):
    """Where in the data something stands, as far as it is known.

    Attributes:
        file: Path of the file.
        line: Of a text file, from 1.
        row: Of a table that has no lines, from 1.
        field: Name of the field that reads it.
        column: Name of the raw column.

    Example:
        >>> print(Place(file="a.tsv", line=17, field="age", column="years"))
        a.tsv:17: field age, column years
        >>> print(Place(file="a.parquet", row=17))
        a.parquet: row 17
        >>> print(Place(row=17, column="years"))
        row 17, column years
    """

    file: str = ""
    line: int | None = None
    row: int | None = None
    field: str = ""
    column: str = ""

    def __str__(self) -> str:
        file = self.file if self.line is None else f"{self.file}:{self.line}"
        row = "" if self.row is None else f"row {self.row}"
        field = f"field {self.field}" if self.field else ""
        column = f"column {self.column}" if self.column else ""
        if not file and not field:
            return ", ".join(filter(None, (row, column)))
        return ": ".join(filter(None, (file, row, ", ".join(filter(None, (field, column))))))


class DataError(DeepFMError):
    """A file, column or row that is not what the schema says.

    Attributes:
        problem: What is wrong, what was expected and what was found.
        place: Where; an empty one if nobody knows.

    Example:
        >>> error = DataError("expected a number, found 'x'", place=Place(column="age"))
        >>> print(error.at(error.place._replace(file="a.tsv", line=17)))
        a.tsv:17: column age: expected a number, found 'x'
    """

    exit_code = 2

    def __init__(self, problem: str, *, place: Place | None = None) -> None:
        problem = readable(problem)
        super().__init__(problem)
        self.problem, self.place = problem, Place() if place is None else place

    def __str__(self) -> str:
        place = str(self.place)
        return f"{place}: {self.problem}" if place else self.problem

    def at(self, place: Place) -> Self:
        """Return the same problem at another place."""
        return type(self)(self.problem, place=place)


class MissingDataError(DataError):
    """The data is not there, and it may not be downloaded."""


class CheckpointError(DeepFMError):
    """A checkpoint that is missing, damaged, of another schema, or that carries code."""

    exit_code = 2

    def __init__(self, problem: str) -> None:
        super().__init__(readable(problem))


class ArgumentError(ValueError):
    """A value that a layer or another part without a config cannot use.

    Whoever knows which key of the config the argument came from makes a `ConfigError` of it.

    Attributes:
        argument: Name of the argument.
        problem: What is wrong, what was expected and what was found.

    Example:
        >>> print(ArgumentError("layer_sizes", "expected at least one layer"))
        layer_sizes: expected at least one layer
    """

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(argument, problem)
        self.argument, self.problem = argument, problem

    def __str__(self) -> str:
        return f"{self.argument}: {self.problem}"


def problem_of(error: ValueError) -> str:
    """What is wrong, without the name of the argument, where the error gives one.

    Example:
        >>> problem_of(ArgumentError("init", "expected x")), problem_of(ValueError("expected x"))
        ('expected x', 'expected x')
    """
    return error.problem if isinstance(error, ArgumentError) else str(error)


def nearest(name: str, choices: Iterable[str]) -> str:
    """The hint that ends an error about an unknown name.

    Example:
        >>> nearest("deepmf", ["deepfm", "xdeepfm"])
        "did you mean 'deepfm'?"
        >>> nearest("banana", ["deepfm", "xdeepfm"])
        'known: deepfm, xdeepfm'
    """
    choices = list(choices)
    # what is compared is cut, because the time grows with the square of its length
    close = difflib.get_close_matches(str(name)[:LONGEST_VALUE], choices, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(choices)}"
