"""The training loop: epochs, evaluations, early stopping, what is kept, exact resume.

All randomness of a step is a function of (seed, epoch, step), so a `TrainingState` needs weights,
optimizer state and counters only, and a run that was killed ends bit by bit where an
uninterrupted one does (on the CPU, at a fixed number of threads). A state is taken only where the
optimizers have just made their step, so it holds no gradients.

Where steps are counted, a step is a batch. With gradient accumulation the optimizers make their
step after every k-th batch; a checkpoint, an evaluation or a stop that is due before waits for it.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from deepfm.config import EvaluationConfig, TrainingConfig
from deepfm.data.batch import Batch
from deepfm.data.dataset import TabularDataset
from deepfm.errors import CheckpointError, ConfigError, DeepFMError, DivergenceError
from deepfm.evaluation.scoring import check_metric, evaluate_metric, reported_as
from deepfm.models.base import BaseCTRModel
from deepfm.models.layers.batch_norm import sharing_batch_norm
from deepfm.models.precision import resolve_precision
from deepfm.objectives import is_larger_better
from deepfm.training.optimizer_state import (
    Plain,
    carry_statistics,
    load_optimizer_state,
    optimizer_state,
)
from deepfm.training.optimizers import (
    assign_optimizers,
    dense_update_dominates,
    refuse_whole_tables,
)
from deepfm.training.schedules import build_schedules
from deepfm.training.steps import TrainingStep, check_batch_norm
from deepfm.training.threads import running_on, threads_for
from deepfm.training.train_metrics import TrainMetrics
from deepfm.training.transfer import batches_on, on_host
from deepfm.utils.interrupt import Interrupted
from deepfm.utils.logging import LOGGER
from deepfm.utils.progress import ProgressBar, clock, working
from deepfm.utils.seeding import derive_seed
from deepfm.utils.workers import ALONE, Workers

_FEW_STEPS, _ENOUGH_STEPS = 10, 50  # of an epoch
SHARES_BATCH_NORM = ("cuda",)  # devices on which processes have its statistics together


class TrainingEpoch(Protocol):
    """What an epoch is asked for, such as `deepfm.data.dataset.Epoch`."""

    @property
    def num_rows(self) -> int:
        """In all batches."""

    def __len__(self) -> int:
        """How many batches it has."""

    def batches(
        self, first: int = 0, part: Callable[[int], slice] | None = None
    ) -> Iterator[Batch]:
        """The batches from number `first` on; with `part` only these rows of each."""


class TrainingRows(Protocol):
    """What a training split is asked for, such as `deepfm.data.dataset.TabularDataset`."""

    def epoch(
        self, batch_size: int, *, seed: int, epoch: int, shuffle: bool, drop_last: bool
    ) -> TrainingEpoch:
        """All rows in the order of one training epoch."""


@dataclass(repr=False)
class TrainingState:
    """Everything that a run needs to go on, as tensors and plain data.

    Attributes:
        epoch, step: The next epoch and the number of its steps that are done, both from 0.
        total_steps: Steps done in all epochs.
        losses: Loss of each of the epoch's steps.
        rates: Of each optimizer, in the last step.
        best_value: Best validation metric so far, of epoch `best_epoch`, after `best_step` steps in
            all; None before the first.
        stale_epochs: Epochs since then.
        evaluations: Of the epoch so far, between its steps.
        history: One entry per finished epoch.
        model, best_model: Current weights, and those that are kept: of the best evaluation, or of
            the last epoch.
        ema: Moving averages of the current weights, where there are any.
        optimizers, schedulers: Their states.
        metrics: States of the metrics of training batches.
        seconds: Time spent on the finished steps of the current epoch.
    """

    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    best_value: float | None = None
    best_epoch: int = 0
    best_step: int = 0
    stale_epochs: int = 0
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    model: dict[str, Tensor] = field(default_factory=dict)
    best_model: dict[str, Tensor] = field(default_factory=dict)
    ema: dict[str, Tensor] = field(default_factory=dict)
    optimizers: list[dict[str, Any]] = field(default_factory=list)
    schedulers: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0

    def __repr__(self) -> str:
        """Counters and sizes; of what each tensor holds nothing."""
        best = "none yet"
        if self.best_value is not None:
            best = f"{self.best_value:.6g} in epoch {self.best_epoch}"
        weights = sum(tensor.numel() for tensor in self.model.values())
        return (
            f"TrainingState(epoch={self.epoch}, step={self.step}, total_steps={self.total_steps}, "
            f"best: {best}, {len(self.history)} epochs of history, {weights:,} weights)"
        )


class Trainer:
    """Fits a model to a training split and keeps its best weights, or its last.

    Args:
        config: The `training` section.
        evaluation: The `evaluation` section: how much of the validation split is scored in the
            course of training, and in which batches.
        seed: Of row order, negatives and dropout.
        device: Where the model is trained; the data stays where it is.
        workers: Who trains the model together, each with the same arguments but for `save`, `log`
            and `record`, and a part of each batch.

    Example:
        >>> state = Trainer(config.training).fit(model, train, valid)  # doctest: +SKIP
        >>> state.history[-1]["auc"]  # doctest: +SKIP
    """

    def __init__(
        self,
        config: TrainingConfig,
        evaluation: EvaluationConfig | None = None,
        *,
        seed: int = 42,
        device: torch.device | str = "cpu",
        workers: Workers = ALONE,
    ) -> None:
        self.config = config
        self.evaluation = evaluation or EvaluationConfig()
        self.seed = seed
        self.device = torch.device(device)
        self.workers = workers

    def fit(
        self,
        model: BaseCTRModel,
        train: TrainingRows,
        valid: TabularDataset,
        *,
        state: TrainingState | None = None,
        statistics: Sequence[Plain] = (),
        save: Callable[[TrainingState, bool], None] = lambda state, is_best: None,
        should_stop: Callable[[], int] = lambda: 0,
        log: Callable[[str], None] = lambda line: None,
        record: Callable[[int, dict[str, float]], None] = lambda step, figures: None,
    ) -> TrainingState:
        """Train until the metric stalls, or epochs or steps end; return the last state.

        The model gets the weights that are kept.

        Args:
            model: Trained in place.
            train, valid: Encoded splits; negatives are drawn where `train` says so. What the model
                is trained to predict is said by its `tasks`.
            state: Where an earlier call stopped.
            statistics: What optimizers of an earlier run have gathered, as its state has them, with
                which those of this one begin; none: they begin anew.
            save: Called with the state at each epoch's end, every `checkpoint_every_steps` steps,
                on interruption, and when an evaluation within an epoch was the best; `is_best`
                tells that `best_model` has just changed.
            should_stop: Asked after each step and epoch; any number but 0 saves the state, once
                the optimizers have made their step, and raises `Interrupted` with it.
            log: Receives one line per epoch, per evaluation within one, and every
                `log_every_steps` steps.
            record: Receives the figures of each of these lines, `train/loss` and `valid/auc` as
                examples, with the steps so far; of an evaluation also `epoch`, the epochs so far,
                which need not be whole. What it raises ends the training.

        Raises:
            ConfigError: The metric cannot be computed on `valid`, a setting does not fit the
                model, or there is no batch to train on.
            CheckpointError: `statistics` are those of other optimizers.
            DataError: A label is none that the losses have a meaning for.
            DivergenceError: The loss or a weight is not finite; nothing is saved after that.
            Interrupted: `should_stop` said so.
        """
        _keep_freed_memory()
        model.to(self.device)
        threads = self.config.threads or threads_for(model, valid.inputs, self.config.batch_size)
        run = _Fit(self, model, train, valid, state or TrainingState())
        run.carry(statistics)
        run.save, run.should_stop, run.log, run.record = save, should_stop, log, record
        devices = [self.device] if self.device.type == "cuda" else []
        with (
            running_on(threads),
            torch.random.fork_rng(devices),  # the caller's generators are left as they were
            run.step.gradient_mode(),
            self._batch_norm_of(model),
        ):
            run.epochs()
        return run.state

    def _batch_norm_of(self, model: BaseCTRModel) -> AbstractContextManager[None]:
        """While it lasts, batch norm counts the rows of all processes, where it does."""
        if self.workers.is_alone or self.device.type not in SHARES_BATCH_NORM:
            return nullcontext()

        def gather(own: Tensor) -> Tensor:  # a function, which copies of a layer need not copy
            return self.workers.gathered(own)

        return sharing_batch_norm(model, gather)


class _Fit:
    """One call of `Trainer.fit`: what it works on, and its parts."""

    save: Callable[[TrainingState, bool], None]
    should_stop: Callable[[], int]
    log: Callable[[str], None]
    record: Callable[[int, dict[str, float]], None]

    def __init__(
        self,
        trainer: Trainer,
        model: BaseCTRModel,
        train: TrainingRows,
        valid: TabularDataset,
        state: TrainingState,
    ) -> None:
        self.trainer, self.config = trainer, trainer.config
        self.device, self.workers = trainer.device, trainer.workers
        self.model, self.train, self.valid = model, train, valid
        for rows in (train, valid):
            if isinstance(rows, TabularDataset):  # others have labels that they alone know
                model.check_labels(rows.label, rows.row)
        if isinstance(train, TabularDataset):
            for task in model.tasks:
                task.check_weights(train.label, train.weight, train.schema)
        self.state = state
        evaluation = trainer.evaluation
        self.max_rows = None
        if evaluation.max_batches is not None:
            self.max_rows = evaluation.max_batches * evaluation.batch_size
        self.decides = self._metric_decides()
        if self.decides:
            check_metric(model, valid, self.config.metric, max_rows=self.max_rows)
        self.maximize = is_larger_better(self.config.metric)
        assigned = assign_optimizers(model, self.config)
        schedules = build_schedules(assigned, self.config, maximize=self.maximize)
        self.roles = [item.role for item in assigned]
        precision = resolve_precision(
            self.config.precision, trainer.device, key="training.precision"
        )
        if not self.workers.is_alone:
            refuse_whole_tables(model, assigned)
        self.step = TrainingStep(
            model, self.config, assigned, schedules, precision=precision, workers=self.workers
        )
        if self.config.sparse_optimizer is None and dense_update_dominates(
            model, self.config.batch_size
        ):
            LOGGER.warning(
                "every step updates every row of the embedding tables, which takes longer than "
                "all else; training.sparse_optimizer: lazy_adam updates only the rows that a "
                "batch touches, which is a different optimizer"
            )
        self.metrics = TrainMetrics(model.tasks, model.schema)
        self._evaluation_seconds = 0.0  # of the last evaluation
        self._pending: list[Tensor] = []  # losses still on the device
        self._copied: tuple[int, dict[str, Tensor]] = (-1, {})  # weights, and the steps before them
        self._recent: list[dict[str, Tensor]] = []  # of the steps since the last line about them
        if state.model:
            self._restore(state)

    def _restore(self, state: TrainingState) -> None:
        step = self.step
        best, tables = state.best_model, self.model.embedding.tables
        is_read = all(isinstance(weight, Tensor) for weight in best.values())
        if best and (tables.capabilities.only_own_optimizers or not is_read):
            self.model.load_state_dict(best)  # of whole tables or slices, what this process holds
            best = self.model.state_dict()
        state.best_model = _cloned(best)  # of a finished run: the model's own
        self.model.load_state_dict(state.model)
        for optimizer, saved in zip(step.optimizers, state.optimizers, strict=True):
            load_optimizer_state(optimizer, self.model, saved)
        # A state of an earlier release has no entry for a schedule that does nothing, and no rates.
        state.rates = state.rates or step.rates()
        saved_schedules = state.schedulers or [{}] * len(step.schedules)
        for schedule, saved in zip(step.schedules, saved_schedules, strict=True):
            schedule.load_state_dict(saved)
        if step.average is not None:
            step.average.load_state_dict(state.ema)
        self.metrics.load_state_dict(state.metrics)

    def carry(self, statistics: Sequence[Plain]) -> None:
        """Begin with what other optimizers have gathered."""
        if not statistics:
            return
        if len(statistics) != len(self.step.optimizers):
            raise CheckpointError(
                f"the statistics are those of {len(statistics)} optimizers, and the run has "
                f"{len(self.step.optimizers)}"
            )
        for optimizer, saved in zip(self.step.optimizers, statistics, strict=True):
            carry_statistics(optimizer, self.model, saved)

    def checkpoint(self, is_best: bool) -> None:
        """Bring the state up to date and save it."""
        state, step = self.state, self.step
        self.step.unite_statistics()
        # A sum, because isfinite of all numbers would need as much memory as they do.
        sums = {name: weight.sum() for name, weight in self.model.state_dict().items()}
        finite = torch.stack([value.isfinite() for value in sums.values()]).all()
        if self.workers.agree(int(not finite)):
            _refuse_divergence("weights became NaN or infinite", state.epoch, state.step)
        if not self.workers.is_alone:
            self._refuse_other_weights(sums)
        state.model = self._weights(own=True)
        if step.average is not None:
            state.ema = on_host(step.average.state_dict())
        state.optimizers = on_host([optimizer_state(item, self.model) for item in step.optimizers])
        state.schedulers = [schedule.state_dict() for schedule in step.schedules]
        state.metrics = self.metrics.state_dict()
        self.save(state, is_best)

    def _refuse_other_weights(self, sums: Mapping[str, Tensor]) -> None:
        """Refuse to go on where the processes have come to have different weights.

        Args:
            sums: Of each weight by name; those of tables that processes share out differ.
        """
        if self.model.embedding.tables.capabilities.only_own_optimizers:
            sums = {n: value for n, value in sums.items() if not n.startswith("embedding.tables.")}
        self.workers.refuse_unless_equal(
            str([value.item() for value in sums.values()]),
            lambda: DeepFMError(
                f"the processes have different weights after {self.state.total_steps:,} steps; is "
                "each of them the same release on the same kind of machine?"
            ),
        )

    def _weights(self, *, own: bool) -> dict[str, Tensor]:
        """The weights as they are now, on the host, where a device's are copied once per step.

        Args:
            own: On the CPU, those of the model, which change with it.
        """
        weights = self.model.state_dict()
        if self.device.type == "cpu":
            return weights if own else _cloned(weights)
        if self.step.average is not None:  # two kinds of weights in a step
            return _on_host(weights)
        if self._copied[0] != self.state.total_steps:
            self._copied = self.state.total_steps, _on_host(weights)
        return self._copied[1]

    def epochs(self) -> None:
        """Train until there is a reason to stop, and give the model the weights that are kept."""
        state, config = self.state, self.config
        while state.epoch < config.epochs and not self._is_over():
            epoch = self.train.epoch(
                config.batch_size,
                seed=self.trainer.seed,
                epoch=state.epoch,
                shuffle=config.shuffle,
                drop_last=config.drop_last,
            )
            if not len(epoch):
                raise ConfigError(
                    f"the training split has fewer than batch_size {config.batch_size} rows, so no "
                    "batch is left",
                    key="training.drop_last",
                )
            check_batch_norm(self.model, self._fewest_rows(epoch))
            if not state.total_steps:
                _warn_of_few_steps(len(epoch), epoch.num_rows, config.batch_size)
            self._run_epoch(epoch)
            self.checkpoint(self._finish_epoch(epoch))
            if stop := self._should_stop():
                raise Interrupted(stop)
        is_current = state.best_epoch == state.epoch and state.best_step == state.total_steps
        if self.step.average is not None or (config.keep == "best" and not is_current):
            self.model.load_state_dict(state.best_model)

    def _fewest_rows(self, epoch: TrainingEpoch) -> int:
        """What a process has of a batch, at least."""
        rows, size = epoch.num_rows, self.config.batch_size
        if self.workers.is_alone or rows <= size:
            fewest = min(size, rows)
        else:  # a last row alone joins the batch before
            fewest = rows % size if rows % size > 1 else size
        return min(self.workers.counts(fewest))

    def _is_over(self) -> bool:
        """Whether no further epoch begins."""
        state, patience = self.state, self.config.early_stopping_patience
        if patience is not None and state.stale_epochs >= patience:
            return True
        return self._steps_left() == 0 and not state.step  # an epoch that has begun is finished

    def _steps_left(self) -> float:
        limit = self.config.max_steps
        return math.inf if limit is None else max(limit - self.state.total_steps, 0)

    def _should_stop(self) -> int:
        """Whether any process is to stop."""
        return self.workers.agree(self.should_stop())

    def _run_epoch(self, epoch: TrainingEpoch) -> None:
        """The steps of one epoch, from `state.step` on, as far as `max_steps` allows."""
        state, config = self.state, self.config
        end = int(min(len(epoch), state.step + self._steps_left()))
        before, start = state.seconds, time.perf_counter()
        title = f"training, epoch {state.epoch + 1}/{config.epochs}"
        stop, last = 0, (state.step, state.total_steps)  # at the last update
        self.model.train()
        if self.workers.is_alone:
            left = epoch.batches(first=state.step)
        else:
            left = epoch.batches(first=state.step, part=self.workers.part)
        rows = itertools.islice(left, end - state.step)
        with (
            ProgressBar(title, total=end, done=state.step) as bar,
            closing(batches_on(self.device, rows, self.step.prepared)) as batches,
        ):
            for batch in batches:
                updated = (state.step + 1) % self.step.every == 0 or state.step + 1 == end
                self._step(batch, updated=updated)
                state.seconds = before + time.perf_counter() - start
                stop = stop or self._should_stop()
                is_best = save_now = False
                if updated:
                    if state.step < end and _passed(
                        config.evaluate_every_steps, last[1], state.total_steps
                    ):
                        self._collect()
                        is_best = self._evaluate_within(state.epoch + state.step / len(epoch))
                        start = time.perf_counter() - (state.seconds - before)
                    is_due = _passed(config.checkpoint_every_steps, last[0], state.step)
                    save_now = bool(stop or is_best or is_due)
                    last = state.step, state.total_steps
                if save_now or bar.due() or state.step == end:
                    bar.show(state.step, self._progress(epoch))
                if save_now:
                    self.checkpoint(is_best)
                if stop and updated:
                    raise Interrupted(stop)

    def _progress(self, epoch: TrainingEpoch) -> str:
        """How training goes, for the bar; the time left is that without an early stop."""
        state, config = self.state, self.config
        speed = epoch.num_rows * state.step / len(epoch) / state.seconds
        epochs = config.epochs - state.epoch
        steps = min(epochs * len(epoch) - state.step, self._steps_left())
        left = steps * state.seconds / state.step + epochs * self._evaluation_seconds
        text = f"train loss {self._collect():.4f}, {speed:,.0f} rows/s, {clock(left)} left"
        if state.best_value is None:
            return text
        return f"{text}, best valid {config.metric} {state.best_value:.4f}"

    def _step(self, batch: Batch, *, updated: bool) -> None:
        """The gradient of a batch, and the update if it is due."""
        state, step = self.state, self.step
        self._seed_dropout()
        logits, losses, whole = step.add(batch, is_last=updated)
        self._pending.append(losses["loss"])
        self.metrics.update(logits, whole)
        if updated:
            step.update()
        state.step, state.total_steps = state.step + 1, state.total_steps + 1
        state.rates = step.rates()
        if every := self.config.log_every_steps:
            self._recent.append(losses)
            if state.total_steps % every == 0:
                self.log(self._step_line())
        step.advance_schedules()

    def _seed_dropout(self) -> None:
        own = () if self.workers.is_first else (self.workers.rank,)
        seed = derive_seed(self.trainer.seed, "dropout", self.state.epoch, self.state.step, *own)
        if self.device.type == "mps":
            torch.manual_seed(seed)
            return
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(seed)

    def _collect(self) -> float:
        """Take the losses so far into the state, and give the last."""
        state = self.state
        if self._pending:
            for loss in torch.stack(self._pending).tolist():
                state.losses.append(loss)
                if not math.isfinite(loss):
                    _refuse_divergence(f"loss became {loss}", state.epoch, len(state.losses))
            self._pending.clear()
        return state.losses[-1]

    def _step_line(self) -> str:
        """Mean losses of the steps since the last such line, metrics of batches, and the rates."""
        names = list(self._recent[0])
        rows = torch.stack([torch.stack(list(losses.values())) for losses in self._recent])
        means = dict(zip(names, rows.mean(0).tolist(), strict=True))
        self._recent.clear()
        self._record({f"train/{name}": value for name, value in means.items()})
        line = f"step {self.state.total_steps:,}  train loss {means.pop('loss'):.4f}"
        if means:
            line += f" ({', '.join(f'{name} {value:.4f}' for name, value in means.items())})"
        return f"{line}{self._train_metrics()}  lr {self._rates()}"

    def _metric_decides(self) -> bool:
        """Whether anything depends on the watched metric, so that it has to exist."""
        config = self.config
        parts = [part.scheduler for part in config.part_optimizers]
        schedulers = [config.scheduler, config.sparse_scheduler, *parts]
        return (
            config.keep == "best"
            or config.early_stopping_patience is not None
            or any(item is not None and item.reads_metric for item in schedulers)
        )

    def _record(self, figures: Mapping[str, float | None]) -> None:
        """Hand on figures that exist, with the rate and the metrics of training batches."""
        training = {f"train/{name}": value for name, value in self.metrics.values().items()}
        every = {**figures, "train/lr": self.state.rates[0], **training}
        known = {name: value for name, value in every.items() if value is not None}
        self.record(self.state.total_steps, known)

    def _train_metrics(self) -> str:
        shown = self.metrics.values().items()
        return "".join(f"  train {name} {value:.4f}" for name, value in shown)

    def _rates(self) -> str:
        """The rates of the last step, for people: one number if all are equal."""
        first, *others = self.state.rates
        if all(rate == first for rate in others):
            return f"{first:.3g}"
        named = zip(self.roles, self.state.rates, strict=True)
        return ", ".join(f"{rate:.3g} ({role})" for role, rate in named)

    def _evaluate(self, *, is_end: bool) -> tuple[dict[str, float | None], bool]:
        """Validation metrics of the weights as they would be kept, and whether they are the best.

        Args:
            is_end: Of an epoch.
        """
        state, config = self.state, self.config
        average = self.step.average
        start = time.perf_counter()
        self.step.unite_statistics()
        with (
            working(f"evaluating on valid, epoch {state.epoch + 1}/{config.epochs}"),
            nullcontext() if average is None else average.in_place(),
        ):
            metrics = evaluate_metric(
                self.model,
                self.valid,
                config.metric,
                batch_size=self.trainer.evaluation.batch_size,
                max_rows=self.max_rows,
                may_be_none=not self.decides,
                workers=self.workers,
            )
            value, best = metrics[reported_as(config.metric, metrics)], state.best_value
            is_best = value is not None and (
                best is None or (value > best if self.maximize else value < best)
            )
            if is_best:
                state.best_value = value
                state.best_epoch, state.best_step = state.epoch + 1, state.total_steps
            is_kept = is_best if config.keep == "best" else is_end
            if is_kept:
                # Weights that change no more are not copied: at 10 million rows that is 0.7 GB.
                is_final = state.epoch + 1 == config.epochs or self._steps_left() == 0
                shared = config.keep == "last" or (is_end and is_final)
                state.best_model = self._weights(own=shared)
        self._evaluation_seconds = time.perf_counter() - start
        return metrics, is_best

    def _evaluate_within(self, epochs: float) -> bool:
        """An evaluation between two steps; True if the weights that are kept have changed.

        Args:
            epochs: So far.
        """
        state = self.state
        metrics, is_best = self._evaluate(is_end=False)
        metric = reported_as(self.config.metric, metrics)
        self.model.train()
        state.evaluations.append({"step": state.total_steps} | metrics)
        self.log(
            f"step {state.total_steps:,}  valid {metric} {_shown(metrics[metric])}"
            f"{' (best)' if is_best else ''}  {self._evaluated_rows()}"
        )
        self._record({"epoch": epochs, **_of_valid(metrics)})
        return is_best and self.config.keep == "best"

    def _evaluated_rows(self) -> str:
        rows = len(self.valid)
        if self.max_rows is None or self.max_rows >= rows:
            return f"in-training, all {rows:,} rows"
        return f"in-training, first {self.max_rows:,} rows"

    def _finish_epoch(self, epoch: TrainingEpoch) -> bool:
        """Evaluate, record, and move on; True if the weights that are kept have changed."""
        state, config = self.state, self.config
        metrics, is_best = self._evaluate(is_end=True)
        metric = reported_as(config.metric, metrics)
        value = metrics[metric]
        for schedule in self.step.schedules:
            schedule.end_epoch(value)
        entry: dict[str, Any] = {
            "epoch": state.epoch + 1,
            "train_loss": math.fsum(state.losses) / len(state.losses),
            "lr": state.rates[0],
            **self._sparse_rate(),
            **metrics,
            **{f"train_{name}": value for name, value in self.metrics.values().items()},
            "seconds": round(state.seconds, 3),
        }
        if config.evaluate_every_steps is not None:
            entry["evaluations"] = state.evaluations
        state.history.append(entry)
        of_best = " (best)" if is_best else ""
        limited = "" if self.max_rows is None else f"  {self._evaluated_rows()}"
        rows = epoch.num_rows * state.step / len(epoch)
        self.log(
            f"epoch {entry['epoch']}/{config.epochs}  train loss {entry['train_loss']:.4f}"
            f"{self._train_metrics()}  valid {metric} {_shown(value)}{of_best}{limited}  "
            f"lr {self._rates()}  {entry['seconds']:.1f} s, {rows / state.seconds:,.0f} rows/s"
        )
        self._record(
            {
                "epoch": state.epoch + 1,
                "train/loss": entry["train_loss"],
                "train/rows_per_second": rows / state.seconds,
                **_of_valid(metrics),
            }
        )
        state.epoch, state.step, state.seconds = state.epoch + 1, 0, 0.0
        state.losses, state.evaluations = [], []
        state.stale_epochs = 0 if state.best_epoch == state.epoch else state.stale_epochs + 1
        return is_best or config.keep == "last"

    def _sparse_rate(self) -> dict[str, float]:
        """The rate of the tables, where it is set apart from that of the rest."""
        config = self.config
        own = config.sparse_scheduler or (config.sparse_optimizer and config.sparse_optimizer.lr)
        if own is None or "tables" not in self.roles:
            return {}
        return {"sparse_lr": self.state.rates[self.roles.index("tables")]}


def _warn_of_few_steps(steps: int, rows: int, batch_size: int) -> None:
    """Say so where an epoch moves the weights a few times only."""
    if steps < _FEW_STEPS:
        smaller = max(8, 2 ** int(math.log2(max(rows / _ENOUGH_STEPS, 1))))
        advice = "there are few rows to learn from"
        if smaller < batch_size:
            advice = f"training.batch_size: {smaller} makes {-(-rows // smaller):,}"
        LOGGER.warning(
            f"an epoch has {steps} step{'s' * (steps > 1)}: {rows:,} rows in batches of "
            f"{batch_size:,}; {advice}"
        )


def _shown(value: float | None) -> str:
    """A metric for people; it may not exist, as where all labels are equal."""
    return "-" if value is None else f"{value:.4f}"


def _of_valid(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    return {f"valid/{name}": value for name, value in metrics.items()}


def _passed(every: int | None, before: int, now: int) -> bool:
    """Whether a multiple of `every` lies in before + 1 … now."""
    return every is not None and now // every > before // every


def _keep_freed_memory() -> None:
    """Let glibc's allocator reuse the megabytes that each step frees, instead of unmapping them.

    Else every step maps its activations anew, and the page faults cost a tenth of it on small
    models. The allocator learns from the largest block freed so far, up to 32 MiB, what to keep
    (`man mallopt`, M_MMAP_THRESHOLD): so free one of nearly that size. No page of it is touched.
    Other allocators are not impressed.
    """
    torch.empty(2**25 - 2**13, dtype=torch.uint8)


def _refuse_divergence(what: str, epoch: int, step: int) -> NoReturn:
    raise DivergenceError(
        f"the {what} in epoch {epoch + 1}, step {step}; lower training.lr or set "
        "training.gradient_clip_norm"
    )


def _cloned(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


def _on_host(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    copied: dict[str, Tensor] = on_host(dict(weights))
    return copied
