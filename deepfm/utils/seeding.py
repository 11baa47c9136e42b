"""Random numbers as pure functions of (seed, purpose, counters).

No draw depends on how many were made before it, so a resumed run needs counters only and a
thread that works ahead cannot change a result.
"""

import zlib

import numpy as np


def derive_seed(seed: int, purpose: str, *counters: int) -> int:
    """A 63-bit seed for one use, such as `derive_seed(42, "dropout", epoch, step)`.

    Example:
        >>> derive_seed(1, "order", 0) == derive_seed(1, "order", 0)
        True
        >>> derive_seed(1, "order", 0) == derive_seed(1, "order", 1)
        False
    """
    sequence = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *counters])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A NumPy generator that starts at `derive_seed(seed, purpose, *counters)`."""
    return np.random.default_rng(derive_seed(seed, purpose, *counters))
