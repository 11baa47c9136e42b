"""Where the time of a training step goes.

Decided here: what counts to which part. The steps are those of `Trainer.fit`, unchanged; parts of
the model run under named ranges of `torch.profiler`, and each node of the backward pass counts to
the part whose forward pass made it, which the profiler's sequence numbers tell.
"""

import copy
import dataclasses
import functools
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.profiler import ProfilerActivity, record_function

from deepfm.data.batch import Batch
from deepfm.data.dataset import TabularDataset
from deepfm.errors import DeepFMError
from deepfm.models.base import BaseCTRModel
from deepfm.training.trainer import Interrupted, Trainer

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
    activities = [ProfilerActivity.CPU]
    if trainer.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    profiler = torch.profiler.profile(activities=activities)
    trainer = copy.copy(trainer)
    trainer.config = dataclasses.replace(trainer.config, max_steps=None, evaluate_every_steps=None)
    batches = _Batches(train, _WARM_UP + steps)
    times = []
    with _ranges(model), ExitStack() as measuring, suppress(Interrupted):

        def done() -> bool:
            if batches.given in (_WARM_UP, len(batches)) and trainer.device.type == "cuda":
                torch.cuda.synchronize()
            if batches.given == _WARM_UP:
                measuring.enter_context(profiler)
                times.append(time.perf_counter())
            elif batches.given == len(batches):
                times.append(time.perf_counter())
                measuring.close()
            return batches.given == len(batches)

        trainer.fit(model, batches, valid, should_stop=done)
    _write(profiler, trace)
    forward, backward = _milliseconds(profiler.events())
    forward, backward = (
        {part: spent[part] / steps for part in PARTS} for spent in (forward, backward)
    )
    step = 1000 * (times[1] - times[0]) / steps
    forward["rest"] = step - sum(forward.values()) - sum(backward.values())
    return Profile(forward, backward, step, steps, batches.rows)


class _Batches:
    """A training split whose epoch is a fixed number of batches, each fetched under a range."""

    def __init__(self, train: TabularDataset, total: int) -> None:
        self._train, self._total = train, total
        self.given = 0
        self.rows = 0  # of the batches after the warm-up

    def epoch(self, batch_size: int, *, epoch: int, **options: Any) -> "_Batches":
        self._epoch = functools.partial(self._train.epoch, batch_size, **options)
        return self

    def __len__(self) -> int:
        return self._total

    @property
    def num_rows(self) -> int:
        return len(self._train)

    def batches(self, first: int = 0) -> Iterator[Batch]:
        for batch in self._endless():
            self.rows += len(batch.label) if self.given >= _WARM_UP else 0
            self.given += 1
            yield batch

    def _endless(self) -> Iterator[Batch]:
        epoch, source = 0, iter(())
        while self.given < self._total:
            with record_function(f"{_RANGE}data"):
                batch = next(source, None)
                if batch is None:
                    source = self._epoch(epoch=epoch).batches()
                    batch, epoch = next(source), epoch + 1
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
    try:
        yield
    finally:
        for module, method, own in before:
            delattr(module, method)  # what the class defines shows again
            if own is not None:
                setattr(module, method, own)


def _milliseconds(events: Iterable[Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Time of the forward and of the backward pass by part, over all steps."""
    forward, backward = defaultdict(float), defaultdict(float)
    made_by: dict[int, str] = {}  # sequence number of an operation: the part it ran in
    part, range_end, node_end, node_part = "rest", 0.0, 0.0, "rest"
    for event in sorted(events, key=lambda event: event.time_range.start):
        start, end = event.time_range.start, event.time_range.end
        milliseconds = event.time_range.elapsed_us() / 1000
        if event.device_type != torch.autograd.DeviceType.CPU or start < node_end:
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
    temporary = trace.with_name(f".{trace.name}.tmp")
    try:
        profiler.export_chrome_trace(str(temporary))
        temporary.replace(trace)
    except (OSError, RuntimeError) as error:
        raise DeepFMError(f"cannot write {trace}: {error}") from None
