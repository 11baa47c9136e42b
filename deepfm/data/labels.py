"""The label of a row, 0 or 1, and its weight, from what their raw columns hold."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepfm.data.transforms import is_text, read_numbers


def binary_label(
    values: pa.Array, *, threshold: float | None = None, positive: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) float32, and which values are bad, (N,) bool; a bad one's label is 0.

    With `positive`, 1 where the value's text is that one. With `threshold`, 1 for numbers from
    it on. With neither, values are 0 or 1 already. Bad are absent values, and what is no finite
    number or, without a threshold, any other number.

    Raises:
        DataError: Numbers are needed, and the values are of a type that is none.

    Example:
        >>> binary_label(pa.array(["1", "0", "2"]))
        (array([1., 0., 0.], dtype=float32), array([False, False,  True]))
    """
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if positive is not None:
        equal = pc.equal(values.cast(pa.string()), positive)
        return np.asarray(equal.fill_null(False)).astype(np.float32), np.asarray(values.is_null())
    if is_text(values.type):
        values = pc.utf8_trim_whitespace(values)
    numbers = read_numbers(values).values  # NaN where there is no finite number
    if threshold is None:
        label = numbers == 1
        bad = ~label & (numbers != 0)
    else:
        label = numbers >= threshold
        bad = np.isnan(numbers)
    return label.astype(np.float32), bad


def sample_weight(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Weights (N,) float32, and which values are no finite numbers >= 0, (N,) bool.

    A bad one's weight is 0.

    Raises:
        DataError: The values are of a type that is no number.
    """
    numbers = read_numbers(values).values
    with np.errstate(over="ignore"):
        weights = numbers.astype(np.float32)
    bad = ~(np.isfinite(weights) & (numbers >= 0))  # a number beyond float32 is not finite either
    return np.where(bad, np.float32(0), weights), bad
