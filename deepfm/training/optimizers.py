"""Optimizers and learning-rate schedules from a `TrainingConfig`.

Decided here: which optimizer updates the embedding tables, what it may be combined with, and that
saved state names logical tables, so that it fits any layout of the storage.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, ReduceLROnPlateau

from deepfm.config import SPARSE_OPTIMIZERS, TrainingConfig
from deepfm.errors import CheckpointError, ConfigError
from deepfm.models.base import BaseCTRModel
from deepfm.models.layers.storage import PackedTables

OPTIMIZER_CLASSES = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


class SparseOptimizer(torch.optim.Optimizer):
    """Updates the rows that a batch touched, with their state; the rest costs nothing.

    Works in compact mode of the tables only. Every operation is one on the whole array of
    touched rows, so a step costs O(touched rows), whatever the vocabulary.

    Args:
        tables: The tables; state exists for all their rows from the start.
        options: `lr` and what the update rule needs.
    """

    def __init__(self, tables: PackedTables, **options: Any) -> None:
        trained = [weight for weight in tables.parameters() if weight.requires_grad]
        super().__init__(trained, options)
        self.tables = tables
        for weight in trained:
            self.state[weight] = {"step": torch.zeros(())} | self._initial_state(weight)

    def _initial_state(self, weight: Tensor) -> dict[str, Tensor]:
        """State of a physical table; a column per column, or per logical table in a row."""
        return {}

    def _update(self, values: Tensor, gradient: Tensor, state: "_RowState", group: dict) -> None:
        """Change the touched rows and their state in place, (U, stride)."""
        raise NotImplementedError

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.tables.forget_touched()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Apply the gradients of the rows touched since `zero_grad`.

        Raises:
            RuntimeError: The tables are not in compact mode.
        """
        if not self.tables.is_compact:
            raise RuntimeError(f"{type(self).__name__} needs its tables in compact mode")
        (group,) = self.param_groups
        for weight in group["params"]:
            self.state[weight]["step"] += 1
        for weight, rows, values in self.tables.touched():
            state = _RowState(self.state[weight], rows, self.tables.blocks(weight))
            updated = values.detach()
            self._update(updated, values.grad, state, group)
            weight.index_copy_(0, rows, updated)
            state.write_back()


class _RowState(dict[str, Tensor]):
    """Copies of some rows of a state; `blocks` are the widths of the logical tables in a row."""

    def __init__(self, whole: dict[str, Tensor], rows: Tensor, blocks: list[int]) -> None:
        self.step = int(whole["step"])
        self.blocks = blocks
        self._whole = {name: tensor for name, tensor in whole.items() if name != "step"}
        self._rows = rows
        super().__init__({k: tensor.index_select(0, rows) for k, tensor in self._whole.items()})

    def write_back(self) -> None:
        for name, tensor in self._whole.items():
            tensor.index_copy_(0, self._rows, self[name])


class LazyAdam(SparseOptimizer):
    """Adam on touched rows: the other ones keep value and moments, they do not move or decay.

    The bias correction counts steps of the optimizer, not visits of the row; a row that every
    step touches moves exactly as under Adam.

    Source: D. Kingma and J. Ba, "Adam", ICLR 2015, arXiv:1412.6980, Algorithm 1.

    NOTE[DIFF]: Lazy moments, as `torch.optim.SparseAdam` has them; eps is added where
    `torch.optim.Adam` adds it, which SparseAdam does not.
    """

    def _initial_state(self, weight: Tensor) -> dict[str, Tensor]:
        weight = weight.detach()
        return {"exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}

    def _update(self, values: Tensor, gradient: Tensor, state: _RowState, group: dict) -> None:
        beta1, beta2 = group["betas"]
        mean = state["exp_avg"].lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = (1 - beta2**state.step) ** 0.5
        denominator = square.sqrt().div_(scale).add_(group["eps"])
        values.addcdiv_(mean, denominator, value=-group["lr"] / (1 - beta1**state.step))


class LazySGD(SparseOptimizer):
    """Gradient descent; without momentum it is what dense SGD does."""

    def _update(self, values: Tensor, gradient: Tensor, state: _RowState, group: dict) -> None:
        values.add_(gradient, alpha=-group["lr"])


class Adagrad(SparseOptimizer):
    """Adagrad; a row without gradient does not move, so it is what dense Adagrad does.

    Source: J. Duchi et al., "Adaptive Subgradient Methods", JMLR 12, 2011.
    """

    def _initial_state(self, weight: Tensor) -> dict[str, Tensor]:
        return {"sum": torch.zeros_like(weight.detach())}

    def _update(self, values: Tensor, gradient: Tensor, state: _RowState, group: dict) -> None:
        total = state["sum"].addcmul_(gradient, gradient)
        values.addcdiv_(gradient, total.sqrt().add_(group["eps"]), value=-group["lr"])


class RowwiseAdagrad(SparseOptimizer):
    """Adagrad with one number per row of a logical table, the mean of its squared gradient.

    The first-order weight is a table of its own, with its own number. State is 2 numbers per
    row, where Adam keeps 2 * (dim + 1).
    """

    def _initial_state(self, weight: Tensor) -> dict[str, Tensor]:
        return {"sum": weight.new_zeros(len(weight), len(self.tables.blocks(weight)))}

    def _update(self, values: Tensor, gradient: Tensor, state: _RowState, group: dict) -> None:
        square, start = gradient.square(), 0
        for k, width in enumerate(state.blocks):
            columns = slice(start, start + width)
            total = state["sum"][:, k : k + 1].add_(square[:, columns].mean(1, keepdim=True))
            denominator = total.sqrt().add_(group["eps"])
            values[:, columns].addcdiv_(gradient[:, columns], denominator, value=-group["lr"])
            start += width


# Measured on one core, in units of 0.07 ns: what a step costs per table weight under dense Adam,
# per other weight and row (the matrix products, forward and backward), and at least.
_PER_TABLE_WEIGHT = 40
_PER_WEIGHT_AND_ROW = 1
_PER_STEP = 30_000_000

SPARSE_OPTIMIZER_CLASSES = {
    "lazy_adam": LazyAdam,
    "lazy_sgd": LazySGD,
    "adagrad": Adagrad,
    "rowwise_adagrad": RowwiseAdagrad,
}


def build_optimizers(model: BaseCTRModel, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """One optimizer for all parameters, or a second one for the embedding tables.

    `config.sparse_optimizer` replaces `config.optimizer` for the tables, first-order weights
    included. If it is one of `SPARSE_OPTIMIZERS`, it is a `SparseOptimizer`.

    Raises:
        ConfigError: The tables' storage cannot do what the settings ask for.
    """
    if config.sparse_optimizer is None:
        return [_build(model.parameters(), config.optimizer, config.lr)]
    tables = list(model.embedding.tables.parameters())
    of_tables = {id(parameter) for parameter in tables}
    dense = _build(
        [p for p in model.parameters() if id(p) not in of_tables], config.optimizer, config.lr
    )
    if config.sparse_optimizer["name"] not in SPARSE_OPTIMIZERS:
        return [dense, _build(tables, config.sparse_optimizer, config.lr)]
    _check_capabilities(model, config)
    options = dict(config.sparse_optimizer)
    optimizer_class = SPARSE_OPTIMIZER_CLASSES[options.pop("name")]
    options["lr"] = options["lr"] or config.lr
    return [dense, optimizer_class(model.embedding.tables, **options)]


def _build(parameters, options: dict, lr: float) -> torch.optim.Optimizer:
    options = dict(options)
    optimizer_class = OPTIMIZER_CLASSES[options.pop("name")]
    options["lr"] = options["lr"] or lr
    return optimizer_class(parameters, fused=True, **options)


def _check_capabilities(model: BaseCTRModel, config: TrainingConfig) -> None:
    can, feature = model.embedding.tables.capabilities, model.config.feature
    name = config.sparse_optimizer["name"]
    problem = None
    if name not in can.optimizers:
        problem = f"these tables are updated by {', '.join(can.optimizers)} only"
    elif feature.embedding_l2_reg and feature.embedding_l2_scope == "table" and not can.table_l2:
        problem = (
            "it updates touched rows only, and feature.embedding_l2_scope: table decays every "
            "row; choose batch there, or a dense optimizer here"
        )
    elif config.gradient_clip_norm is not None and not can.global_clipping:
        problem = "these tables have no part in training.gradient_clip_norm; set it to null"
    if problem:
        raise ConfigError(f"training.sparse_optimizer: {name}: {problem}")


def dense_update_dominates(model: BaseCTRModel, batch_size: int) -> bool:
    """Whether updating every table weight is estimated to cost more than the rest of a step."""
    tables = sum(parameter.numel() for parameter in model.embedding.tables.parameters())
    others = sum(parameter.numel() for parameter in model.parameters()) - tables
    rest = _PER_STEP + _PER_WEIGHT_AND_ROW * others * batch_size
    return _PER_TABLE_WEIGHT * tables > rest


def optimizer_state(optimizer: torch.optim.Optimizer, model: BaseCTRModel) -> dict[str, Any]:
    """The state as torch writes it, but as if every logical table were a parameter.

    Names stand in each group's `param_names`. Tensors are views, not copies.
    """
    state: dict[int, dict[str, Any]] = {}
    groups = []
    for group in optimizer.state_dict()["param_groups"]:
        groups.append({k: v for k, v in group.items() if k != "params"})
    for group, live in zip(groups, optimizer.param_groups, strict=True):
        logical = _logical(live["params"], model)
        group["param_names"] = list(logical)
        group["params"] = list(range(len(state), len(state) + len(logical)))
        for parameter, *place in logical.values():
            values = optimizer.state.get(parameter, {})
            state[len(state)] = {k: _cut(v, parameter, *place) for k, v in values.items()}
    return {"state": {k: v for k, v in state.items() if v}, "param_groups": groups}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, model: BaseCTRModel, saved: dict[str, Any]
) -> None:
    """Load what `optimizer_state` gave, of tables in any layout and order.

    Without `param_names`, parameters are taken in the order of the model's state dict.

    Raises:
        CheckpointError: The state is that of other parameters.
    """
    state: dict[int, dict[str, Any]] = {}
    groups, first = [], 0
    for group, live in zip(saved["param_groups"], optimizer.param_groups, strict=True):
        parameters = live["params"]
        logical = _logical(parameters, model)
        names = group.get("param_names", list(logical))
        if set(names) != set(logical) or len(names) != len(group["params"]):
            raise CheckpointError("the optimizer's state is that of other parameters")
        number = {id(parameter): first + k for k, parameter in enumerate(parameters)}
        for name, index in zip(names, group["params"], strict=True):
            parameter, *place = logical[name]
            own = state.setdefault(number[id(parameter)], {})
            for key, value in saved["state"].get(index, {}).items():
                if not isinstance(value, Tensor) or value.dim() == 0:
                    own[key] = value
                    continue
                if key not in own:
                    like = optimizer.state.get(parameter, {}).get(key, parameter)
                    own[key] = torch.zeros_like(like, requires_grad=False)
                _cut(own[key], parameter, *place).copy_(value)
        groups.append({k: v for k, v in group.items() if k != "param_names"})
        groups[-1]["params"] = list(number.values())
        first += len(parameters)
    state = {k: v for k, v in state.items() if v}
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _logical(parameters: list[nn.Parameter], model: BaseCTRModel) -> dict[str, tuple]:
    """By name in the model's state dict: a parameter and the place of the name's part in it."""
    tables = model.embedding.tables
    packed = dict(tables.named_parameters())
    of_tables = {id(parameter) for parameter in packed.values()}
    wanted = {id(parameter) for parameter in parameters}
    logical: dict[str, tuple] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) not in wanted:
            continue
        if id(parameter) not in of_tables:
            logical[name] = (parameter, ..., ..., 0)
            continue
        for table, place in tables.places.items():
            if id(packed[place.parameter]) not in wanted:
                continue
            block = tables.blocks(packed[place.parameter])
            logical[f"embedding.tables.{table}.weight"] = (
                packed[place.parameter],
                place.rows,
                place.columns,
                int(place.columns.start > 0) if len(block) > 1 else 0,
            )
    return logical


def _cut(value: Any, parameter: Tensor, rows: Any, columns: Any, block: int) -> Any:
    """The part of a state that belongs to a logical table: its columns, or its one statistic."""
    if rows is ... or not isinstance(value, Tensor) or value.dim() == 0:
        return value
    return value[rows, columns if value.shape == parameter.shape else slice(block, block + 1)]


def build_schedulers(
    optimizers: list[torch.optim.Optimizer], config: TrainingConfig, *, maximize: bool
) -> list[LRScheduler]:
    """One schedule per optimizer, stepped once per epoch."""
    if config.scheduler["name"] == "reduce_on_plateau":
        return [
            ReduceLROnPlateau(
                optimizer,
                mode="max" if maximize else "min",
                factor=config.scheduler_factor,
                patience=config.scheduler_patience,
            )
            for optimizer in optimizers
        ]
    if config.scheduler["name"] == "cosine":
        t_max = config.scheduler_t_max or config.epochs
        return [CosineAnnealingLR(optimizer, T_max=t_max) for optimizer in optimizers]
    return []
