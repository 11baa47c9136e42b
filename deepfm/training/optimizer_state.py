"""What an optimizer keeps, by the names of tables and parameters, so that it fits any storage."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deepfm.errors import CheckpointError
from deepfm.models.base import BaseCTRModel
from deepfm.models.layers.tables import Tables
from deepfm.utils.slices import SlicedTensor

Plain = dict[str, Any]  # tensors, numbers, and lists and mappings of them, as torch writes a state


class Holder(NamedTuple):
    """Where the state of a table or of another weight is kept.

    Attributes:
        parameter: What an optimizer has it for.
        table: Name of the table, which may be one of several in the parameter; None: no table.
        tables: All tables of the model.
    """

    parameter: nn.Parameter
    table: str | None
    tables: Tables

    def part(self, value: Tensor) -> Tensor:
        """A view of what belongs to it in a tensor that is kept for the parameter."""
        if self.table is None or value.dim() == 0:
            return value
        return self.tables.part_of(self.table, value)

    def put(
        self, own: Tensor, value: Tensor | SlicedTensor, *, of_first_rows: bool = False
    ) -> None:
        """Put a saved tensor, of the whole table or of what this process held of it, where it
        belongs in a tensor that is kept for the parameter.

        Args:
            of_first_rows: Whether it may be of a table that had fewer rows.
        """
        part = self.part(own)
        if self.table is not None and (of_first_rows or value.shape != part.shape):
            value = value[self.tables.held(self.table)]
        found = value[:]
        (part[: len(found)] if of_first_rows else part).copy_(found)


def optimizer_state(optimizer: torch.optim.Optimizer, model: BaseCTRModel) -> Plain:
    """The state as torch writes it, but as if every table were a parameter.

    Names stand in each group's `param_names`. Tensors are views, not copies.
    """
    state: dict[int, Plain] = {}
    groups = []
    saved_groups = optimizer.state_dict()["param_groups"]
    for saved, live in zip(saved_groups, optimizer.param_groups, strict=True):
        holders = _holders(live["params"], model)
        first = len(state)
        for holder in holders.values():
            own = optimizer.state.get(holder.parameter, {})
            state[len(state)] = {
                key: holder.part(value) if isinstance(value, Tensor) else value
                for key, value in own.items()
            }
        group = {key: value for key, value in saved.items() if key != "params"}
        numbers = list(range(first, len(state)))
        groups.append(group | {"param_names": list(holders), "params": numbers})
    return {"state": {k: v for k, v in state.items() if v}, "param_groups": groups}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, model: BaseCTRModel, saved: Plain
) -> None:
    """Load what `optimizer_state` gave, of tables in any storage and order.

    Without `param_names`, parameters are taken in the order of the model's state dict.

    Raises:
        CheckpointError: The state is that of other parameters.
    """
    state: dict[int, Plain] = {}
    groups, first = [], 0
    for group, live in zip(saved["param_groups"], optimizer.param_groups, strict=True):
        parameters = live["params"]
        holders = _holders(parameters, model)
        names = group.get("param_names", list(holders))
        if set(names) != set(holders) or len(names) != len(group["params"]):
            raise CheckpointError("the optimizer's state is that of other parameters")
        number = {id(parameter): first + k for k, parameter in enumerate(parameters)}
        for name, index in zip(names, group["params"], strict=True):
            holder = holders[name]
            own = state.setdefault(number[id(holder.parameter)], {})
            likes = optimizer.state.get(holder.parameter, {})
            for key, value in saved["state"].get(index, {}).items():
                _put(own, key, value, holder, likes.get(key, holder.parameter))
        defaults = {k: v for k, v in live.items() if k != "params"}  # options of later releases
        groups.append(defaults | {k: v for k, v in group.items() if k != "param_names"})
        groups[-1]["params"] = list(number.values())
        first += len(parameters)
    state = {k: v for k, v in state.items() if v}
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def carry_statistics(optimizer: torch.optim.Optimizer, model: BaseCTRModel, saved: Plain) -> None:
    """Give an optimizer the statistics that another one of its kind has gathered, but not its
    options; rows of tables that are new keep those that they begin with.

    Args:
        saved: What `optimizer_state` gave, of a model whose tables those of this one have grown
            from.

    Raises:
        CheckpointError: It is of another optimizer, or of other parameters.
    """
    if len(saved["param_groups"]) != len(optimizer.param_groups):
        raise CheckpointError("the statistics are those of other groups of parameters")
    state: dict[Tensor, Plain] = {}
    for group, live in zip(saved["param_groups"], optimizer.param_groups, strict=True):
        before, now = (set(one) - _OF_NO_KIND for one in (group, live))
        if before != now:
            raise CheckpointError(
                f"the statistics are those of an optimizer with the options {_listed(before)}, "
                f"and {type(optimizer).__name__} has {_listed(now)}"
            )
        holders = _holders(live["params"], model)
        names = group["param_names"]
        if set(names) != set(holders):
            raise CheckpointError("the statistics are those of other parameters")
        for name, index in zip(names, group["params"], strict=True):
            holder = holders[name]
            likes = optimizer.state.get(holder.parameter, {})
            own = state.setdefault(
                holder.parameter,
                {k: v.clone() if isinstance(v, Tensor) else v for k, v in likes.items()},
            )
            for key, value in saved["state"].get(index, {}).items():
                like = likes.get(key, holder.parameter)
                _put(own, key, value, holder, like, of_first_rows=True)
    for parameter, gathered in state.items():
        there = optimizer.state[parameter]
        for key, value in gathered.items():
            if isinstance(there.get(key), Tensor) and there[key].shape == value.shape:
                there[key].copy_(value)  # what a backward pass may change
            else:
                there[key] = value


# Options that every optimizer may have, and what is said beside them.
_OF_NO_KIND = {"params", "param_names", "initial_lr"}


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


def _put(
    own: Plain,
    key: str,
    value: object,
    holder: Holder,
    like: Tensor,
    *,
    of_first_rows: bool = False,
) -> None:
    """Put a saved value where it belongs in the state of a parameter, a tensor like `like`; with
    `of_first_rows` in the first rows of a table that has grown."""
    if not isinstance(value, Tensor | SlicedTensor):
        own[key] = value
    elif isinstance(value, Tensor) and value.dim() == 0:
        # Tables that were stored together share it, and those here may not.
        own[key] = value.clone()
    else:
        if key not in own:
            own[key] = torch.zeros_like(like, requires_grad=False)
        holder.put(own[key], value, of_first_rows=of_first_rows)


def _holders(parameters: Sequence[nn.Parameter], model: BaseCTRModel) -> dict[str, Holder]:
    """By the names of these parameters, and for tables by those of all that they hold."""
    tables = model.embedding.tables
    wanted = {id(parameter) for parameter in parameters}
    of_tables = {id(parameter) for parameter in tables.parameters()}
    holders = {table: Holder(tables.parameter_of(table), table, tables) for table in tables.logical}
    found: dict[str, Holder] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) in wanted and id(parameter) not in of_tables:
            found[name] = Holder(parameter, None, tables)
        elif id(parameter) in wanted:
            found |= {
                f"embedding.tables.{table}.weight": holder
                for table, holder in holders.items()
                if id(holder.parameter) in wanted
            }
    return found
