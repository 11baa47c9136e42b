"""What every driver shares: options, the clock, the counts, the line of JSON.

    <environment of the peer>/bin/python benchmarks/peers/peer_torchfm.py --workload W1 --score

The result is the one line of stdout that starts with a brace; what peers print goes to stderr,
except while they are imported. The scripts are called peer_... because Python would otherwise
find them in place of the packages they import.

A driver hands `run` a function that builds the peer's model and its two public loops. What is
measured, the same for all:

- Training: the time between the ends of successive optimizer steps of the peer's own loop, seen
  through torch's global optimizer hook, so the loop runs unchanged and its loading counts; the
  median over the steps after warm-up, wall clock and CPU time of the process. What a peer does
  once per fit or once per epoch is not in it. Of several optimizers the first one is followed. On
  CUDA the wall clock is that of the device: an event after each step, read when all is done.
- Scoring: calls of the peer's own predict on the score split, the first as warm-up (it gives
  the AUC), the median of the next three.
- Peak memory: the peak resident size from the start of fit on, the data included; what a peer
  needed before that to read its data format is not in it, memory it still holds is.
- Operations: two per weight of each linear layer; the factorization machine, normalization and
  lookups, a percent or less, are left out.

`--variant` says what a peer is given beyond what it ships with (`variants.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

# of a peer's script only its own folder is on the path, of all others the parent
sys.path.insert(0, str(Path(__file__).resolve().parents[0]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import variants
import workloads

WARM_UP_STEPS = 5
PREDICT_CALLS = 3


class Prepared(NamedTuple):
    """A peer's model with its loops bound to the data."""

    model: nn.Module
    fit: Callable[[], object]  # trains for the epochs asked for
    predict: Callable[[], np.ndarray]  # probabilities of the score split, in its order
    notes: str  # how the peer's model or loop differs
    parameters: int | None = None  # where the model does not hold them as torch parameters


class Task(NamedTuple):
    """What a driver is asked for."""

    workload: workloads.Workload
    train: workloads.Split
    score: workloads.Split
    epochs: int
    variant: str = variants.SHIPPED  # of a peer
    device: str = "cpu"  # or cuda


class StepClock:
    """Wall and CPU times at which a torch optimizer finished a step, while entered.

    A loop may have several optimizers; only the one that steps first is followed, so that a
    training step is one time.

    Args:
        device: Of the steps; on `cuda` the wall clock is that of the device.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.times: list[tuple[float, float]] = []
        self._events: list[torch.cuda.Event] | None = [] if device == "cuda" else None
        self._followed: int | None = None  # an id: a reference would keep the state in memory

    def __enter__(self) -> StepClock:
        self._handle = register_optimizer_step_post_hook(self._record)
        return self

    def _record(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if self._followed is None:
            self._followed = id(optimizer)
        if id(optimizer) == self._followed:
            self.times.append((time.perf_counter(), time.process_time()))
            if self._events is not None:
                self._events.append(torch.cuda.Event(enable_timing=True))
                self._events[-1].record()

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def medians(self) -> tuple[float, float]:
        """Median wall and CPU seconds of a step after warm-up."""
        steps = np.diff(np.array(self.times), axis=0)
        if len(steps) <= WARM_UP_STEPS:
            raise SystemExit(
                f"{len(steps) + 1} steps are too few; at least {WARM_UP_STEPS + 2} are needed: "
                f"give --rows {(WARM_UP_STEPS + 2) * workloads.BATCH_SIZE} or more"
            )
        if self._events is not None:
            torch.cuda.synchronize()
            steps[:, 0] = [a.elapsed_time(b) / 1000 for a, b in pairwise(self._events)]
        wall, cpu = np.median(steps[WARM_UP_STEPS:], axis=0).tolist()
        return wall, cpu


def run(
    peer: str,
    package: str,
    prepare: Callable[[Task], Prepared],
    arguments: argparse.Namespace | None = None,
    *,
    devices: tuple[str, ...] = ("cpu",),
) -> None:
    """Runs one engine on one workload and prints its figures as a line of JSON on stdout.

    Args:
        arguments: Of a driver that has options of its own, `precision` among them; None: a peer's.
        devices: That the driver knows how to put the engine on.
    """
    is_peer = arguments is None
    arguments = arguments or peer_parser().parse_args()
    check_device(arguments.device, devices, peer)
    torch.set_num_threads(arguments.threads)
    variant = arguments.variant if is_peer else variants.SHIPPED
    given = variants.set_products(variant, arguments.device) if is_peer else ""
    torch.manual_seed(0)
    workload = workloads.WORKLOADS[arguments.workload]
    train, score = workloads.load(
        workload.name, rows=arguments.rows, score_rows=arguments.score_rows
    )
    with contextlib.redirect_stdout(sys.stderr):  # peers print as they like
        prepared = prepare(
            Task(workload, train, score, arguments.epochs, variant, arguments.device)
        )
        if variant == variants.BF16:
            variants.autocast(prepared.model, arguments.device)
        _reset_peak_memory(arguments.device)
        with StepClock(arguments.device) as clock:
            prepared.fit()
        scored = _score(prepared.predict, score) if arguments.score else {}
    wall, cpu = clock.medians()
    linear = [module for module in prepared.model.modules() if isinstance(module, nn.Linear)]
    result = {
        "peer": peer,
        "version": version(package),
        "torch": torch.__version__,
        "workload": workload.name,
        "threads": arguments.threads,
        "device": arguments.device,
        "precision": variants.precision_of(variant) if is_peer else arguments.precision,
        "steps": len(clock.times),
        "train_rows_per_s": round(workloads.BATCH_SIZE / wall),
        "train_cpu_rows_per_s": round(workloads.BATCH_SIZE / cpu),
        "score_rows_per_s": scored.get("wall"),
        "score_cpu_rows_per_s": scored.get("cpu"),
        "peak_memory_mb": round(_peak_memory_mb()),
        "peak_device_mb": _peak_device_mb(arguments.device),
        "parameters": prepared.parameters or sum(p.numel() for p in prepared.model.parameters()),
        "dnn_inputs": next(
            (m.in_features for m in linear if m.out_features == workload.hidden[0]), None
        ),
        "flops_per_row": sum(2 * module.weight.numel() for module in linear),
        "auc": scored.get("auc"),
        "notes": "; ".join(filter(None, (given, prepared.notes))),
    }
    print(json.dumps(result), flush=True)


def auc(label: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve, ties counted half (numpy only, unlike scikit-learn's)."""
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positive = label > 0.5
    positives, negatives = positive.sum(), (~positive).sum()
    return float((rank[positive].sum() - positives * (positives + 1) / 2) / positives / negatives)


def _score(predict: Callable[[], np.ndarray], split: workloads.Split) -> dict[str, float]:
    probabilities = np.asarray(predict(), np.float64).reshape(-1)
    if len(probabilities) != len(split.label):
        raise SystemExit(f"expected {len(split.label)} scores, got {len(probabilities)}")
    wall, cpu = [], []
    for _ in range(PREDICT_CALLS):
        start = time.perf_counter(), time.process_time()
        predict()
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    return {
        "wall": round(len(probabilities) / statistics.median(wall)),
        "cpu": round(len(probabilities) / statistics.median(cpu)),
        "auc": round(auc(split.label, probabilities), 4),
    }


def parser() -> argparse.ArgumentParser:
    """The options that all drivers have."""
    options = argparse.ArgumentParser()
    workloads.add_arguments(options)
    options.add_argument("--epochs", type=int, default=1)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options.add_argument("--score", action="store_true", help="measure scoring too")
    return options


def peer_parser() -> argparse.ArgumentParser:
    """The options that the peers' drivers have."""
    options = parser()
    options.add_argument(
        "--variant",
        choices=variants.VARIANTS,
        default=variants.SHIPPED,
        help="what the peer is given: nothing, a fused Adam and faster products, autocast too",
    )
    return options


def check_device(device: str, known: tuple[str, ...], engine: str) -> None:
    """Stops where an engine cannot run on a device.

    Raises:
        SystemExit: Its driver does not know the device, or torch finds none here.
    """
    if device not in known:
        raise SystemExit(f"{engine} is measured on {' and '.join(known)} only, not on {device}")
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"--device cuda: torch {torch.__version__} finds no CUDA device here")


def _reset_peak_memory(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # Linux only; elsewhere the peak is the whole process's
        Path("/proc/self/clear_refs").write_text("5")


def _peak_device_mb(device: str) -> int | None:
    """Peak of what torch allocated on a CUDA device, the data included if they lie there."""
    return round(torch.cuda.max_memory_allocated() / 2**20) if device == "cuda" else None


def _peak_memory_mb() -> float:
    """Peak resident memory of this process.

    ru_maxrss is only the fallback: Linux hands it on from the process that started this one.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
