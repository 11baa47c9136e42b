"""Declared vocabularies: which id a word has, from a mapping or from a file."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from deepfm.errors import ConfigError, DataError, MissingDataError, Place, shown
from deepfm.utils.io import table_to_array, tensor_to_table
from deepfm.utils.places import AnyPath, below, is_uri, reading

if TYPE_CHECKING:
    from torch import Tensor

MAX_ID = 2**31 - 1


class WordIds:
    """Words and the id of each; several words may have one id. Equal if words and ids are.

    Args:
        words: Distinct, large_string without null.
        ids: From 0 on, (n,) int64.
    """

    def __init__(self, words: pa.Array, ids: np.ndarray) -> None:
        self.words = words
        self.ids = ids
        self.digest = xxhash.xxh3_64_hexdigest(
            pc.binary_length(words).to_numpy().tobytes()
            + "".join(words.to_pylist()).encode()
            + ids.tobytes()
        )

    @classmethod
    def of(cls, mapping: "Mapping[str, int] | WordIds") -> "WordIds":
        """From a mapping.

        Raises:
            ConfigError: It is empty, or an id is no whole number from 0 on.
        """
        if isinstance(mapping, WordIds):
            return mapping
        if not mapping:
            raise ConfigError("expected words with their ids, found none")
        for word, number in mapping.items():
            if not isinstance(number, int) or isinstance(number, bool):
                raise ConfigError(f"{word!r}: expected a whole number as id, found {number!r}")
            if not 0 <= number <= MAX_ID:
                raise ConfigError(f"{word!r}: expected an id from 0 to {MAX_ID}, found {number}")
        words = pa.array([str(word) for word in mapping], pa.large_string())
        return cls(words, np.array(list(mapping.values()), np.int64))

    @property
    def rows(self) -> int:
        """The largest id and 1."""
        return int(self.ids.max()) + 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WordIds) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"{len(self.ids)} words {self.digest}"

    def __deepcopy__(self, memo: dict[int, object]) -> "WordIds":
        return self  # it never changes

    def to_array(self) -> np.ndarray:
        """As bytes, (n,) uint8; `from_bytes` is the inverse."""
        return table_to_array(pa.table({"word": self.words, "id": self.ids}))

    @classmethod
    def from_bytes(cls, data: "np.ndarray | Tensor") -> "WordIds":
        table = tensor_to_table(data)
        return cls(table["word"].combine_chunks(), table["id"].to_numpy())


def read_words(folder: AnyPath, file: str) -> WordIds:
    """A vocabulary file in UTF-8 below a folder or in an object store: on each line a word, or a
    word and its id.

    Words have no blanks in them. Without ids, the words have the ids 0, 1, 2 … in the order of
    the lines. Empty lines are skipped.

    Raises:
        ConfigError: The path leads out of the folder.
        MissingDataError: There is no such file.
        DataError: A line has another form than the first one, a word stands twice, or an id is
            none; the message names file and line.
    """
    path = below(folder, file)
    if not _is_allowed(path, folder, file):
        raise ConfigError(f"expected a file below {folder}, found {shown(file)}")
    try:
        with reading(path) as opened:
            text = opened.read().decode()
    except FileNotFoundError:
        raise MissingDataError(
            "no such file (vocabulary_file)", place=Place(file=str(path))
        ) from None
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or no name of a file
        raise DataError(
            f"cannot be read as UTF-8 text: {getattr(error, 'strerror', None) or error}",
            place=Place(file=str(path)),
        ) from None
    found: dict[str, int] = {}
    width = 0
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        if not (parts := line.split()):
            continue
        width = width or len(parts)
        if len(parts) != width or width > 2:
            expected = "a word and its id" if width == 2 else "one word"
            raise DataError(
                f"expected {expected}, found {line!r}", place=Place(file=str(path), line=number)
            )
        if parts[0] in found:
            raise DataError(
                f"the word {parts[0]!r} stands there twice",
                place=Place(file=str(path), line=number),
            )
        found[parts[0]] = _id(path, number, parts[1]) if width == 2 else len(found)
    if not found:
        raise DataError("holds no word", place=Place(file=str(path)))
    return WordIds.of(found)


def _is_allowed(path: AnyPath, folder: AnyPath, file: str) -> bool:
    """Whether a name leads to no other local file than those below the folder."""
    if isinstance(path, Path):  # links may lead on
        return isinstance(folder, Path) and Path(os.path.abspath(path)).is_relative_to(
            os.path.abspath(folder)
        )
    return is_uri(file) or ".." not in file.split("/")


def _id(path: AnyPath, line: int, text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 10 or int(text) > MAX_ID:
        raise DataError(
            f"expected an id from 0 to {MAX_ID}, found {text!r}",
            place=Place(file=str(path), line=line),
        )
    return int(text)
