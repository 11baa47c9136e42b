"""Optimizers from a `TrainingConfig`.

Decided here: which optimizer updates the embedding tables, what it may be combined with, which
parameters have one of their own, and that saved state names logical tables, so that it fits any
layout of the storage.
"""

import re
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deepfm.config import PartOptimizerConfig, TrainingConfig
from deepfm.errors import CheckpointError, ConfigError, nearest
from deepfm.models.base import BaseCTRModel
from deepfm.models.layers.storage import PackedTables
from deepfm.training.options import SPARSE_OPTIMIZERS, ScheduleConfig, SparseOptimizerConfig

# The names that TorchEasyRec gives to the parameters of the same models, which patterns may use:
# what a name of ours begins with, and the other one, with or without `model.` before it.
_ALIASES = (
    (re.compile(r"dnn\.0\.layers\.(\d+)\."), r"deep_mlp.mlp.\1.perceptron."),
    (re.compile(r"final\.0\.layers\.(\d+)\."), r"final_mlp.mlp.\1.perceptron."),
    (re.compile(r"(dnn|final)\.1\."), r"output_mlp."),
    (re.compile(r"cin\.layers\.(\d+)\."), r"cin.cin_layers.\1."),
    (
        re.compile(r"embedding\.dropouts\.(\w+)\.weight"),
        r"group_variational_dropouts.\1.feature_p",
    ),
)


class SparseOptimizer(torch.optim.Optimizer):
    """Updates the rows that a batch touched, with their state; the rest costs nothing.

    Works in compact mode of the tables only. Every operation is one on the whole array of
    touched rows, so a step costs O(touched rows), whatever the vocabulary.

    Args:
        tables: The tables; state exists for all their rows from the start.
        options: `lr` and what the update rule needs. `max_gradient` limits each number of a row's
            gradient, which is summed over the row's occurrences before, to ± that; None: it is
            taken as it is.
    """

    def __init__(
        self, tables: PackedTables, *, max_gradient: float | None = None, **options: Any
    ) -> None:
        trained = [weight for weight in tables.parameters() if weight.requires_grad]
        super().__init__(trained, options | {"max_gradient": max_gradient})
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
            updated, gradient = values.detach(), values.grad
            if (limit := group["max_gradient"]) is not None:
                gradient = gradient.clamp(-limit, limit)
            self._update(updated, gradient, state, group)
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


class SparseAdagrad(SparseOptimizer):
    """Adagrad; a row without gradient does not move, so it is what dense Adagrad does.

    The sums of squares begin at `initial_accumulator_value`.

    Source: J. Duchi et al., "Adaptive Subgradient Methods", JMLR 12, 2011.
    """

    def _initial_state(self, weight: Tensor) -> dict[str, Tensor]:
        start = self.param_groups[0]["initial_accumulator_value"]
        return {"sum": torch.full_like(weight.detach(), start)}

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


class Assigned(NamedTuple):
    """An optimizer, and the settings of its schedule.

    Attributes:
        role: `dense`, `tables`, or the pattern of a part.
        optimizer: Holds the parameters.
        scheduler_key, scheduler: Where the schedule is given, and its options.
    """

    role: str
    optimizer: torch.optim.Optimizer
    scheduler_key: str
    scheduler: ScheduleConfig


def assign_optimizers(model: BaseCTRModel, config: TrainingConfig) -> list[Assigned]:
    """Which optimizer updates which parameters; those that are not trained have none.

    `config.sparse_optimizer` takes the embedding tables, first-order weights included; if it is
    one of `SPARSE_OPTIMIZERS`, it is a `SparseOptimizer`. Of `config.part_optimizers`, the first
    whose pattern matches the whole name of any other parameter takes that. `config.optimizer`
    has the rest, the tables too where there is no sparse one.

    Raises:
        ConfigError: The tables' storage cannot do what the settings ask for, a pattern matches
            nothing, or an option cannot be used.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    of_tables = {id(parameter) for parameter in model.embedding.tables.parameters()}
    tables = [parameter for parameter in trained.values() if id(parameter) in of_tables]
    names = {id(weight): name for name, weight in model.state_dict(keep_vars=True).items()}
    dense = {names[id(p)]: p for p in trained.values() if id(p) not in of_tables}
    parts = _parts(dense, config.part_optimizers)
    shared = dense if config.sparse_optimizer is not None else trained
    rest = [parameter for parameter in shared.values() if id(parameter) not in parts]
    common = ("training.scheduler", config.scheduler)
    found = []
    if rest:
        optimizer = config.optimizer.build(rest, config.lr, "training.optimizer")
        found.append(Assigned("dense", optimizer, *common))
    if config.sparse_optimizer is not None:
        if tables:
            schedule = common
            if config.sparse_scheduler is not None:
                schedule = ("training.sparse_scheduler", config.sparse_scheduler)
            found.append(Assigned("tables", _build_sparse(model, tables, config), *schedule))
    elif config.sparse_scheduler is not None:
        raise ConfigError(
            "training.sparse_scheduler: the tables share training.optimizer and its schedule; "
            "give them a training.sparse_optimizer"
        )
    elif config.sparse_update == "backward":
        raise ConfigError(
            "training.sparse_update: backward needs a training.sparse_optimizer of "
            f"{', '.join(SPARSE_OPTIMIZERS)}"
        )
    for number, part in enumerate(config.part_optimizers):
        own = [p for p in dense.values() if parts.get(id(p)) == number]
        if own:
            key = "training.part_optimizers"
            optimizer = part.optimizer.build(own, config.lr, f"{key}.optimizer")
            schedule = common if part.scheduler is None else (f"{key}.scheduler", part.scheduler)
            found.append(Assigned(part.pattern, optimizer, *schedule))
    return found


def _parts(dense: dict[str, Tensor], parts: tuple[PartOptimizerConfig, ...]) -> dict[int, int]:
    """By id of a parameter, the number of the part that it belongs to."""
    found: dict[int, int] = {}
    for number, part in enumerate(parts):
        pattern = re.compile(part.pattern)
        matches = [
            parameter
            for name, parameter in dense.items()
            if any(pattern.fullmatch(known) for known in (name, *aliases(name)))
        ]
        if not matches:
            raise ConfigError(
                f"training.part_optimizers: {part.pattern!r} matches no whole name of a dense "
                f"parameter; {_near(part.pattern, list(dense))}"
            )
        for parameter in matches:
            found.setdefault(id(parameter), number)
    return found


def _near(pattern: str, names: list[str]) -> str:
    """Names that hold a word of the pattern, or all."""
    words = [word for word in re.findall(r"\w{2,}", pattern) if word not in ("weight", "bias")]
    near = [name for name in names if any(w in k for w in words for k in (name, *aliases(name)))]
    return f"near ones: {', '.join(near)}" if near else nearest(pattern, names)


def aliases(name: str) -> list[str]:
    """Other names that a pattern may match for a parameter: those of TorchEasyRec's models.

    Example:
        >>> aliases("dnn.0.layers.2.0.weight")[0]
        'model.deep_mlp.mlp.2.perceptron.0.weight'
        >>> aliases("embedding.first_order.weight")
        []
    """
    found = []
    for ours, theirs in _ALIASES:
        if match := ours.match(name):
            alias = match.expand(theirs) + name[match.end() :]
            found += [f"model.{alias}", alias]
    return found


def _build_sparse(
    model: BaseCTRModel, tables: list[Tensor], config: TrainingConfig
) -> torch.optim.Optimizer:
    chosen = config.sparse_optimizer
    if not isinstance(chosen, SparseOptimizerConfig):
        if config.sparse_update == "backward":
            raise ConfigError(
                "training.sparse_update: backward needs one of "
                f"{', '.join(SPARSE_OPTIMIZERS)} as training.sparse_optimizer"
            )
        return chosen.build(tables, config.lr, "training.sparse_optimizer")
    _check_capabilities(model, config)
    return chosen.build(model.embedding.tables, config.lr)


def _check_capabilities(model: BaseCTRModel, config: TrainingConfig) -> None:
    can, feature = model.embedding.tables.capabilities, model.config.feature
    name = config.sparse_optimizer.name
    clips = (config.gradient_clip_norm, config.gradient_clip_value) != (None, None)
    problem = None
    if name not in can.optimizers:
        problem = f"these tables are updated by {', '.join(can.optimizers)} only"
    elif feature.embedding_l2_reg and feature.embedding_l2_scope == "table" and not can.table_l2:
        problem = (
            "it updates touched rows only, and feature.embedding_l2_scope: table decays every "
            "row; choose batch there, or a dense optimizer here"
        )
    elif config.gradient_clip_scope == "all" and clips:
        if not can.global_clipping:
            problem = (
                "these tables have no part in training.gradient_clip_norm and _value; set "
                "training.gradient_clip_scope: dense"
            )
        elif config.sparse_update == "backward" and config.gradient_accumulation_steps > 1:
            problem = (
                "with training.sparse_update: backward the tables are updated before the whole "
                "gradient is known; set training.gradient_clip_scope: dense"
            )
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
        defaults = {k: v for k, v in live.items() if k != "params"}  # options of later releases
        groups.append(defaults | {k: v for k, v in group.items() if k != "param_names"})
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
