"""A first declaration of a file that nobody has described yet: guesses, with what they rest on.

Everything here is a guess that its user reads and edits, so each is written next to the numbers
that led to it. What is written trains as it stands.
"""

from deepfm.data.sources.describe.description import (
    Description,
    Wishes,
    describe,
    describe_labelled,
    describe_table,
)
from deepfm.data.sources.describe.labels import LabelGuess, positive_word
from deepfm.data.sources.describe.text import to_lines, to_yaml

__all__ = [
    "Description",
    "LabelGuess",
    "Wishes",
    "describe",
    "describe_labelled",
    "describe_table",
    "positive_word",
    "to_lines",
    "to_yaml",
]
