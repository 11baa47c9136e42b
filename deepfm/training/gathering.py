"""A state of training as a whole, of what each process holds of it, and in slices of that."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from deepfm.models.base import BaseCTRModel
from deepfm.models.layers.tables import Tables
from deepfm.training.optimizer_state import Plain
from deepfm.training.trainer import TrainingState
from deepfm.utils.slices import Slice
from deepfm.utils.workers import Workers

_PREFIX, _SUFFIX = "embedding.tables.", ".weight"
_Place: TypeAlias = list[str | int]  # the keys that lead to a value in a checkpoint
# What becomes of a part of a table, of which the name, the part and its places are given; None: it
# is left out.
_OfTable: TypeAlias = Callable[[str, Tensor, list[_Place]], Tensor | None]


def whole_state(state: TrainingState, model: BaseCTRModel, workers: Workers) -> dict[str, Any]:
    """What a state holds, by its attributes, with whole tables; the same in all processes.

    All of them ask for it together. Tables that each process holds as a whole are not copied.
    """
    plain, tables = dict(vars(state)), model.embedding.tables
    if not tables.capabilities.only_own_optimizers:
        return plain

    def whole(table: str, own: Tensor, places: list[_Place]) -> Tensor:
        return tables.gathered(table, own, workers.joined)

    plain["model"] = _weights(state.model, tables, whole)
    if is_model_best(state, workers):
        plain["best_model"] = plain["model"]
    else:
        plain["best_model"] = _weights(state.best_model, tables, whole)
    plain["optimizers"] = _optimizers(state.optimizers, tables, whole)
    return plain


def sliced_state(
    state: TrainingState, model: BaseCTRModel, workers: Workers
) -> tuple[dict[str, Any], list[Slice]]:
    """What a state holds, without tables, and what this process holds of these.

    The slices are those of a checkpoint that has the state as `training`, its model as `model`
    too.
    """
    plain, tables = dict(vars(state)), model.embedding.tables
    slices: list[Slice] = []

    def kept(table: str, own: Tensor, places: list[_Place]) -> None:
        slices.append(_slice(table, own, tables, places))

    of_model: list[_Place] = [["model"], ["training", "model"]]
    of_best: list[_Place] = [["training", "best_model"]]
    if is_model_best(state, workers):
        plain["model"] = _weights(state.model, tables, kept, [*of_model, *of_best])
        plain["best_model"] = plain["model"]
    else:
        plain["model"] = _weights(state.model, tables, kept, of_model)
        plain["best_model"] = _weights(state.best_model, tables, kept, of_best)
    plain["optimizers"] = _optimizers(state.optimizers, tables, kept)
    return plain, slices


def sliced_weights(
    weights: Mapping[str, Tensor], model: BaseCTRModel
) -> tuple[dict[str, Tensor], list[Slice]]:
    """The same of the weights of a checkpoint that has no state."""
    tables, slices = model.embedding.tables, []

    def kept(table: str, own: Tensor, places: list[_Place]) -> None:
        slices.append(_slice(table, own, tables, places))

    return _weights(weights, tables, kept, [["model"]]), slices


def is_model_best(state: TrainingState, workers: Workers) -> bool:
    """Whether the weights that are kept are the model's own, which change no more."""
    own = state.best_model
    same = bool(own) and all(own[k].data_ptr() == v.data_ptr() for k, v in state.model.items())
    return not workers.agree(int(not same))  # an empty part is at no address of its own


def _weights(
    weights: Mapping[str, Tensor],
    tables: Tables,
    of_table: _OfTable,
    places: Sequence[_Place] = (),
) -> dict[str, Tensor]:
    """Weights by name, those of tables as `of_table` gives them."""
    found = {}
    for name, weight in weights.items():
        table = _table(name, tables)
        own = weight if table is None else of_table(table, weight, [[*p, name] for p in places])
        if own is not None:
            found[name] = own
    return found


def _optimizers(saved: Sequence[Plain], tables: Tables, of_table: _OfTable) -> list[Plain]:
    """What `optimizer_state` gave, what has a row per row of a table as `of_table` gives it."""
    found = []
    for number, of_one in enumerate(saved):
        names = {
            index: name
            for group in of_one["param_groups"]
            for index, name in zip(group["params"], group["param_names"], strict=True)
        }
        state: dict[int, Plain] = {}
        for index, own in of_one["state"].items():
            table, state[index] = _table(names[index], tables), {}
            for key, value in own.items():
                kept = value
                if table is not None and isinstance(value, Tensor) and value.dim() == 2:
                    place: _Place = ["training", "optimizers", number, "state", index, key]
                    kept = of_table(table, value, [place])
                if kept is not None:
                    state[index][key] = kept
        found.append({**of_one, "state": state})
    return found


def _table(name: str, tables: Tables) -> str | None:
    """The table whose name in `state_dict` this is, if it is one."""
    table = name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    return table if name == f"{_PREFIX}{table}{_SUFFIX}" and table in tables.logical else None


def _slice(table: str, own: Tensor, tables: Tables, places: list[_Place]) -> Slice:
    rows, columns = tables.held(table)
    whole, width = tables.logical[table], own.shape[1]
    if width == columns.stop - columns.start:
        width = whole.dim
    else:  # a number for each row
        columns = slice(0, width)
    return Slice(
        places,
        (whole.rows, width),
        (rows.start, rows.stop),
        (columns.start, columns.stop),
        own,
    )
