"""Metrics of the training batches while they pass, for the log: averages that forget.

A window is a number of batches. When it ends, what is shown moves towards the metric m of the
window: from v to rate * v + (1 - rate) * m, and at the first window to m itself. Until the first
window ends 0 is shown, and between the ends of two windows nothing changes.

Which of the windows below a metric has is said by its class in `metrics`.

Shapes: B rows of a batch, T thresholds.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfm.evaluation.measures import Array
from deepfm.evaluation.scored import Scored


class Window(ABC):
    """One metric over windows of batches.

    Args:
        steps: Batches of a window.
        rate: How much of what was shown stays when a window ends.

    Attributes:
        value: What is shown.
    """

    def __init__(self, *, steps: int, rate: float) -> None:
        self.value = 0.0
        self._size, self._rate = steps, rate
        self._steps = 0  # of the current window
        self._windows = 0  # that have ended

    def update(self, scored: Scored) -> None:
        """Take in a batch; may end a window."""
        self._add(scored)
        self._steps += 1
        if self._steps == self._size:
            self._end(self._rate if self._windows else 0.0)
            self._windows, self._steps = self._windows + 1, 0

    def state_dict(self) -> dict[str, object]:
        """Numbers and tensors from which `load_state_dict` goes on exactly."""
        own = {name: _plain(getattr(self, name)) for name in self._STATE}
        return {"value": self.value, "steps": self._steps, "windows": self._windows} | own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.value, self._steps, self._windows = (
            state[name] for name in ("value", "steps", "windows")
        )
        for name in self._STATE:
            setattr(self, name, _live(state[name]))

    _STATE: tuple[str, ...]  # attributes of a subclass that are part of its state

    @abstractmethod
    def _add(self, scored: Scored) -> None:
        """Take a batch into the current window."""

    @abstractmethod
    def _end(self, rate: float) -> None:
        """Set `value` by the window and begin a new one; `rate` of what was before stays."""


class Mean(Window):
    """The mean of a metric of batches, over their rows or over the batches.

    Args:
        of_batch: The metric of one batch; a batch of which it is None does not count.
        by_rows: Whether a batch counts with its rows; otherwise all batches count alike.
    """

    _STATE = ("_total", "_count")

    def __init__(
        self,
        of_batch: Callable[[Scored], float | None],
        *,
        by_rows: bool = True,
        steps: int,
        rate: float,
    ) -> None:
        super().__init__(steps=steps, rate=rate)
        self._of_batch, self._by_rows = of_batch, by_rows
        self._total, self._count = 0.0, 0

    def _add(self, scored: Scored) -> None:
        value = self._of_batch(scored)
        if value is not None:
            count = len(scored.label) if self._by_rows else 1
            self._total += value * count
            self._count += count

    def _end(self, rate: float) -> None:
        if self._count:
            self.value = rate * self.value + (1 - rate) * self._total / self._count
        self._total, self._count = 0.0, 0


class Counts(Window):
    """A metric that is made from counts; the counts decay, and not the value.

    Args:
        of_batch: Counts of a batch.
        value_of: The metric of counts.
        none: The counts of no rows.
    """

    _STATE = ("_counts", "_window")

    def __init__(
        self,
        of_batch: Callable[[Scored], NDArray[np.int64]],
        value_of: Callable[[NDArray[np.float64]], float],
        none: NDArray[np.float64],
        *,
        steps: int,
        rate: float,
    ) -> None:
        super().__init__(steps=steps, rate=rate)
        self._of_batch, self._value_of = of_batch, value_of
        self._counts, self._window = none, np.zeros_like(none)

    def _add(self, scored: Scored) -> None:
        self._window = self._window + self._of_batch(scored)

    def _end(self, rate: float) -> None:
        self._counts = rate * self._counts + (1 - rate) * self._window
        self._window = np.zeros_like(self._window)
        self.value = self._value_of(self._counts)


class Rows(Window):
    """A metric of labels and numbers of all rows of a window, which are kept until then.

    Args:
        of_rows: The metric of labels and numbers, (N,) each; None where it does not exist.
    """

    _STATE = ("_rows",)

    def __init__(
        self,
        of_rows: Callable[[Array, Array], float | None],
        *,
        steps: int,
        rate: float,
    ) -> None:
        super().__init__(steps=steps, rate=rate)
        self._of_rows = of_rows
        self._rows: list[NDArray[np.float64]] = []  # (2, B) each

    def _add(self, scored: Scored) -> None:
        self._rows.append(np.stack([scored.label, scored.numbers]))

    def _end(self, rate: float) -> None:
        value = self._of_rows(*np.concatenate(self._rows, axis=1))
        if value is not None:
            self.value = rate * self.value + (1 - rate) * value
        self._rows = []


def _plain(value: object) -> object:
    import torch

    if isinstance(value, list):
        return [_plain(item) for item in value]
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value


def _live(value: object) -> object:
    import torch

    if isinstance(value, list):
        return [_live(item) for item in value]
    return value.numpy().copy() if isinstance(value, torch.Tensor) else value
