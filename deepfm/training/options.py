"""Optimizers and learning-rate schedules as a config names them; no torch until one is built.

One class each: its fields are the options with their defaults, `build` makes the thing itself.
Rates in options are numbers of at least 0; `lr: null` means `training.lr`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar

from deepfm.errors import ConfigError
from deepfm.utils.named import Named, by_name
from deepfm.utils.settings import limited

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from deepfm.models.layers.tables import Tables
    from deepfm.training.schedules import Rate, Schedule


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Named):
    """An optimizer of torch's, for any parameters.

    Attributes:
        lr: The rate; null: `training.lr`.
    """

    states: ClassVar[int] = 1  # numbers that it keeps per weight

    lr: float | None = None

    def build(self, parameters: "Iterable[Tensor]", lr: float, key: str) -> "Optimizer":
        """The optimizer of some parameters.

        Args:
            lr: Where `self.lr` is None.
            key: The setting, for messages.

        Raises:
            ConfigError: An option cannot be used.
        """
        import torch

        parameters = list(parameters)
        options = {item.name: getattr(self, item.name) for item in fields(self)}
        options["lr"] = lr if self.lr is None else self.lr
        try:
            rule: Callable[..., Optimizer] = getattr(torch.optim, type(self).__name__)
            return rule(parameters, fused=self._fused(parameters), **options)
        except ValueError as error:  # such as Nesterov's momentum of 0
            raise ConfigError(f"{self.name}: {error}", key=key) from None

    def _fused(self, parameters: "list[Tensor]") -> bool | None:
        """Whether one kernel updates all parameters; None: torch decides."""
        return True


@dataclass(frozen=True, kw_only=True)
class Adam(OptimizerConfig):
    """Adam (Kingma and Ba, 2015), with L2 in the gradient.

    Attributes:
        betas: Decay of the two moments.
        eps: Added to the root of the second one.
        weight_decay: L2 rate, added to the gradient.
        amsgrad: Whether the largest second moment so far is used.
    """

    name = "adam"
    states = 2

    betas: tuple[float, ...] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019).

    Attributes:
        weight_decay: Share of a weight that is taken off per step, times the rate.
    """

    name = "adamw"

    weight_decay: float = 0.01


@dataclass(frozen=True, kw_only=True)
class SGD(OptimizerConfig):
    """Gradient descent.

    Attributes:
        momentum: Decay of the sum of gradients; 0: the gradient itself.
        dampening: Share of a gradient that does not enter that sum.
        nesterov: Whether the momentum is Nesterov's.
        weight_decay: L2 rate, added to the gradient.
    """

    name = "sgd"

    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Adagrad(OptimizerConfig):
    """Adagrad (Duchi et al., 2011).

    Attributes:
        eps: Added to the root of the sum of squares.
        weight_decay: L2 rate, added to the gradient.
        initial_accumulator_value: Where the sums of squares begin.
    """

    name = "adagrad"

    eps: float = 1e-10
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0

    def _fused(self, parameters: "list[Tensor]") -> bool | None:
        return all(parameter.device.type == "cpu" for parameter in parameters) or None  # torch's is


OPTIMIZERS = by_name(Adam, AdamW, SGD, Adagrad)


@dataclass(frozen=True, kw_only=True)
class SparseOptimizerConfig(Named):
    """An optimizer of the embedding tables that updates the rows that a batch touches, no other.

    Attributes:
        lr: The rate; null: `training.lr`.
        max_gradient: Limits each number of a row's gradient to ± that; null: no limit.
    """

    states: ClassVar[int] = 0  # numbers that it keeps per weight

    lr: float | None = None
    max_gradient: float | None = None

    def build(self, tables: "Tables", lr: float) -> "Optimizer":
        """The optimizer of some tables, their own if they have one.

        Args:
            lr: Where `self.lr` is None.
        """
        from deepfm.models.layers.storage import PackedTables
        from deepfm.training import sparse_optimizers

        options = {item.name: getattr(self, item.name) for item in fields(self)}
        options["lr"] = lr if self.lr is None else self.lr
        if (own := tables.own_optimizer(self.name, options)) is not None:
            return own
        assert isinstance(tables, PackedTables)  # others bring what their capabilities name
        rule: Callable[..., Optimizer] = getattr(sparse_optimizers, type(self).__name__)
        return rule(tables, **options)


@dataclass(frozen=True, kw_only=True)
class LazyAdam(SparseOptimizerConfig):
    """Adam on touched rows; the others keep value and moments.

    Attributes:
        betas: Decay of the two moments.
        eps: Added to the root of the second one.
    """

    name = "lazy_adam"
    states = 2

    betas: tuple[float, ...] = (0.9, 0.999)
    eps: float = 1e-8


@dataclass(frozen=True, kw_only=True)
class LazySGD(SparseOptimizerConfig):
    """Gradient descent on touched rows, which is what dense SGD does."""

    name = "lazy_sgd"


@dataclass(frozen=True, kw_only=True)
class SparseAdagrad(SparseOptimizerConfig):
    """Adagrad on touched rows, which is what dense Adagrad does.

    Attributes:
        eps: Added to the root of the sum of squares.
        initial_accumulator_value: Where the sums of squares begin.
    """

    name = "adagrad"
    states = 1

    eps: float = 1e-10
    initial_accumulator_value: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RowwiseAdagrad(SparseOptimizerConfig):
    """Adagrad with one number per row, the mean of its squared gradient.

    Attributes:
        eps: Added to the root of the sum of squares.
    """

    name = "rowwise_adagrad"

    eps: float = 1e-10


SPARSE_OPTIMIZERS = by_name(LazyAdam, LazySGD, SparseAdagrad, RowwiseAdagrad)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(Named):
    """A learning-rate schedule; sizes count steps, or epochs with `by_epoch`."""

    reads_metric: ClassVar[bool] = False  # whether the watched metric decides its rates

    def build(self, optimizer: "Optimizer", *, epochs: int, maximize: bool) -> "Schedule":
        """The schedule of an optimizer, which it sets to the rate of the first step.

        Args:
            epochs: Of the training.
            maximize: Whether the watched metric grows as it improves.

        Raises:
            ValueError: An option cannot be used.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class NoSchedule(ScheduleConfig):
    """The rate stays as it is."""

    name = "none"

    def build(self, optimizer: "Optimizer", *, epochs: int, maximize: bool) -> "Schedule":
        from deepfm.training.schedules import Schedule

        return Schedule(optimizer)


@dataclass(frozen=True, kw_only=True)
class ReduceOnPlateau(ScheduleConfig):
    """The rate falls when the watched metric has stalled.

    Attributes:
        factor: What the rate is multiplied with.
        patience: Epochs without an improvement that pass before.
    """

    name = "reduce_on_plateau"
    reads_metric = True

    factor: float = limited(0.1, above=0, below=1)
    patience: int = limited(2, at_least=0)

    def build(self, optimizer: "Optimizer", *, epochs: int, maximize: bool) -> "Schedule":
        from torch.optim.lr_scheduler import ReduceLROnPlateau

        from deepfm.training.schedules import TorchSchedule

        plateau = ReduceLROnPlateau(
            optimizer,
            mode="max" if maximize else "min",
            factor=self.factor,
            patience=self.patience,
        )
        return TorchSchedule(optimizer, plateau)


@dataclass(frozen=True, kw_only=True)
class FormulaConfig(ScheduleConfig):
    """A rate that is computed from the base rate and the number of steps, or epochs, so far.

    Attributes:
        by_epoch: Whether sizes count epochs, not steps.
    """

    by_epoch: bool = False

    def rate(self) -> "Rate":
        """The rate as a function of the base rate and the count."""
        raise NotImplementedError

    def build(self, optimizer: "Optimizer", *, epochs: int, maximize: bool) -> "Schedule":
        from deepfm.training.schedules import Formula

        return Formula(optimizer, self.rate(), by_epoch=self.by_epoch)


@dataclass(frozen=True, kw_only=True)
class Exponential(FormulaConfig):
    """The rate falls by a factor every few steps.

    Attributes:
        decay_size: How many.
        decay_factor: That factor.
        staircase: Whether it falls at once, not bit by bit.
        warmup_lr: Where a warm-up begins, a line up to the base rate.
        warmup_size: How long that takes; 0: there is none.
        min_lr: The rate does not fall below this.
    """

    name = "exponential"

    decay_size: int = 1
    decay_factor: float = 0.95
    staircase: bool = True
    warmup_lr: float = 0.0
    warmup_size: int = 0
    min_lr: float = 0.0

    def rate(self) -> "Rate":
        from deepfm.training.schedules import exponential

        return exponential(
            decay_size=self.decay_size,
            decay_factor=self.decay_factor,
            staircase=self.staircase,
            warmup_lr=self.warmup_lr,
            warmup_size=self.warmup_size,
            min_lr=self.min_lr,
        )


@dataclass(frozen=True, kw_only=True)
class ManualStep(FormulaConfig):
    """The rate is `lrs[k]` after `sizes[k]`.

    Attributes:
        sizes: Rising counts.
        lrs: A rate for each.
        warmup: Whether the rate goes to the first of them on a line.
    """

    name = "manual_step"

    sizes: tuple[float, ...] = ()
    lrs: tuple[float, ...] = ()
    warmup: bool = False

    def rate(self) -> "Rate":
        from deepfm.training.schedules import manual_step

        return manual_step(sizes=self.sizes, lrs=self.lrs, warmup=self.warmup)


@dataclass(frozen=True, kw_only=True)
class Cosine(ScheduleConfig):
    """The rate falls along half a cosine.

    By epochs and without a warm-up it is torch's `CosineAnnealingLR`, which rises again after
    `t_max`; otherwise, or with `at_end: stay`, it stays at `min_lr`.

    Attributes:
        t_max: Length of the fall; null: all epochs of the training.
        min_lr: Where it ends.
        warmup_lr: Where a warm-up begins, a line up to the base rate.
        warmup_size: How long that takes; 0: there is none.
        by_epoch: Whether sizes count epochs, not steps.
        at_end: Whether it rises again after `t_max` (`rise`), or stays at `min_lr` (`stay`);
            `auto`: it rises where it may.
    """

    name = "cosine"

    t_max: int | None = None
    min_lr: float = 0.0
    warmup_lr: float = 0.0
    warmup_size: int = 0
    by_epoch: bool = True
    at_end: str = "auto"

    def build(self, optimizer: "Optimizer", *, epochs: int, maximize: bool) -> "Schedule":
        from torch.optim.lr_scheduler import CosineAnnealingLR

        from deepfm.training.schedules import Formula, TorchSchedule, cosine_annealing

        may_rise = self.by_epoch and not self.warmup_size
        if self.at_end not in ("auto", "rise", "stay"):
            raise ValueError(f"at_end: expected auto, rise or stay, found {self.at_end!r}")
        if self.t_max is None and not self.by_epoch:
            raise ValueError("t_max: a value is needed with by_epoch: false")
        t_max = epochs if self.t_max is None else self.t_max
        if t_max < 1:
            raise ValueError(f"t_max: expected at least 1, found {t_max}")
        if self.at_end == "rise" and not may_rise:
            raise ValueError("at_end: rise needs by_epoch: true and no warm-up")
        if may_rise and self.at_end != "stay":
            return TorchSchedule(
                optimizer, CosineAnnealingLR(optimizer, T_max=t_max, eta_min=self.min_lr)
            )
        rate = cosine_annealing(
            t_max=t_max,
            min_lr=self.min_lr,
            warmup_lr=self.warmup_lr,
            warmup_size=self.warmup_size,
        )
        return Formula(optimizer, rate, by_epoch=self.by_epoch)


@dataclass(frozen=True, kw_only=True)
class CosineAnnealing(ScheduleConfig):
    """`cosine` by steps under an older name."""

    name = "cosine_annealing"
    is_old = True

    t_max: int = 0
    min_lr: float = 0.0
    warmup_lr: float = 0.0
    warmup_size: int = 0
    by_epoch: bool = False

    # An older name is never of the type that it stands for.
    def current(self, key: str) -> ScheduleConfig:  # type: ignore[override]
        if self.t_max < 1:
            raise ConfigError(
                f"cosine_annealing: t_max: expected at least 1, found {self.t_max}", key=key
            )
        options = {item.name: getattr(self, item.name) for item in fields(self)}
        return Cosine(**options, at_end="stay")


@dataclass(frozen=True, kw_only=True)
class CosineRestarts(FormulaConfig):
    """Half a cosine again and again (Loshchilov and Hutter, 2017).

    Attributes:
        t_0: Length of the first fall.
        t_mult: How many times as long each is as the one before.
        min_lr: Where each ends.
        warmup_lr: Where a warm-up begins, a line up to the base rate.
        warmup_size: How long that takes; 0: there is none.
    """

    name = "cosine_restarts"

    t_0: int = 0
    t_mult: int = 1
    min_lr: float = 0.0
    warmup_lr: float = 0.0
    warmup_size: int = 0

    def rate(self) -> "Rate":
        from deepfm.training.schedules import cosine_restarts

        return cosine_restarts(
            t_0=self.t_0,
            t_mult=self.t_mult,
            min_lr=self.min_lr,
            warmup_lr=self.warmup_lr,
            warmup_size=self.warmup_size,
        )


SCHEDULERS = by_name(
    NoSchedule, ReduceOnPlateau, Cosine, Exponential, ManualStep, CosineRestarts, CosineAnnealing
)
