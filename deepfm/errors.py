"""Errors that a user can act on, and the hint that each of them ends with.

The CLI prints the message of a `DeepFMError` on one line, without a traceback, and exits with
its `exit_code`: 2 for a mistake in what the user gave, 1 for what the machine did (network,
disk, a loss that is not a number).
"""

import difflib
from collections.abc import Iterable


class DeepFMError(Exception):
    """Base class: something outside the user's input went wrong (network, disk, NaN)."""

    exit_code = 1


class ConfigError(DeepFMError):
    """A configuration key, value or option that cannot be used."""

    exit_code = 2


class DataError(DeepFMError):
    """A file, column or row that is not what the schema says."""

    exit_code = 2


class MissingDataError(DataError):
    """The data is not there, and it may not be downloaded."""


class CheckpointError(DeepFMError):
    """A checkpoint that is missing, damaged, of another schema, or that carries code."""

    exit_code = 2


def nearest(name: str, choices: Iterable[str]) -> str:
    """The hint that ends an error about an unknown name.

    Example:
        >>> nearest("deepmf", ["deepfm", "xdeepfm"])
        "did you mean 'deepfm'?"
        >>> nearest("banana", ["deepfm", "xdeepfm"])
        'known: deepfm, xdeepfm'
    """
    choices = list(choices)
    close = difflib.get_close_matches(str(name), choices, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(choices)}"
