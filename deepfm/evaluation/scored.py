"""Rows with their labels and what a model says about them: what every metric reads.

Shapes: N rows, C classes, G group columns.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepfm.errors import DataError
from deepfm.evaluation.measures import Array, check_rows, log_odds_of


class Scored(NamedTuple):
    """Rows with what a model says about them.

    Attributes:
        label: (N,).
        predicted: Probabilities of class 1, (N,), or of each class, (N, C); where only numbers
            are predicted, those, (N,); float64.
        value: What is fitted to the label as a number, (N,) float64; None if nothing is.
        group: (N, G) int64, its columns named by `group_columns`; None without any.
        batch_size: Rows of a batch, for what is defined by batches.
        num_class: C, 1 where one logit stands for two classes.
        classes: Probabilities of each class, (N, C), where they are more exact than what follows
            from `predicted`.
        log_odds: The logit of class 1 of two, (N,) float64, which tells rows apart that have one
            probability in float64; None: what follows from `predicted`.
    """

    label: Array
    predicted: NDArray[np.float64]
    value: NDArray[np.float64] | None = None
    group: NDArray[np.int64] | None = None
    group_columns: tuple[str, ...] = ()
    batch_size: int = 16384
    num_class: int = 1
    classes: NDArray[np.float64] | None = None
    log_odds: NDArray[np.float64] | None = None

    @property
    def has_both_classes(self) -> bool:
        """Whether not all labels are equal."""
        return bool((self.label != self.label[:1]).any())

    @property
    def order(self) -> NDArray[np.float64]:
        """What puts rows of two classes in order, (N,)."""
        return self.predicted if self.log_odds is None else self.log_odds

    @property
    def logit(self) -> NDArray[np.float64]:
        """The logit of class 1, (N,).

        Raises:
            DeepFMError: It has to follow from probabilities, and one is outside [0, 1].
        """
        if self.log_odds is not None:
            return self.log_odds
        return log_odds_of(self.predicted)

    @property
    def numbers(self) -> NDArray[np.float64]:
        """`value`, for metrics that need numbers, which are refused where there are none."""
        assert self.value is not None
        return self.value

    @property
    def of_classes(self) -> NDArray[np.float64]:
        """Probabilities, (N, C), for two classes or more."""
        if self.classes is not None:
            return self.classes
        if self.predicted.ndim == 2:
            return self.predicted
        return np.column_stack([1 - self.predicted, self.predicted])

    def group_of(self, column: str) -> NDArray[np.int64]:
        """The group of each row by a column, (N,)."""
        if self.group is None:
            raise DataError(f"no groups by {column!r}: the rows were made without group_columns")
        return self.group[:, self.group_columns.index(column)]

    def where(self, chosen: NDArray[np.bool_]) -> "Scored":
        """Return the chosen rows, (N,) bool, alone."""
        found = self._asdict()
        for name in ("label", "predicted", "value", "group", "classes", "log_odds"):
            found[name] = None if found[name] is None else found[name][chosen]
        return Scored(**found)

    def check_binary(self) -> None:
        """Refuse anything but one probability per label 0 or 1."""
        check_rows(self.label, self.predicted.shape)

    def check_classes(self) -> None:
        """Refuse labels that are none of the classes 0 to C - 1."""
        classes = self.of_classes.shape[1]
        if not np.isin(self.label, np.arange(classes)).all():
            found = np.unique(self.label)[-5:].tolist()
            raise DataError(f"expected classes 0 to {classes - 1}, got {found}")
