"""A state of training as a whole, of what each process holds of it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from deepfm.models.base import BaseCTRModel
from deepfm.training.optimizer_state import Plain
from deepfm.training.trainer import TrainingState
from deepfm.utils.workers import Workers

_PREFIX, _SUFFIX = "embedding.tables.", ".weight"


def whole_state(state: TrainingState, model: BaseCTRModel, workers: Workers) -> dict[str, Any]:
    """What a state holds, by its attributes, with whole tables; the same in all processes.

    All of them ask for it together. Tables that each process holds as a whole are not copied.
    """
    plain = dict(vars(state))
    if not model.embedding.tables.capabilities.only_own_optimizers:
        return plain
    plain["model"] = _whole_weights(state.model, model, workers)
    own = state.best_model
    is_model = bool(own) and all(own[k].data_ptr() == v.data_ptr() for k, v in state.model.items())
    if not workers.agree(int(not is_model)):  # weights that change no more
        plain["best_model"] = plain["model"]
    else:
        plain["best_model"] = _whole_weights(own, model, workers)
    plain["optimizers"] = [_whole_optimizer(item, model, workers) for item in state.optimizers]
    return plain


def _whole_weights(
    weights: Mapping[str, Tensor], model: BaseCTRModel, workers: Workers
) -> dict[str, Tensor]:
    return {name: _whole(name, weight, model, workers) for name, weight in weights.items()}


def _whole_optimizer(saved: Plain, model: BaseCTRModel, workers: Workers) -> Plain:
    """What `optimizer_state` gave, of whole tables."""
    names = {
        number: name
        for group in saved["param_groups"]
        for number, name in zip(group["params"], group["param_names"], strict=True)
    }
    state = {
        number: {
            key: _whole(names[number], value, model, workers) if _has_rows(value) else value
            for key, value in own.items()
        }
        for number, own in saved["state"].items()
    }
    return {**saved, "state": state}


def _has_rows(value: object) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2


def _whole(name: str, own: Tensor, model: BaseCTRModel, workers: Workers) -> Tensor:
    tables = model.embedding.tables
    table = name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    if table not in tables.logical or not name.startswith(_PREFIX):
        return own
    return tables.gathered(table, own, workers.joined)
