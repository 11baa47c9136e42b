"""What an optimizer keeps, by the names of tables and parameters, so that it fits any storage."""

from typing import Any

import torch
from torch import Tensor, nn

from deepfm.errors import CheckpointError
from deepfm.models.base import BaseCTRModel

# By name, the parameter whose state holds that of the name, and the table, if it is one.
_Logical = dict[str, tuple[nn.Parameter, str | None]]


def optimizer_state(optimizer: torch.optim.Optimizer, model: BaseCTRModel) -> dict[str, Any]:
    """The state as torch writes it, but as if every table were a parameter.

    Names stand in each group's `param_names`. Tensors are views, not copies.
    """
    state: dict[int, dict[str, Any]] = {}
    groups = []
    saved_groups = optimizer.state_dict()["param_groups"]
    for saved, live in zip(saved_groups, optimizer.param_groups, strict=True):
        logical = _logical(live["params"], model)
        first = len(state)
        for parameter, table in logical.values():
            values = optimizer.state.get(parameter, {})
            state[len(state)] = {key: _part(v, table, model) for key, v in values.items()}
        group = {key: value for key, value in saved.items() if key != "params"}
        names = {"param_names": list(logical), "params": list(range(first, len(state)))}
        groups.append(group | names)
    return {"state": {k: v for k, v in state.items() if v}, "param_groups": groups}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, model: BaseCTRModel, saved: dict[str, Any]
) -> None:
    """Load what `optimizer_state` gave, of tables in any storage and order.

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
            parameter, table = logical[name]
            own = state.setdefault(number[id(parameter)], {})
            for key, value in saved["state"].get(index, {}).items():
                if not isinstance(value, Tensor):
                    own[key] = value
                    continue
                if value.dim() == 0:  # tables that shared a parameter share it, too
                    own[key] = value.clone()
                    continue
                if key not in own:
                    like = optimizer.state.get(parameter, {}).get(key, parameter)
                    own[key] = torch.zeros_like(like, requires_grad=False)
                _part(own[key], table, model).copy_(value)
        defaults = {k: v for k, v in live.items() if k != "params"}  # options of later releases
        groups.append(defaults | {k: v for k, v in group.items() if k != "param_names"})
        groups[-1]["params"] = list(number.values())
        first += len(parameters)
    state = {k: v for k, v in state.items() if v}
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _logical(parameters: list[nn.Parameter], model: BaseCTRModel) -> _Logical:
    """The names of these parameters, and for tables those of all that they hold."""
    tables = model.embedding.tables
    wanted = {id(parameter) for parameter in parameters}
    of_tables = {id(parameter) for parameter in tables.parameters()}
    logical: _Logical = {}
    for name, parameter in model.named_parameters():
        if id(parameter) in wanted and id(parameter) not in of_tables:
            logical[name] = parameter, None
        elif id(parameter) in wanted:
            holders = {table: tables.parameter_of(table) for table in tables.logical}
            logical |= {
                f"embedding.tables.{table}.weight": (holder, table)
                for table, holder in holders.items()
                if id(holder) in wanted
            }
    return logical


def _part(value: Any, table: str | None, model: BaseCTRModel) -> Any:
    """What belongs to a table in a tensor that is kept for its parameter; other values whole."""
    if table is None or not isinstance(value, Tensor) or value.dim() == 0:
        return value
    return model.embedding.tables.part_of(table, value)
