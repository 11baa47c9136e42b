"""Declared vocabularies: their files and mappings, and what is refused in them."""

import copy

import pytest

from deepfm.data.encoding.words import WordIds, read_words
from deepfm.errors import ConfigError, DataError, MissingDataError


def found_in(path, content):
    path.write_text(content, encoding="utf-8")
    words = read_words(path.parent, path.name)
    return dict(zip(words.words.to_pylist(), words.ids.tolist(), strict=True))


def test_lines_of_words_are_numbered(tmp_path):
    path = tmp_path / "words.txt"
    assert found_in(path, "b\na\r\n\né\n") == {"b": 0, "a": 1, "é": 2}
    assert found_in(path, "7") == {"7": 0}


def test_lines_of_words_and_ids(tmp_path):
    found = found_in(tmp_path / "words.txt", "b 4\na\t4\n7  0\n")
    assert found == {"b": 4, "a": 4, "7": 0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nb 1\n", r"words\.txt:2: expected one word, found 'b 1'"),
        ("a 1\n\nb\n", r"words\.txt:3: expected a word and its id, found 'b'"),
        ("a b 1\n", r"words\.txt:1: expected one word, found 'a b 1'"),
        ("a\nb\na\n", r"words\.txt:3: the word 'a' stands there twice"),
        ("a x\n", r"words\.txt:1: expected an id from 0 to 2147483647, found 'x'"),
        ("a -1\n", "found '-1'"),
        ("a 99999999999999\n", "found '99999999999999'"),
        ("\n", r"words\.txt: holds no word"),
    ],
)
def test_malformed_files(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        found_in(tmp_path / "words.txt", content)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(MissingDataError, match=r"words\.txt: no such file"):
        read_words(tmp_path, "words.txt")
    (tmp_path / "words.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match="cannot be read as UTF-8 text"):
        read_words(tmp_path, "words.txt")


@pytest.mark.parametrize("file", ["/etc/passwd", "../words.txt", "a/../../words.txt"])
def test_a_path_that_leads_out_of_the_folder_is_refused_unread(tmp_path, file):
    (tmp_path / "words.txt").write_text("secret word and more\n")
    (tmp_path / "data").mkdir()
    with pytest.raises(ConfigError, match=r"expected a file below .*data, found '") as caught:
        read_words(tmp_path / "data", file)
    assert "secret" not in str(caught.value)
    (tmp_path / "data" / "words.txt").write_text("a\n")
    inside = ("words.txt", "./words.txt", str(tmp_path / "data" / "words.txt"))
    assert {read_words(tmp_path / "data", file).rows for file in inside} == {1}


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, "found none"),
        ({"a": -1}, "'a': expected an id from 0 to"),
        ({"a": 2**31}, "'a': expected an id from 0 to"),
        ({"a": 1.5}, "'a': expected a whole number as id, found 1.5"),
        ({"a": True}, "'a': expected a whole number as id, found True"),
    ],
)
def test_mappings_that_are_refused(mapping, message):
    with pytest.raises(ConfigError, match=message):
        WordIds.of(mapping)


def test_words_are_compared():
    words = WordIds.of({"a": 3, "b": 0, "": 1})
    assert words.rows == 4
    assert words == WordIds.from_bytes(words.to_array()) == copy.deepcopy(words)
    assert hash(words) == hash(WordIds.of({"a": 3, "b": 0, "": 1}))
    assert words != WordIds.of({"a": 3, "b": 1, "": 0})
    assert WordIds.of({"ab": 0, "c": 1}) != WordIds.of({"a": 0, "bc": 1})
