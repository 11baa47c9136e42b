"""The training loop: epochs, early stopping on a validation metric, exact resume.

All randomness of a step is a function of (seed, epoch, step), so a `TrainingState` needs weights,
optimizer state and counters only, and a run that was killed ends bit by bit where an
uninterrupted one does (on the CPU, at a fixed number of threads).
"""

import math
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor

from deepfm.config import TrainingConfig
from deepfm.data.dataset import TabularDataset
from deepfm.errors import DeepFMError
from deepfm.evaluation.metrics import is_larger_better
from deepfm.evaluation.scoring import check_metric, evaluate_metric
from deepfm.models.base import BaseCTRModel
from deepfm.training.losses import batch_losses
from deepfm.training.optimizers import (
    SparseOptimizer,
    build_optimizers,
    build_schedulers,
    dense_update_dominates,
    load_optimizer_state,
    optimizer_state,
)
from deepfm.utils.logging import LOGGER, ProgressBar
from deepfm.utils.seeding import derive_seed


class Interrupted(Exception):
    """Training stopped on request, after its state was saved; `reason` is the signal's number."""

    def __init__(self, reason: int) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class TrainingState:
    """Everything that a run needs to go on, as tensors and plain data.

    Attributes:
        epoch, step: The next epoch and the number of its steps that are done, both from 0.
        losses: Loss of each of those steps.
        best_value: Best validation metric so far, of epoch `best_epoch`; None before the first.
        stale_epochs: Epochs since then.
        history: One entry per finished epoch.
        model, best_model: Current and best weights.
        optimizers, schedulers: Their states.
        seconds: Time spent on the finished steps of the current epoch.
    """

    epoch: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)
    best_value: float | None = None
    best_epoch: int = 0
    stale_epochs: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    model: dict[str, Tensor] = field(default_factory=dict)
    best_model: dict[str, Tensor] = field(default_factory=dict)
    optimizers: list[dict[str, Any]] = field(default_factory=list)
    schedulers: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


class Trainer:
    """Fits a model to a training split and keeps the weights that validate best.

    Args:
        config: The `training` section.
        seed: Of row order, negatives and dropout.
        device: Where the model is trained; the data stays where it is.
        eval_batch_size: Rows per scoring batch.

    Example:
        >>> state = Trainer(config.training).fit(model, train, valid)  # doctest: +SKIP
        >>> state.history[-1]["auc"]  # doctest: +SKIP
    """

    def __init__(
        self,
        config: TrainingConfig,
        *,
        seed: int = 42,
        device: torch.device | str = "cpu",
        eval_batch_size: int = 16384,
    ) -> None:
        self.config = config
        self.seed = seed
        self.device = torch.device(device)
        self.eval_batch_size = eval_batch_size
        self.maximize = is_larger_better(config.metric)

    def fit(
        self,
        model: BaseCTRModel,
        train: TabularDataset,
        valid: TabularDataset,
        *,
        state: TrainingState | None = None,
        save: Callable[[TrainingState, bool], None] = lambda state, is_best: None,
        should_stop: Callable[[], int] = lambda: 0,
        log: Callable[[str], None] = lambda line: None,
    ) -> TrainingState:
        """Train until the metric stalls or the epochs end; the model keeps its best weights.

        Args:
            model: Trained in place.
            train, valid: Encoded splits; negatives are drawn where `train` says so.
            state: Where an earlier call stopped.
            save: Called with the state at each epoch's end, every `checkpoint_every_steps`
                steps and on interruption; `is_best` tells that `best_model` has just changed.
            should_stop: Asked after each step and epoch; any number but 0 saves the state and
                raises `Interrupted` with it.
            log: Receives one line per epoch.

        Raises:
            ConfigError: The metric cannot be computed on `valid`.
            DeepFMError: The loss or a weight is not finite; nothing is saved after that.
            Interrupted: `should_stop` said so.
        """
        check_metric(model, valid, self.config.metric)
        _keep_freed_memory()
        model.to(self.device)
        optimizers = build_optimizers(model, self.config)
        schedulers = build_schedulers(optimizers, self.config, maximize=self.maximize)
        if self.config.sparse_optimizer is None and dense_update_dominates(
            model, self.config.batch_size
        ):
            LOGGER.warning(
                "every step updates every row of the embedding tables, which takes longer than "
                "all else; training.sparse_optimizer: lazy_adam updates only the rows that a "
                "batch touches, which is a different optimizer"
            )
        state = state or TrainingState()
        if state.model:
            model.load_state_dict(state.model)
            state.best_model = _copy(state.best_model)  # of a finished run: the model's own
            for optimizer, saved in zip(optimizers, state.optimizers, strict=True):
                load_optimizer_state(optimizer, model, saved)
            for scheduler, saved in zip(schedulers, state.schedulers, strict=True):
                scheduler.load_state_dict(saved)

        def checkpoint(is_best: bool) -> None:
            state.model = model.state_dict()
            # A sum, because isfinite of all numbers would need as much memory as they do.
            if not all(tensor.sum().isfinite() for tensor in state.model.values()):
                _refuse_divergence("weights became NaN or infinite", state.epoch, state.step)
            state.optimizers = [optimizer_state(optimizer, model) for optimizer in optimizers]
            state.schedulers = [scheduler.state_dict() for scheduler in schedulers]
            save(state, is_best)

        with (
            torch.random.fork_rng(devices=[]),  # the caller's generator is left as it was
            _gradient_mode(model, optimizers),
        ):
            while state.epoch < self.config.epochs and not self._stalled(state):
                rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
                epoch = train.epoch(self.config.batch_size, seed=self.seed, epoch=state.epoch)
                self._run_epoch(model, epoch, optimizers, state, checkpoint, should_stop)
                is_best = self._finish_epoch(
                    model, valid, schedulers, state, rate=rates[0], rows=epoch.num_rows, log=log
                )
                checkpoint(is_best)
                if stop := should_stop():
                    raise Interrupted(stop)
        if state.best_epoch < state.epoch:  # otherwise the model has its best weights already
            model.load_state_dict(state.best_model)
        return state

    def _stalled(self, state: TrainingState) -> bool:
        return state.stale_epochs >= self.config.early_stopping_patience

    def _run_epoch(self, model, epoch, optimizers, state, checkpoint, should_stop) -> None:
        """The steps of one epoch, from `state.step` on."""
        pending: list[Tensor] = []  # losses still on the device

        def collect() -> float:
            for loss in torch.stack(pending).tolist():
                state.losses.append(loss)
                if not math.isfinite(loss):
                    _refuse_divergence(f"loss became {loss}", state.epoch, len(state.losses))
            pending.clear()
            return state.losses[-1]

        model.train()
        every = self.config.checkpoint_every_steps
        before, start = state.seconds, time.perf_counter()
        title = f"epoch {state.epoch + 1}/{self.config.epochs}"
        with ProgressBar(title, total=len(epoch), done=state.step) as bar:
            for batch in epoch.batches(first=state.step):
                self._seed_dropout(state)
                pending.append(self._step(model, batch.to(self.device), optimizers))
                state.step += 1
                state.seconds = before + time.perf_counter() - start
                stop = should_stop()
                save_now = stop or (every and state.step % every == 0)
                if save_now or bar.due() or state.step == len(epoch):
                    speed = epoch.num_rows * state.step / len(epoch) / state.seconds
                    bar.show(state.step, f"loss {collect():.4f}, {speed:,.0f} rows/s")
                if save_now:
                    checkpoint(False)
                if stop:
                    raise Interrupted(stop)

    def _seed_dropout(self, state) -> None:
        seed = derive_seed(self.seed, "dropout", state.epoch, state.step)
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)
        else:  # every device's, for which torch keeps a stack trace where there is none
            torch.manual_seed(seed)

    def _step(self, model, batch, optimizers) -> Tensor:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        groups = model.schema.group_columns
        losses = batch_losses(model(batch.inputs), batch, self.config.losses, groups)
        loss, *others = losses.values()
        for other in others:
            loss = loss + other
        tables = model.embedding.tables
        if tables.is_compact:
            loss.backward()
            rows = [touched.values for touched in tables.touched()]
            for values in rows:  # the gradient of the penalty, without autograd
                values.grad.add_(values.detach(), alpha=model.config.feature.embedding_l2_reg)
        else:
            (loss + model.get_l2_reg_loss(batch.inputs)).backward()
            rows = []
        if self.config.gradient_clip_norm is not None:
            trained = [*model.parameters(), *rows]
            torch.nn.utils.clip_grad_norm_(trained, self.config.gradient_clip_norm)
        for optimizer in optimizers:
            optimizer.step()
        return loss.detach()

    def _finish_epoch(self, model, valid, schedulers, state, *, rate, rows, log) -> bool:
        """Validate, record, and move the state to the next epoch; True for a new best."""
        metric = self.config.metric
        metrics = evaluate_metric(model, valid, metric, batch_size=self.eval_batch_size)
        value = metrics[metric]
        best = state.best_value
        is_best = best is None or (value > best if self.maximize else value < best)
        with warnings.catch_warnings():
            # A run resumed right after an epoch's last step has made no optimizer step yet.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            for scheduler in schedulers:
                if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                    scheduler.step(value)
                else:
                    scheduler.step()
        entry = {
            "epoch": state.epoch + 1,
            "train_loss": math.fsum(state.losses) / len(state.losses),
            "lr": rate,
            **metrics,
            "seconds": round(state.seconds, 3),
        }
        state.history.append(entry)
        speed = rows / state.seconds
        state.epoch, state.step, state.losses, state.seconds = state.epoch + 1, 0, [], 0.0
        state.stale_epochs += 1
        if is_best:
            state.best_value, state.best_epoch, state.stale_epochs = value, state.epoch, 0
            weights = model.state_dict()
            # The last epoch's weights change no more: at 10 million rows a copy is 0.7 GB.
            state.best_model = weights if state.epoch == self.config.epochs else _copy(weights)
        log(
            f"epoch {entry['epoch']}/{self.config.epochs}  loss {entry['train_loss']:.4f}  "
            f"{metric} {value:.4f}{' (best)' if is_best else ''}  lr {rate:.2g}  "
            f"{entry['seconds']:.1f} s, {speed:,.0f} rows/s"
        )
        return is_best


def _keep_freed_memory() -> None:
    """Let glibc's allocator reuse the megabytes that each step frees, instead of unmapping them.

    Else every step maps its activations anew, and the page faults cost a tenth of it on small
    models. The allocator learns from the largest block freed so far, up to 32 MiB, what to keep
    (`man mallopt`, M_MMAP_THRESHOLD): so free one of nearly that size. No page of it is touched.
    Other allocators are not impressed.
    """
    torch.empty(2**25 - 2**13, dtype=torch.uint8)


def _refuse_divergence(what: str, epoch: int, step: int) -> NoReturn:
    raise DeepFMError(
        f"the {what} in epoch {epoch + 1}, step {step}; lower training.lr or set "
        "training.gradient_clip_norm"
    )


def _gradient_mode(model, optimizers) -> AbstractContextManager[None]:
    """Compact mode of the embedding tables if an optimizer needs it."""
    for optimizer in optimizers:
        if isinstance(optimizer, SparseOptimizer):
            return model.embedding.tables.compact_mode(optimizer)
    return nullcontext()


def _copy(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
