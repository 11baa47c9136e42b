"""What the trainer and checkpoints see of an optimizer that works inside backward passes."""

from collections.abc import Callable, Mapping
from typing import Any, overload

import torch
from torch import Tensor, nn


class FusedOptimizer(torch.optim.Optimizer):
    """The rate, the options and the sums of squares of tables whose backward pass updates them.

    A step only counts. Who changes the rate in `param_groups` changes the next backward pass.

    Args:
        sums: Of each parameter the sums that the backward pass changes, or None.
        options: As those of the sparse optimizer of the same name; `lr` among them.
    """

    def __init__(
        self, sums: Mapping[nn.Parameter, Tensor | None], options: Mapping[str, object]
    ) -> None:
        super().__init__(list(sums), dict(options))
        self._sums = {weight: value for weight, value in sums.items() if value is not None}
        start = float(str(options.get("initial_accumulator_value", 0.0)))
        for weight in sums:
            self.state[weight] = {"step": torch.zeros(())}
        for weight, value in self._sums.items():
            self.state[weight]["sum"] = value.fill_(start)

    @property
    def rate(self) -> float:
        """The rate of the next backward pass."""
        return float(self.param_groups[0]["lr"])

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Do nothing: a backward pass leaves no gradient behind."""

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Count a step; what it would do the backward pass has done.

        Args:
            closure: Computes the loss and its gradients, as torch's optimizers take it.
        """
        loss = None if closure is None else closure()
        for state in self.state.values():
            state["step"] += 1
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; the sums are copied to where backward passes change them."""
        super().load_state_dict(state_dict)
        for weight, value in self._sums.items():
            self.state[weight]["sum"] = value.copy_(self.state[weight]["sum"])
