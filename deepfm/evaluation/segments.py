"""How well each part of some rows is put in order, and how well its probabilities fit.

Shapes: N rows, S segments.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepfm.evaluation.calibration_figures import probability_of
from deepfm.evaluation.curves import wilson_interval
from deepfm.evaluation.delong import auc_interval
from deepfm.evaluation.measures import Array, auc

FEWEST = 10  # rows of either class below which a segment has no AUC


class Segments(NamedTuple):
    """Which segment each row is in.

    Attributes:
        names: Of the segments, (S,).
        of_row: Its number, (N,); -1 is none.
    """

    names: Sequence[str]
    of_row: NDArray[np.int64]


class SegmentFigures(NamedTuple):
    """The figures of one segment.

    Attributes:
        name: Of the segment.
        rows, positives: How many it has.
        auc, auc_low, auc_high: With its 95 % interval; None with fewer than `FEWEST` rows of
            either class.
        predicted: Mean probability; None where nothing is one.
        observed, observed_low, observed_high: Share of positives with its 95 % interval.
    """

    name: str
    rows: int
    positives: int
    auc: float | None
    auc_low: float | None
    auc_high: float | None
    predicted: float | None
    observed: float
    observed_low: float
    observed_high: float


def segment_figures(
    label: Array, score: Array, logit: Array | None, segments: Segments
) -> list[SegmentFigures]:
    """The figures of each segment that has rows, in the order of the segments.

    Args:
        label: 0 or 1, (N,).
        score: What orders rows, (N,).
        logit: Of class 1, (N,); None: there are no probabilities.
    """
    probability = None if logit is None else probability_of(logit)
    found = []
    for number, name in enumerate(segments.names):
        inside = segments.of_row == number
        if not (rows := int(inside.sum())):
            continue
        own = label[inside]
        positives = int((own == 1).sum())
        value = ends = None
        if min(positives, rows - positives) >= FEWEST:
            value, ends = auc(own, score[inside]), auc_interval(own, score[inside])
        low, high = wilson_interval(np.array([positives]), np.array([rows]))
        found.append(
            SegmentFigures(
                name,
                rows,
                positives,
                value,
                None if ends is None else ends[0],
                None if ends is None else ends[1],
                None if probability is None else float(probability[inside].mean()),
                positives / rows,
                float(low[0]),
                float(high[0]),
            )
        )
    return found
