"""64-bit hashes of texts, many at once: XXH64, MurmurHash64A and FarmHash's Fingerprint64.

Decided here: texts are hashed as UTF-8, in groups of equal length, each group as one array. Within
a group every step is arithmetic modulo 2^64 on whole columns; the few different lengths are all
that Python loops over.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from numpy.lib.stride_tricks import sliding_window_view

if TYPE_CHECKING:
    import pyarrow as pa

MURMUR_SEED = 0xC70F6907  # that of libstdc++'s std::hash of a text

Words = np.ndarray  # uint64, (N,): one number for each of N texts of one length


def hash_texts(texts: "pa.Array", function: str) -> np.ndarray:
    """A hash per text, (N,) uint64, by one of `FUNCTIONS`; 0 stands where a text is null.

    Example:
        >>> import pyarrow as pa
        >>> [int(h) % 100 for h in hash_texts(pa.array(["abc", "efg"]), "murmur64a")]
        [33, 44]
    """
    texts = texts.cast("large_string")
    if not len(texts):
        return np.zeros(0, np.uint64)
    if function == "xxh64":
        digest = xxhash.xxh64_intdigest
        found = [0 if text is None else digest(text.encode()) for text in texts.to_pylist()]
        return np.array(found, np.uint64)
    group_hash = _OF_EQUAL_LENGTHS[function]
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    content = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    starts, lengths = ends[:-1], np.diff(ends)
    hashes = np.zeros(len(texts), np.uint64)
    order = np.argsort(lengths, kind="stable")
    sizes, first = np.unique(lengths[order], return_index=True)
    for size, group in zip(sizes.tolist(), np.split(order, first[1:]), strict=True):
        members = np.zeros((len(group), 0), np.uint8)
        if size:
            members = sliding_window_view(content, size)[starts[group]]
        hashes[group] = group_hash(members)
    if texts.null_count:
        hashes[texts.is_null().to_numpy(zero_copy_only=False)] = 0
    return hashes


def hash_few(texts: Sequence[bytes], function: str) -> list[int]:
    """What `hash_texts` makes of some texts in UTF-8, without Arrow.

    Example:
        >>> [h % 100 for h in hash_few([b"abc", b"efg"], "murmur64a")]
        [33, 44]
    """
    if function == "xxh64":
        return [xxhash.xxh64_intdigest(text) for text in texts]
    by_length: dict[int, list[int]] = defaultdict(list)
    for place, text in enumerate(texts):
        by_length[len(text)].append(place)
    hashes = [0] * len(texts)
    for length, places in by_length.items():
        joined = b"".join([texts[place] for place in places])
        members = np.frombuffer(joined, np.uint8).reshape(len(places), length)
        found = _OF_EQUAL_LENGTHS[function](members).tolist()
        for place, number in zip(places, found, strict=True):
            hashes[place] = number
    return hashes


def murmur64a(texts: np.ndarray) -> Words:
    """MurmurHash64A with the seed of std::hash, of N texts of one length.

    Source: A. Appleby, MurmurHash2, MurmurHash64A (https://github.com/aappleby/smhasher, public
    domain); seed as in libstdc++'s `_Hash_bytes` on 64-bit systems.

    Args:
        texts: Their bytes, (N, length) uint8.
    """
    count, length = texts.shape
    m = np.uint64(0xC6A4A7935BD1E995)
    start = (MURMUR_SEED ^ length * int(m)) % 2**64
    hashed = np.full(count, start, np.uint64)
    for place in range(0, length - length % 8, 8):
        word = _shift_mix(_word(texts, place) * m, 47) * m
        hashed = (hashed ^ word) * m
    if length % 8:
        hashed = (hashed ^ _word(texts, length - length % 8, length % 8)) * m
    return _shift_mix(_shift_mix(hashed, 47) * m, 47)


def farm64(texts: np.ndarray) -> Words:
    """FarmHash's Fingerprint64, of N texts of one length.

    Its four cases are those of 0 to 16, 17 to 32, 33 to 64 and more bytes.

    Source: G. Pike, FarmHash, `farmhashna::Hash64` (https://github.com/google/farmhash, MIT).

    Args:
        texts: Their bytes, (N, length) uint8.
    """
    length = texts.shape[1]
    if length <= 16:
        return _farm_up_to_16(texts)
    if length <= 32:
        return _farm_up_to_32(texts)
    return _farm_up_to_64(texts) if length <= 64 else _farm_longer(texts)


_OF_EQUAL_LENGTHS: dict[str, Callable[[np.ndarray], Words]] = {
    "murmur64a": murmur64a,
    "farm64": farm64,
}
FUNCTIONS = ("xxh64", *_OF_EQUAL_LENGTHS)  # the package of xxh64 hashes text by text

_K0, _K1, _K2 = (np.uint64(k) for k in (0xC3A5C85C97CB3127, 0xB492B66FBE98F273, 0x9AE16A3B2F90404F))


def _word(texts: np.ndarray, place: int, size: int = 8) -> Words:
    """The little-endian number in `size` bytes from a place on; a negative one is from the end."""
    place %= texts.shape[1]
    padded = np.zeros((len(texts), 8), np.uint8)
    padded[:, :size] = texts[:, place : place + size]
    return padded.view("<u8").ravel().astype(np.uint64, copy=False)


def _number(value: int) -> np.uint64:
    return np.uint64(value % 2**64)


def _rotate(words: Words, bits: int) -> Words:
    """Rotated to the right."""
    return (words >> np.uint64(bits)) | (words << np.uint64(64 - bits))


def _shift_mix(words: Words, bits: int) -> Words:
    mixed: Words = words ^ (words >> np.uint64(bits))
    return mixed


def _pair(first: Words, second: Words, mul: Words | np.uint64) -> Words:
    """Two numbers to one."""
    first = _shift_mix((first ^ second) * mul, 47)
    return _shift_mix((second ^ first) * mul, 47) * mul


def _farm_up_to_16(texts: np.ndarray) -> Words:
    count, length = texts.shape
    if not length:
        return np.full(count, _K2)
    mul = _number(int(_K2) + 2 * length)
    if length >= 8:
        a, b = _word(texts, 0) + _K2, _word(texts, -8)
        return _pair(_rotate(b, 37) * mul + a, (_rotate(a, 25) + b) * mul, mul)
    if length >= 4:
        a, b = _word(texts, 0, 4), _word(texts, -4, 4)
        return _pair(np.uint64(length) + (a << np.uint64(3)), b, mul)
    a, b, c = (texts[:, k].astype(np.uint64) for k in (0, length // 2, length - 1))
    y = a + (b << np.uint64(8))
    z = np.uint64(length) + (c << np.uint64(2))
    return _shift_mix(y * _K2 ^ z * _K0, 47) * _K2


def _farm_up_to_32(texts: np.ndarray) -> Words:
    mul = _number(int(_K2) + 2 * texts.shape[1])
    a, b = _word(texts, 0) * _K1, _word(texts, 8)
    c, d = _word(texts, -8) * mul, _word(texts, -16) * _K2
    return _pair(
        _rotate(a + b, 43) + _rotate(c, 30) + d, a + _rotate(b + _K2, 18) + c, mul
    )  # fmt: skip


def _farm_up_to_64(texts: np.ndarray) -> Words:
    mul = _number(int(_K2) + 2 * texts.shape[1])
    a, b = _word(texts, 0) * _K2, _word(texts, 8)
    c, d = _word(texts, -8) * mul, _word(texts, -16) * _K2
    y = _rotate(a + b, 43) + _rotate(c, 30) + d
    z = _pair(y, a + _rotate(b + _K2, 18) + c, mul)
    e, f = _word(texts, 16) * mul, _word(texts, 24)
    g, h = (y + _word(texts, -32)) * mul, (z + _word(texts, -24)) * mul
    return _pair(_rotate(e + f, 43) + _rotate(g, 30) + h, e + _rotate(f + a, 18) + g, mul)


def _farm_longer(texts: np.ndarray) -> Words:
    count, length = texts.shape
    seed = 81
    x = np.full(count, _number(seed * int(_K2))) + _word(texts, 0)
    y = np.full(count, _number(seed * int(_K1) + 113))
    z = _shift_mix(y * _K2 + np.uint64(113), 47) * _K2
    v = w = (np.zeros(count, np.uint64),) * 2
    for place in range(0, (length - 1) // 64 * 64, 64):
        x, y, z, v, w = _farm_round(texts, place, x, y, z, v, w, _K1, np.uint64(1))
    mul = _K1 + ((z & np.uint64(0xFF)) << np.uint64(1))
    w = (w[0] + np.uint64((length - 1) % 64), w[1])
    v = (v[0] + w[0], v[1])
    w = (w[0] + v[0], w[1])
    # the last 64 bytes, which may overlap those before
    x, y, z, v, w = _farm_round(texts, length - 64, x, y, z, v, w, mul, np.uint64(9))
    return _pair(
        _pair(v[0], w[0], mul) + _shift_mix(y, 47) * _K0 + z,
        _pair(v[1], w[1], mul) + x,
        mul,
    )


def _farm_round(
    texts: np.ndarray,
    place: int,
    x: Words,
    y: Words,
    z: Words,
    v: tuple[Words, Words],
    w: tuple[Words, Words],
    mul: Words | np.uint64,
    weight: np.uint64,
) -> tuple[Words, Words, Words, tuple[Words, Words], tuple[Words, Words]]:
    """The state after 64 more bytes."""
    words = [_word(texts, place + k) for k in range(0, 64, 8)]
    x = _rotate(x + y + v[0] + words[1], 37) * mul ^ w[1] * weight
    y = _rotate(y + v[1] + words[6], 42) * mul + v[0] * weight + words[5]
    z = _rotate(z + w[0], 33) * mul
    v = _weak_pair(words[:4], v[1] * mul, x + w[0])
    w = _weak_pair(words[4:], z + w[1], y + words[2])
    return z, y, x, v, w


def _weak_pair(words: list[Words], a: Words, b: Words) -> tuple[Words, Words]:
    """Two numbers and 32 bytes to two numbers."""
    a = a + words[0]
    b = _rotate(b + a + words[3], 21)
    total = a + words[1] + words[2]
    return total + words[3], b + _rotate(total, 44) + a
