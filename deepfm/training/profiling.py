"""Where the time of a training step goes.

Decided here: what counts to which part. The steps are those of `Trainer.fit`, unchanged; parts of
the model run under named ranges of `torch.profiler`, and each node of the backward pass counts to
the part whose forward pass made it, which the profiler's sequence numbers tell.
"""

import copy
import dataclasses
import functools
import itertools
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, record_function

from deepfm.data.batch import Batch
from deepfm.data.dataset import Epoch, TabularDataset
from deepfm.models.base import BaseCTRModel
from deepfm.training.trainer import Trainer
from deepfm.utils.interrupt import Interrupted
from deepfm.utils.io import atomic_write_bytes

PARTS = ("data", "embedding", "interaction", "dnn", "optimizer", "rest")
_RANGE = "deepfm: "
_NODE = "autograd::engine::evaluate_function: "
_OPTIMIZER = ("Optimizer.step#", "Optimizer.zero_grad#")  # torch's own ranges
_WARM_UP = 5


class Profile(NamedTuple):
    """Milliseconds per step.

    Attributes:
        forward, backward: By name in `PARTS`. `data` is the wait for a batch, `interaction`
            every part of the model but embedding and DNNs, `rest` the loss, the sums of logits,
            clipping and the loop. What is not of the model stands under `forward`.
        step: The whole step, of which these are the parts.
        steps: How many were measured.
        rows: Rows in all of them.
    """

    forward: dict[str, float]
    backward: dict[str, float]
    step: float
    steps: int
    rows: int

    @property
    def shares(self) -> dict[str, float]:
        """Part of the step's time, by name; they add up to 1."""
        return {part: (self.forward[part] + self.backward[part]) / self.step for part in PARTS}

    def lines(self) -> list[str]:
        """A table for people."""
        found = [f"{'ms per step':<14}{'forward':>10}{'backward':>10}{'share':>9}"]
        for part, share in self.shares.items():
            back = f"{self.backward[part]:.2f}" if self.backward[part] else ""
            found.append(f"{part:<14}{self.forward[part]:>10.2f}{back:>10}{share:>9.1%}")
        speed = 1000 * self.rows / self.steps / self.step
        return [
            *found,
            f"step {self.step:.2f} ms, {speed:,.0f} rows/s, over {self.steps} steps with the "
            "profiler's own cost",
        ]


def profile(
    trainer: Trainer,
    model: BaseCTRModel,
    train: TabularDataset,
    valid: TabularDataset,
    *,
    trace: Path,
    steps: int = 30,
) -> Profile:
    """Train for a few steps, and measure all but the first of them.

    The time is the host's. On a GPU operations run on after the call that starts them, so a part
    waits for what an earlier one started; the trace has the device's own times.

    Args:
        trainer, model, train, valid: As for `Trainer.fit`. The weights are changed.
        trace: File for the measured steps in Chrome's format, `chrome://tracing` or
            `ui.perfetto.dev`; its directory must exist.
        steps: How many to measure; epochs begin anew until there are as many.

    Raises:
        DeepFMError: The trace cannot be written.
    """
    # Read when the profiler's library starts: else it writes lines of its own to stderr.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    is_cuda = trainer.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    profiler = torch.profiler.profile(activities=activities)
    trainer = copy.copy(trainer)
    trainer.config = dataclasses.replace(trainer.config, max_steps=None, evaluate_every_steps=None)
    rows = _MeasuredRows(train, _WARM_UP + steps)
    measurement = _Measurement(profiler, steps, synchronize=is_cuda)
    with _ranges(model), measurement, suppress(Interrupted):
        trainer.fit(model, rows, valid, should_stop=measurement.step_ends)
    _write(profiler, trace)
    events = profiler.events()
    assert events is not None  # the profiler has run
    forward, backward = (
        {part: spent[part] / steps for part in PARTS} for spent in _milliseconds(events)
    )
    step = 1000 * measurement.seconds / steps
    forward["rest"] = step - sum(forward.values()) - sum(backward.values())
    return Profile(forward, backward, step, steps, sum(rows.sizes[_WARM_UP:]))


class _Measurement:
    """Runs a profiler from the end of the warm-up on, and counts the steps until all are measured.

    Attributes:
        seconds: From the first measured step to the last.
    """

    def __init__(self, profiler: torch.profiler.profile, steps: int, *, synchronize: bool) -> None:
        self.seconds = 0.0
        self._profiler, self._steps, self._synchronize = profiler, steps, synchronize
        self._done = 0  # steps
        self._start = 0.0
        self._running = ExitStack()  # ends the profiler, once

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        self._running.close()

    def step_ends(self) -> int:
        """To be called after each step; 1 after the last."""
        self._done += 1
        if self._done == _WARM_UP:
            self._wait()
            self._running.enter_context(self._profiler)
            self._start = time.perf_counter()
        elif self._done == _WARM_UP + self._steps:
            self._wait()
            self.seconds = time.perf_counter() - self._start
            self._running.close()
            return 1
        return 0

    def _wait(self) -> None:
        if self._synchronize:
            torch.cuda.synchronize()


class _MeasuredRows:
    """A training split whose only epoch has a fixed number of batches, of as many of its own epochs
    as they need.

    Attributes:
        sizes: Rows of each batch so far.
    """

    def __init__(self, train: TabularDataset, total: int) -> None:
        self._train, self._total = train, total
        self.sizes: list[int] = []

    def epoch(
        self, batch_size: int, *, seed: int, epoch: int, shuffle: bool, drop_last: bool
    ) -> "_MeasuredEpoch":
        epochs = (
            self._train.epoch(
                batch_size, seed=seed, epoch=number, shuffle=shuffle, drop_last=drop_last
            )
            for number in itertools.count(epoch)
        )
        return _MeasuredEpoch(epochs, self._total, len(self._train), self.sizes)


class _MeasuredEpoch:
    """The batches of `_MeasuredRows`, each fetched under a range."""

    def __init__(
        self, epochs: Iterator[Epoch], total: int, num_rows: int, sizes: list[int]
    ) -> None:
        self._epochs, self._total, self._sizes = epochs, total, sizes
        self.num_rows = num_rows

    def __len__(self) -> int:
        return self._total

    def batches(
        self, first: int = 0, part: Callable[[int], slice] | None = None
    ) -> Iterator[Batch]:
        source = itertools.chain.from_iterable(epoch.batches(part=part) for epoch in self._epochs)
        for _ in range(first, self._total):
            with record_function(f"{_RANGE}data"):
                batch = next(source)
            self._sizes.append(len(batch.label))
            yield batch


@contextmanager
def _ranges(model: BaseCTRModel) -> Iterator[None]:
    """While it lasts, the parts of a model run under ranges that bear their names."""
    before: list[tuple[nn.Module, str, Any]] = []

    def wrap(module: nn.Module, method: str, part: str) -> None:
        call = getattr(module, method)

        @functools.wraps(call)
        def ranged(*arguments: Any, **options: Any) -> Any:
            with record_function(f"{_RANGE}{part}"):
                return call(*arguments, **options)

        before.append((module, method, vars(module).get(method)))
        setattr(module, method, ranged)

    for name, child in model.named_children():
        part = {"embedding": "embedding", "dnn": "dnn", "final": "dnn"}.get(name, "interaction")
        wrap(child, "forward", part)
    wrap(model.embedding, "l2_reg", "embedding")
    wrap(model.embedding, "located", "embedding")
    try:
        yield
    finally:
        for module, method, own in before:
            delattr(module, method)  # what the class defines shows again
            if own is not None:
                setattr(module, method, own)


def _milliseconds(events: Iterable[FunctionEvent]) -> tuple[dict[str, float], dict[str, float]]:
    """Time of the forward and of the backward pass by part, over all steps."""
    forward: dict[str, float] = defaultdict(float)
    backward: dict[str, float] = defaultdict(float)
    made_by: dict[int, str] = {}  # sequence number of an operation: the part it ran in
    part, range_end, node_end, node_part = "rest", 0.0, 0.0, "rest"
    for event in sorted(events, key=lambda event: event.time_range.start):
        start, end = event.time_range.start, event.time_range.end
        milliseconds = event.time_range.elapsed_us() / 1000
        if event.device_type.name != "CPU" or start < node_end:
            continue
        if event.name.startswith(_NODE):
            # Filling .grad has no forward operation: it belongs to the node that made the gradient.
            node_part, node_end = made_by.get(event.sequence_nr, node_part), end
            backward[node_part] += milliseconds
        elif event.name.startswith(_OPTIMIZER):
            forward["optimizer"] += milliseconds
        elif event.name.startswith(_RANGE):
            part, range_end = event.name.removeprefix(_RANGE), end
            forward[part] += milliseconds
        elif event.sequence_nr >= 0:
            # An operation without a node shows the number of the next one that has one, which
            # comes later and so has the last word.
            made_by[event.sequence_nr] = part if start < range_end else "rest"
    return forward, backward


def _write(profiler: torch.profiler.profile, trace: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(whole))
        atomic_write_bytes(trace, whole.read_bytes())
