"""What a training step does: gradients of one or several batches, clipping, the update.

Decided here: a step of the optimizers comes after every k-th batch, and the gradient is the mean
of those k; what is clipped, in which order; and what the moving average of the weights is of.
"""

import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepfm.config import TrainingConfig
from deepfm.data.batch import Batch, Inputs
from deepfm.errors import ConfigError
from deepfm.models.base import BaseCTRModel
from deepfm.models.layers.batch_norm import SharedBatchNorm
from deepfm.models.layers.precision import Precision, products_in
from deepfm.models.training_pairs import TrainingPairs
from deepfm.objectives import Logits, PairLogits
from deepfm.training.optimizers import Assigned
from deepfm.training.schedules import Schedule
from deepfm.training.sparse_optimizers import SparseOptimizer
from deepfm.utils.workers import ALONE, Workers


def check_batch_norm(model: nn.Module, rows: int) -> None:
    """Refuse batches of one row for a model with batch norm, which compares rows with each other.

    Args:
        rows: Of a batch, or of the part of it that a process has.

    Raises:
        ConfigError: There are fewer than 2.
    """
    if rows < 2 and any(isinstance(part, nn.BatchNorm1d) for part in model.modules()):
        raise ConfigError(
            "batch norm cannot train on batches of one row, whose deviation is zero; take larger "
            "ones, or dnn.norm: layer or none",
            key="training.batch_size",
        )


class MovingAverage:
    """An exponential moving average of the dense parameters, all but the embedding tables.

    ema = decay * ema + (1 - decay) * parameter after each step of the optimizers; the first one
    copies. Buffers are not averaged: the running statistics of batch norm, which are moving
    averages themselves, are in use as they are.

    Args:
        decay: In [0, 1).

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([2.0]))
        >>> average = MovingAverage({"w": weight}, decay=0.5)
        >>> average.update()
        >>> _ = weight.data.fill_(4.0)
        >>> average.update()
        >>> average.state_dict()
        {'w': tensor([3.])}
    """

    def __init__(self, parameters: Mapping[str, Tensor], *, decay: float) -> None:
        self.decay = decay
        self._parameters = parameters
        self._values: list[Tensor] = []  # empty before the first update

    def update(self) -> None:
        """Take in the parameters as they are now."""
        now = [parameter.detach() for parameter in self._parameters.values()]
        if self._values:
            torch._foreach_lerp_(self._values, now, 1 - self.decay)
        else:
            self._values = [value.clone() for value in now]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While it lasts, the model has the averages; before the first update, its own weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        if self._values:
            for place, parameter in enumerate(self._parameters.values()):
                parameter.data, self._values[place] = self._values[place], parameter.data

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by the parameters' names; empty before the first update."""
        return dict(zip(self._parameters, self._values, strict=False))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        own = self._parameters
        self._values = [state[name].to(own[name], copy=True) for name in own] if state else []


class _ForwardPass(nn.Module):
    """What a step computes of rows before their losses, as one module.

    Args:
        model: In training mode.
        pairs: Where its loss compares items; else None.
    """

    def __init__(self, model: BaseCTRModel, pairs: TrainingPairs | None) -> None:
        super().__init__()
        self.model = model
        self._pairs = pairs

    def forward(self, batch: Batch) -> tuple[Logits, PairLogits | None]:
        if self._pairs is None or batch.pairs is None:
            return self.model.training_logits(batch.inputs), None
        pairs = self._pairs(batch.inputs, batch.pairs)
        return {self._pairs.task: pairs.own}, pairs


class Forward(NamedTuple):
    """What came out of the forward pass of a batch, detached and still on the device.

    Attributes:
        logits: By name, as the losses read them.
        losses: The loss under `loss`, and where that is a sum, the summands by their names; all
            (), without the L2 penalty.
        batch: What the losses read beside the logits, of the rows of all processes.
    """

    logits: Logits
    losses: dict[str, Tensor]
    batch: Batch


class TrainingStep:
    """Takes batches, and updates the model when it is told to.

    A batch's loss is the sum of its tasks' losses, as they are weighted, and of the model's own
    regularization. Its gradient counts 1 / `gradient_accumulation_steps`, so that of a step is the
    mean over as many batches; where fewer are left at an epoch's end, theirs counts that much
    less.

    The L2 penalty of a batch is added to its loss; in compact mode, to the gradients of its rows.

    Of several processes each computes the logits of its rows. All logits then come together, so
    that each process has the loss of the whole batch, whatever that compares, and passes on the
    part of its gradient that belongs to its rows; the sum over the processes is the gradient.

    NOTE[DIFF]: TorchEasyRec carries batches left over at an epoch's end into the next epoch's
    first step; here they make one of their own, so that an epoch ends with all its rows learned.

    Args:
        model: In training mode.
        precision: Of the matrix products of its networks, forward and backward.
        workers: Who has a part of each batch.
        assigned, schedules: Of all trained parameters, one schedule for each optimizer.
    """

    def __init__(
        self,
        model: BaseCTRModel,
        config: TrainingConfig,
        assigned: Sequence[Assigned],
        schedules: Sequence[Schedule],
        *,
        precision: Precision = "fp32",
        workers: Workers = ALONE,
    ) -> None:
        self.model = model
        self.config = config
        self.precision: Precision = precision
        self.optimizers = [item.optimizer for item in assigned]
        self.schedules = schedules
        self.every = config.gradient_accumulation_steps
        self._sparse = [o for o in self.optimizers if isinstance(o, SparseOptimizer)]
        of_tables = [item.optimizer for item in assigned if item.role == "tables"]
        self._at_once = of_tables if config.sparse_update == "backward" else []
        self._late = [o for o in self.optimizers if o not in self._at_once]
        self._batches = 0  # since the last update
        stored = model.embedding.tables
        keeps_gradients = bool(self._sparse) or stored.capabilities.only_own_optimizers
        by_pairs = any(task.by_pairs for task in model.tasks)
        self._pairs = TrainingPairs(model) if by_pairs else None
        self._workers = workers
        self._forward = workers.parallel(
            _ForwardPass(model, self._pairs),
            ignored=stored if keeps_gradients else None,
            may_be_unused=any(not task.weight for task in model.tasks),
        )
        tables = {id(parameter) for parameter in stored.parameters()}
        dense = {name: p for name, p in model.named_parameters() if id(p) not in tables}
        self._clipped: list[Tensor] = list(
            model.parameters() if config.gradient_clip_scope == "all" else dense.values()
        )
        self.average = None
        if config.ema_decay is not None:
            self.average = MovingAverage(dense, decay=config.ema_decay)

    def gradient_mode(self) -> AbstractContextManager[None]:
        """Compact mode of the embedding tables if an optimizer needs it."""
        for optimizer in self._sparse:
            return self.model.embedding.tables.compact_mode(optimizer)
        return nullcontext()

    def prepared(self, batch: Batch) -> Batch:
        """A batch on the CPU with the rows of the tables that its gradient is of.

        So no device is asked how many there are. Another batch costs `add` that question.
        """
        model, feature = self.model, self.model.config.feature
        is_compact = model.embedding.tables.is_compact
        if is_compact and self._pairs is not None and batch.pairs is not None:
            return batch._replace(pairs=self._pairs.prepared(batch.inputs, batch.pairs))
        if is_compact or (feature.embedding_l2_reg and feature.embedding_l2_scope == "batch"):
            located = model.located(self._rows_read(batch)).located
            return batch._replace(inputs=batch.inputs._replace(located=located))
        return batch

    def add(self, batch: Batch, *, is_last: bool = True) -> Forward:
        """Add the gradient of a batch.

        Args:
            is_last: Whether `update` comes next.
        """
        alone = nullcontext() if is_last else self._workers.not_yet(self._forward)
        with products_in(self.precision), alone:
            return self._add(batch)

    def _add(self, batch: Batch) -> Forward:
        model = self.model
        if not self._batches:
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
        self._batches += 1
        logits, pairs = self._forward(batch)
        logits, pairs, whole = self._of_all(logits, pairs, batch)
        losses = {}
        for task in model.tasks:
            if not task.weight:
                continue
            targets = task.targets(whole, model.schema)._replace(pairs=pairs)
            for name, value in task.losses(logits, targets).items():
                losses[task.named(name)] = value if task.weight == 1 else task.weight * value
        for name, value in model.regularization_losses(len(whole.label)).items():
            losses[name] = self._workers.counted_once(value)
        loss = reduce(operator.add, losses.values())
        self._backward(loss, batch)
        for optimizer in self._at_once:
            optimizer.step()
            optimizer.zero_grad()
        found = {"loss": loss.detach()}
        if len(losses) > 1:
            found |= {name: value.detach() for name, value in losses.items()}
        return Forward({name: value.detach() for name, value in logits.items()}, found, whole)

    def _of_all(
        self, logits: Logits, pairs: PairLogits | None, batch: Batch
    ) -> tuple[Logits, PairLogits | None, Batch]:
        """Logits, pairs, and labels, weights and groups of a whole batch, of which this process
        has the given rows; gradients pass to its own."""
        if self._workers.is_alone:
            return logits, pairs, batch
        of_pairs = {} if pairs is None else pairs.by_row()
        known = [value for value in (batch.weight, batch.group) if value is not None]
        own = [*logits.values(), *of_pairs.values(), batch.label, *known]
        found = iter(self._workers.joined_rows(own, batch.rows_of_all))
        logits = {name: next(found) for name in logits}
        if pairs is not None:
            pairs = pairs._replace(**{name: next(found) for name in of_pairs})
        label = next(found)
        weight, group = (
            None if value is None else next(found) for value in (batch.weight, batch.group)
        )
        return logits, pairs, batch._replace(label=label, weight=weight, group=group)

    def _read_by_all(self, inputs: Inputs) -> Inputs:
        """The inputs with the rows of the tables that those of all processes refer to."""
        located = inputs.located
        if self._workers.is_alone or located is None:
            return inputs
        rows = self._workers.joined([rows for rows, _, _ in located.values()])
        parts = zip(located.items(), map(torch.unique, rows), strict=True)
        return inputs._replace(
            located={name: (of_all, place, of_all) for (name, (_, place, _)), of_all in parts}
        )

    def _rows_read(self, batch: Batch) -> Inputs:
        """Rows that refer to every row of a table that a batch refers to."""
        if self._pairs is None or batch.pairs is None or batch.inputs.located is not None:
            return batch.inputs
        if self.model.config.feature.embedding_l2_scope == "table":  # which reads no batch
            return batch.inputs
        return self._pairs.rows_read(batch.inputs, batch.pairs)

    def _backward(self, loss: Tensor, batch: Batch) -> None:
        tables = self.model.embedding.tables
        if not tables.is_compact:
            penalty = self.model.get_l2_reg_loss(self._read_by_all(self._rows_read(batch)))
            loss = loss + self._workers.counted_once(penalty)
        with self._workers.exchanging():
            (loss if self.every == 1 else loss / self.every).backward()
        if not self._workers.is_alone:
            tables.share(self._workers.joined)
        if tables.is_compact and (rate := self.model.config.feature.embedding_l2_reg):
            tables.add_l2(rate / self.every)

    def update(self) -> None:
        """A step of the optimizers with the gradients added since the last one."""
        config = self.config
        if config.gradient_clip_norm is not None or config.gradient_clip_value is not None:
            self._clip(config)
        for optimizer in self._late:
            optimizer.step()
        self._batches = 0
        if self.average is not None:
            self.average.update()

    def unite_statistics(self) -> None:
        """Give batch norm the mean of what the processes have seen, where each saw its own rows."""
        norms = [
            part
            for part in self.model.modules()
            if isinstance(part, nn.BatchNorm1d) and not isinstance(part, SharedBatchNorm)
        ]
        self._workers.average_(
            [
                value
                for norm in norms
                for value in (norm.running_mean, norm.running_var)
                if value is not None
            ]
        )

    def _clip(self, config: TrainingConfig) -> None:
        """Limit each number of the gradient, then its norm."""
        clipped = self._clipped
        if config.gradient_clip_scope == "all":
            clipped = [*clipped, *self.model.embedding.tables.gradients()]
        if config.gradient_clip_value is not None:
            torch.nn.utils.clip_grad_value_(clipped, config.gradient_clip_value)
        if config.gradient_clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(
                clipped, config.gradient_clip_norm, norm_type=config.gradient_clip_norm_type
            )

    def advance_schedules(self) -> None:
        """Move the rates on, once per batch."""
        for schedule in self.schedules:
            schedule.step()

    def rates(self) -> list[float]:
        """The rate of each optimizer now."""
        return [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
