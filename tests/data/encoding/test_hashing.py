"""Hashes of texts against plain Python and against published implementations."""

import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from deepfm.data.encoding.hashing import FUNCTIONS, hash_texts

LETTERS = "".join(chr(97 + k * 7 % 26) for k in range(300))
# fingerprint64 of the first n letters, from the package pyfarmhash 0.5.1 (Google's FarmHash)
FARM = {
    0: 0x9AE16A3B2F90404F,
    1: 0xB3454265B6DF75E3,
    2: 0x65C94E7DE3FD684F,
    3: 0x2D5B0CBCC48FDC6B,
    4: 0x7B803BC75CEE3292,
    7: 0xED26868869003B0A,
    8: 0x93B52AF6D9B92820,
    9: 0xEF002A726B27544E,
    16: 0xF496A3696582095E,
    17: 0x1F0C64814DF23A1A,
    24: 0xD8B7341E21F9156C,
    32: 0x9636DECCE0F119BC,
    33: 0x6FA5DE3A3DD81CAC,
    48: 0xCF434269047FA3D0,
    63: 0xF47B000892B736D5,
    64: 0xE01E9A6D5635769E,
    65: 0x266A26491DA9530D,
    100: 0xD771E5CAF34AD868,
    127: 0x44D86F1DC468D399,
    128: 0x917472F7F980118D,
    129: 0x0EB7D4A2CDDB5078,
    192: 0x29DCCCA451F6D409,
    193: 0xCA2CFEF8AEAD29C7,
    300: 0x6D8C60E9557BDD86,
}
FARM_OF_ALL_LENGTHS = 0x9FCB5DC60A844BC9  # of 0 … 299 letters, folded: f = 31 f + hash
FARM_OF_UNICODE = 0xA5E3841653A0DAC9  # of "é世界🙂"


def test_farm64_is_fingerprint64():
    found = hash_texts(pa.array([LETTERS[:n] for n in FARM]), "farm64")
    assert dict(zip(FARM, found.tolist(), strict=True)) == FARM
    assert hash_texts(pa.array(["é世界🙂"]), "farm64").tolist() == [FARM_OF_UNICODE]


def test_farm64_of_every_length():
    folded = 0
    for found in hash_texts(pa.array([LETTERS[:n] for n in range(300)]), "farm64").tolist():
        folded = (31 * folded + found) % 2**64
    assert folded == FARM_OF_ALL_LENGTHS


def murmur64a(data: bytes) -> int:
    """Appleby's MurmurHash64A with the seed 0xc70f6907, one text at a time."""
    m, mask = 0xC6A4A7935BD1E995, 2**64 - 1
    found = 0xC70F6907 ^ (len(data) * m & mask)
    whole = len(data) // 8 * 8
    for place in range(0, whole, 8):
        k = int.from_bytes(data[place : place + 8], "little") * m & mask
        k = (k ^ k >> 47) * m & mask
        found = (found ^ k) * m & mask
    if whole < len(data):
        found = (found ^ int.from_bytes(data[whole:], "little")) * m & mask
    found = (found ^ found >> 47) * m & mask
    return found ^ found >> 47


@given(st.lists(st.none() | st.text()))
def test_murmur64a_against_a_loop(texts):
    expected = [0 if text is None else murmur64a(text.encode()) for text in texts]
    assert hash_texts(pa.array(texts, pa.string()), "murmur64a").tolist() == expected


def test_goldens_of_both():
    """TorchEasyRec's own test values, modulo 100 (`std::hash` and TensorFlow's fingerprint)."""
    texts = ["abc", "efg", "hij", "xyz", "1", "2", "3", "4", "ua_ia", "ua_ib", "ub_ia", "ub_ib"]
    found = hash_texts(pa.array(texts), "murmur64a") % 100
    assert found.tolist() == [33, 44, 66, 13, 95, 70, 13, 56, 37, 90, 5, 97]
    assert (hash_texts(pa.array(["1", "2", "3"]), "farm64") % 100).tolist() == [49, 59, 21]


@given(st.lists(st.none() | st.text()))
def test_xxh64_is_that_of_its_package(texts):
    expected = [0 if text is None else xxhash.xxh64_intdigest(text.encode()) for text in texts]
    assert hash_texts(pa.array(texts, pa.string()), "xxh64").tolist() == expected


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_company_of_a_text_changes_nothing(function):
    texts = pa.array([None, *(LETTERS[k % 7 : k] for k in range(90)), None, "é"])
    whole = hash_texts(texts, function)
    for start, length in ((0, 1), (5, 30), (40, 0), (89, 4)):
        part = hash_texts(texts.slice(start, length), function)
        assert part.tolist() == whole[start : start + length].tolist()
