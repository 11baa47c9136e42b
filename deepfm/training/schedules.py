"""Learning-rate schedules: the rate of an optimizer as a function of the steps taken.

Decided here: when a schedule moves (`step` after each batch, `end_epoch` after each epoch), that
its state is its counters, so that a resumed run goes on with the same rates, and that a base rate
of 0, which freezes what it is for, stays 0.

NOTE[DIFF]: TorchEasyRec does not save schedules, which begin anew in a resumed run.
"""

import itertools
import math
import warnings
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from deepfm.config import TrainingConfig
from deepfm.errors import ConfigError
from deepfm.training.optimizers import Assigned
from deepfm.utils.named import beyond_limits

Rate = Callable[[float, int], float]  # (base rate, steps taken) -> rate


class Schedule:
    """Sets the rates of an optimizer; this one leaves them as they are."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    def step(self) -> None:
        """Called after each batch, under gradient accumulation too."""

    def end_epoch(self, value: float | None) -> None:
        """Called after each epoch, with the validation metric; None where it does not exist."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; the optimizer's state holds the rate itself."""


class TorchSchedule(Schedule):
    """One of torch's schedules by epoch."""

    def __init__(self, optimizer: Optimizer, schedule: LRScheduler) -> None:
        super().__init__(optimizer)
        self.schedule = schedule

    def end_epoch(self, value: float | None) -> None:
        with warnings.catch_warnings():
            # A run resumed right after an epoch's last batch has made no optimizer step yet.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            if isinstance(self.schedule, ReduceLROnPlateau):
                assert value is not None  # it decides, so it has to exist
                self.schedule.step(value)
            else:
                self.schedule.step()

    def state_dict(self) -> dict[str, Any]:
        return self.schedule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.schedule.load_state_dict(state)


class Formula(Schedule):
    """A rate computed anew from the base rate and the number of batches, or epochs, so far.

    Args:
        rate: A pure function.
        by_epoch: What is counted.
    """

    def __init__(self, optimizer: Optimizer, rate: Rate, *, by_epoch: bool) -> None:
        super().__init__(optimizer)
        self.rate, self.by_epoch = rate, by_epoch
        self.taken = 0
        self.base = [group["lr"] for group in optimizer.param_groups]
        self._set()

    def _set(self) -> None:
        for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
            group["lr"] = self.rate(base, self.taken) if base else 0.0

    def _advance(self) -> None:
        self.taken += 1
        self._set()

    def step(self) -> None:
        if not self.by_epoch:
            self._advance()

    def end_epoch(self, value: float | None) -> None:
        if self.by_epoch:
            self._advance()

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.taken = state["taken"]
        self._set()


def build_schedules(
    assigned: Sequence[Assigned], config: TrainingConfig, *, maximize: bool
) -> list[Schedule]:
    """A schedule for each optimizer, which it sets to the rate of the first step.

    Args:
        config: Says how many epochs there are.
        maximize: Whether the watched metric grows as it improves.

    Raises:
        ConfigError: An option cannot be used.
    """
    return [_build(item, config, maximize) for item in assigned]


def _build(assigned: Assigned, config: TrainingConfig, maximize: bool) -> Schedule:
    schedule = assigned.scheduler
    for option, expected, found in beyond_limits(schedule):
        problem = f"{schedule.name}: expected a number {expected}, found {found:g}"
        raise ConfigError(problem, key=f"{assigned.scheduler_key}.{option}")
    try:
        return schedule.build(assigned.optimizer, epochs=config.epochs, maximize=maximize)
    except ValueError as error:
        raise ConfigError(f"{schedule.name}: {error}", key=assigned.scheduler_key) from None


def exponential(
    *,
    decay_size: int,
    decay_factor: float,
    staircase: bool,
    warmup_lr: float,
    warmup_size: int,
    min_lr: float,
) -> Rate:
    """base * decay_factor^(s / decay_size), at least `min_lr`; s counts from the warm-up's end.

    `staircase` rounds the exponent down.
    """
    _at_least_one("decay_size", decay_size)

    def rate(base: float, s: int) -> float:
        power = s / decay_size
        return max(base * decay_factor ** (math.floor(power) if staircase else power), min_lr)

    return _warmed_up(rate, warmup_lr, warmup_size)


def manual_step(*, sizes: tuple[float, ...], lrs: tuple[float, ...], warmup: bool) -> Rate:
    """The base rate for s up to sizes[0], then lrs[k] for s in sizes[k] + 1 … sizes[k + 1].

    With `warmup` the rate goes from the base one to lrs[0] on a line before that.
    """
    if not sizes or len(sizes) != len(lrs):
        raise ValueError(
            "expected one of lrs for each of sizes, and at least one, found "
            f"{len(sizes)} sizes and {len(lrs)} lrs"
        )
    if any(low >= high for low, high in itertools.pairwise(sizes)):
        raise ValueError(f"sizes: expected each above the one before, found {list(sizes)}")
    if warmup and not sizes[0]:
        raise ValueError("warmup: expected sizes[0] above 0, the steps that it takes, found 0")

    def rate(base: float, s: int) -> float:
        if place := bisect_left(sizes, s):
            return lrs[place - 1]
        return base + (lrs[0] - base) * s / sizes[0] if warmup else base

    return rate


def cosine_annealing(*, t_max: int, min_lr: float, warmup_lr: float, warmup_size: int) -> Rate:
    """From base down to `min_lr` along half a cosine of t_max steps; it stays there."""
    _at_least_one("t_max", t_max)
    return _warmed_up(
        lambda base, s: _cosine(base, min_lr, min(s, t_max) / t_max), warmup_lr, warmup_size
    )


def cosine_restarts(
    *, t_0: int, t_mult: int, min_lr: float, warmup_lr: float, warmup_size: int
) -> Rate:
    """`cosine_annealing` again and again, from base; cycle n has t_0 * t_mult^n steps.

    Source: I. Loshchilov and F. Hutter, "SGDR", ICLR 2017, arXiv:1608.03983, Eq. (5).
    """
    _at_least_one("t_0", t_0)
    _at_least_one("t_mult", t_mult)

    def rate(base: float, s: int) -> float:
        length = t_0
        if t_mult == 1:
            s %= length
        while s >= length:
            s, length = s - length, length * t_mult
        return _cosine(base, min_lr, s / length)

    return _warmed_up(rate, warmup_lr, warmup_size)


def _cosine(base: float, low: float, part: float) -> float:
    return low + (base - low) * 0.5 * (1 + math.cos(math.pi * part))


def _warmed_up(rate: Rate, start: float, size: int) -> Rate:
    """From `start` to the base rate on a line of `size` steps, then `rate` from its step 0 on."""

    def warmed_up(base: float, s: int) -> float:
        return start + (base - start) * s / size if s < size else rate(base, s - size)

    return warmed_up


def _at_least_one(option: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{option}: expected at least 1, found {value}")
