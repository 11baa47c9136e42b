"""Which of the rows that are fitted are held out, to stop training early and to keep what is best.

Decided here: as in scikit-learn's own early stopping they are a share of the rows that `fit` gets,
drawn class by class; the newest ones where there is a column of times. Where too few rows would be
held out to measure by, or all of a class, none are, and all rows train for all epochs.
"""

import numpy as np

from deepfm.utils.seeding import generator

FEW = 10  # held-out rows below which they measure nothing


def is_held_out(
    label: np.ndarray, fraction: float, *, seed: int, time: np.ndarray | None
) -> np.ndarray | None:
    """Which rows are held out, (N,) bool; None: none are.

    Args:
        label: Number of the class, (N,); all 0 of numbers to predict.
        fraction: Of the rows.
        time: When each row was, (N,); None: nobody knows.
    """
    count = round(fraction * len(label))
    if count < FEW:
        return None
    held = np.zeros(len(label), bool)
    if time is not None:
        held[np.argsort(time, kind="stable")[len(label) - count :]] = True
    else:
        rng = generator(seed, "held out")
        for value in np.unique(label):
            rows = rng.permutation(np.flatnonzero(label == value))
            held[rows[: round(fraction * len(rows))]] = True
    classes, trained = np.unique(label), np.unique(label[~held])
    measures = min(len(classes), 2) <= len(np.unique(label[held]))
    return held if measures and len(trained) == len(classes) else None
