"""Where the figures of a run go besides its log and its files, as they come.

A tracker is anything with three calls: it is told of a run when that begins, of figures while it
trains, and of its end. Those that a config can name stand in `TRACKERS`; others are given to
`deepfm.experiment.train`. Nothing is imported here that a tracker needs when it is built.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from deepfm.utils.extras import needed
from deepfm.utils.named import Named, by_name


class Tracker(Protocol):
    """What is told of a run; an error that it raises ends the training."""

    def start(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        """A run begins, or goes on.

        Args:
            folder: Of the run.
            config: With every default spelled out.
            step: Steps that are done: 0, or more of a run that is resumed.
        """

    def record(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures after so many steps, by names such as `train/loss` and `valid/auc`.

        They come with each log line about them: at an epoch's end and at an evaluation within one,
        with `epoch`, the epochs so far, and every `training.log_every_steps` steps.
        """

    def finish(self, metrics: Mapping[str, Any] | None) -> None:
        """The run has ended.

        Args:
            metrics: As in `metrics.json`; None where it was stopped or failed.
        """


@dataclass(frozen=True, kw_only=True)
class TrackerConfig(Named):
    """A tracker as a config names it."""

    def build(self) -> Tracker:
        """The tracker of one run.

        Raises:
            ConfigError: What it needs is not installed.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class TensorBoard(TrackerConfig):
    """Scalars for TensorBoard, in the folder `tensorboard` of the run."""

    name = "tensorboard"

    def build(self) -> Tracker:
        needed("tensorboard", extra="tensorboard", wanted_by="training.trackers: tensorboard")
        return _TensorBoard()


class _TensorBoard:
    """Writes the files that `tensorboard --logdir` reads."""

    def start(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What an interrupted run wrote after its last checkpoint comes again.
        purge = step + 1 if step else None
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)
        text = json.dumps(config, indent=2, default=str)
        self._writer.add_text("config", f"```json\n{text}\n```", step)
        self._last = step

    def record(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()
        self._last = step

    def finish(self, metrics: Mapping[str, Any] | None) -> None:
        for split, figures in (metrics or {}).items():
            for name, value in figures.items() if split in ("valid", "test") else ():
                if isinstance(value, int | float):
                    self._writer.add_scalar(f"final_{split}/{name}", value, self._last)
        self._writer.close()


TRACKERS: dict[str, type[TrackerConfig]] = by_name(TensorBoard)


@contextlib.contextmanager
def tracked(
    trackers: Sequence[Tracker], folder: Path, config: Mapping[str, Any], step: int
) -> Iterator["Tracked"]:
    """Start trackers; they are told of the end however the block ends."""
    begun: list[Tracker] = []
    told = Tracked(begun)
    try:
        for tracker in trackers:
            tracker.start(folder, config, step)
            begun.append(tracker)
        yield told
    finally:
        with contextlib.ExitStack() as each:  # all of them, also where one fails
            for tracker in begun:
                each.callback(tracker.finish, told.metrics)


class Tracked:
    """Trackers that have begun.

    Attributes:
        metrics: Of the run, once it has them.
    """

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = trackers
        self.metrics: Mapping[str, Any] | None = None

    def record(self, step: int, figures: Mapping[str, float]) -> None:
        """Hand figures on to each."""
        for tracker in self._trackers:
            tracker.record(step, figures)
