"""What transforms and encoders make of numbers, in NumPy alone; NaN is absent.

Everything here looks at one number at a time, so that a number becomes the same in any array.
"""

from collections.abc import Callable, Mapping

import numpy as np

from deepfm.data.encoding.expressions import parse_expression

Function = Callable[[np.ndarray], np.ndarray]

BLANK = np.iinfo(np.int64).min  # what criteo_log makes of a blank; no other result reaches it


def log10(argument: str) -> Function:
    """The decimal logarithm of numbers above a threshold, a default for others.

    Raises:
        ValueError: The argument is no threshold and default.
    """
    threshold, default = _two_numbers(argument, "threshold", "default")
    if threshold < 0:
        raise ValueError("expected a threshold of at least 0")

    def function(numbers: np.ndarray) -> np.ndarray:
        above = numbers > threshold
        return np.where(above, np.log10(np.where(above, numbers, 1.0)), default)

    return function


def zscore(argument: str) -> Function:
    """(x - mean) / deviation.

    Raises:
        ValueError: The argument is no mean and deviation.
    """
    mean, deviation = _two_numbers(argument, "mean", "standard deviation")
    if deviation <= 0:
        raise ValueError("expected a standard deviation above 0")
    return lambda numbers: (numbers - mean) / deviation


def min_max(argument: str) -> Function:
    """(x - min) / (max - min).

    Raises:
        ValueError: The argument is no range.
    """
    low, high = _two_numbers(argument, "min", "max")
    if low >= high:
        raise ValueError("expected min below max")
    return lambda numbers: (numbers - low) / (high - low)


# By the name of the transform; each makes a function of float64 numbers of its argument.
FUNCTIONS: Mapping[str, Callable[[str], Function]] = {
    "log10": log10,
    "zscore": zscore,
    "minmax": min_max,
    "expression": parse_expression,
}


def where_finite(function: Function, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A function's values and where it has no finite one, both (N,); absent numbers are not there.

    The value that stands where a number is absent means nothing.
    """
    absent = np.isnan(numbers)
    with np.errstate(all="ignore"):
        found = function(np.where(absent, 1.0, numbers))
    return found, ~np.isfinite(found) & ~absent


def bucket_edges(argument: str) -> np.ndarray:
    """The edges of the transform `bucket`.

    Raises:
        ValueError: They are no rising whole numbers.
    """
    try:
        edges = np.array([int(edge) for edge in argument.split(",")])
    except ValueError:
        raise ValueError("expected whole numbers as edges") from None
    if (np.diff(edges) <= 0).any():
        raise ValueError("expected rising edges")
    return edges


def in_buckets(edges: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest edge that is not above each number, and where there is none, both (N,)."""
    index = np.searchsorted(edges, numbers, side="right") - 1
    return edges[index], (index < 0) | np.isnan(numbers)


def criteo_logs(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """floor(ln(x)^2) for x > 2, else x cut to a whole number, `BLANK` where x is absent.

    Returns:
        (N,) int64, and where a number is below all that can be cut, (N,) bool.
    """
    blank = np.isnan(numbers)
    logs = np.floor(np.log(np.maximum(numbers, 1.0)) ** 2)
    found = np.where(numbers > 2, logs, np.trunc(numbers))
    low = found < -(2.0**62)  # no such integer exists, and the blank needs a value
    whole = np.where(blank | low, 0.0, found).astype(np.int64)
    return np.where(blank, BLANK, whole), low


def quantile_ids(edges: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Ids of float64 numbers between rising edges, from 1 on, (N,) int64; absent is 0.

    Id k is that of the numbers above edge k - 1, up to and including edge k.
    """
    return np.where(np.isnan(numbers), 0, np.searchsorted(edges, numbers) + 1)


def boundary_ids(edges: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """How many float32 edges lie below each float64 number, (N,) int64; absent is -1.

    The number is compared as float32.
    """
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and above all edges
        singles = numbers.astype(np.float32)
    return np.where(np.isnan(numbers), -1, np.searchsorted(edges, singles, side="left"))


BITS = 2**32  # bit patterns of a float32


def number_ids(numbers: np.ndarray) -> np.ndarray:
    """The bits of each float64 number as a float32, (N,) int64; absent is -1.

    Example:
        >>> number_ids(np.array([0.0, 1.0, np.nan])).tolist()
        [0, 1065353216, -1]
    """
    limit = np.finfo(np.float32).max
    singles = np.clip(numbers, -limit, limit).astype(np.float32)
    return np.where(np.isnan(numbers), -1, singles.view(np.uint32).astype(np.int64))


def _two_numbers(argument: str, first: str, second: str) -> tuple[float, float]:
    parts = argument.split(",")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) != 2 or not np.isfinite(numbers).all():
        raise ValueError(f"expected {first} and {second}, two finite numbers")
    return numbers[0], numbers[1]
