"""Update rules for the rows of embedding tables that a batch touched.

Each works on whole arrays of rows, (U, stride), in which several tables may lie side by side; a
rule that treats them apart asks the tables for their widths.
"""

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor

from deepfm.models.layers.storage import PackedTables

Group = dict[str, Any]  # options of an optimizer and the parameters that they are for, as torch's


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
        self, tables: PackedTables, *, max_gradient: float | None = None, **options: object
    ) -> None:
        trained = [weight for weight in tables.parameters() if weight.requires_grad]
        super().__init__(trained, options | {"max_gradient": max_gradient})
        self.tables = tables
        for weight in trained:
            self.state[weight] = {"step": torch.zeros(())} | self._initial_state(weight)

    def _initial_state(self, weight: Tensor) -> dict[str, Tensor]:
        """State of a packed parameter; a column per column, or per table in a row."""
        return {}

    def _update(self, values: Tensor, gradient: Tensor, state: "_RowState", group: Group) -> None:
        """Change the touched rows and their state in place, (U, stride)."""
        raise NotImplementedError

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.tables.forget_touched()

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Apply the gradients of the rows touched since `zero_grad`.

        Args:
            closure: Computes the loss and its gradients, as torch's optimizers take it.

        Raises:
            RuntimeError: The tables are not in compact mode.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self.tables.is_compact:
            raise RuntimeError(f"{type(self).__name__} needs its tables in compact mode")
        (group,) = self.param_groups
        for weight in group["params"]:
            self.state[weight]["step"] += 1
        for touched in self.tables.touched():
            weight, rows = touched.weight, touched.rows
            state = _RowState(self.state[weight], rows, self.tables.widths(weight))
            updated, gradient = touched.values.detach(), touched.gradient
            if (limit := group["max_gradient"]) is not None:
                gradient = gradient.clamp(-limit, limit)
            self._update(updated, gradient, state, group)
            weight.index_copy_(0, rows, updated)
            state.write_back()
        return loss


class _RowState(dict[str, Tensor]):
    """Copies of some rows of a state.

    Attributes:
        step: How many steps the optimizer has made, this one included.
        widths: Of the tables that share a row.
    """

    def __init__(self, whole: dict[str, Tensor], rows: Tensor, widths: list[int]) -> None:
        self.step = int(whole["step"])
        self.widths = widths
        self._whole = {name: tensor for name, tensor in whole.items() if name != "step"}
        self._rows = rows
        super().__init__({k: tensor.index_select(0, rows) for k, tensor in self._whole.items()})

    def write_back(self) -> None:
        """Put the copies where they were taken from."""
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

    def _update(self, values: Tensor, gradient: Tensor, state: _RowState, group: Group) -> None:
        beta1, beta2 = group["betas"]
        mean = state["exp_avg"].lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = (1 - beta2**state.step) ** 0.5
        denominator = square.sqrt().div_(scale).add_(group["eps"])
        values.addcdiv_(mean, denominator, value=-group["lr"] / (1 - beta1**state.step))


class LazySGD(SparseOptimizer):
    """Gradient descent; without momentum it is what dense SGD does."""

    def _update(self, values: Tensor, gradient: Tensor, state: _RowState, group: Group) -> None:
        values.add_(gradient, alpha=-group["lr"])


class SparseAdagrad(SparseOptimizer):
    """Adagrad; a row without gradient does not move, so it is what dense Adagrad does.

    The sums of squares begin at `initial_accumulator_value`.

    Source: J. Duchi et al., "Adaptive Subgradient Methods", JMLR 12, 2011.
    """

    def _initial_state(self, weight: Tensor) -> dict[str, Tensor]:
        start = self.param_groups[0]["initial_accumulator_value"]
        return {"sum": torch.full_like(weight.detach(), start)}

    def _update(self, values: Tensor, gradient: Tensor, state: _RowState, group: Group) -> None:
        total = state["sum"].addcmul_(gradient, gradient)
        values.addcdiv_(gradient, total.sqrt().add_(group["eps"]), value=-group["lr"])


class RowwiseAdagrad(SparseOptimizer):
    """Adagrad with one number per row of a table, the mean of its squared gradient.

    The first-order weight is a table of its own, with its own number. State is 2 numbers per
    row, where Adam keeps 2 * (dim + 1).
    """

    def _initial_state(self, weight: Tensor) -> dict[str, Tensor]:
        return {"sum": weight.new_zeros(len(weight), len(self.tables.widths(weight)))}

    def _update(self, values: Tensor, gradient: Tensor, state: _RowState, group: Group) -> None:
        squares = gradient.square().split(state.widths, dim=1)
        parts = zip(
            values.split(state.widths, dim=1), gradient.split(state.widths, dim=1), strict=True
        )
        for k, (own, own_gradient) in enumerate(parts):
            total = state["sum"][:, k : k + 1].add_(squares[k].mean(1, keepdim=True))
            denominator = total.sqrt().add_(group["eps"])
            own.addcdiv_(own_gradient, denominator, value=-group["lr"])
