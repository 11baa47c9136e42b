"""A model as it is scored: in evaluation mode for good, its networks folded.

Decided here: what is made once so that no batch and no request pays for it, and that a model in
training is left alone: no mode is switched, so that threads may score while it trains.
"""

from typing import TypeVar, cast

import torch
from torch import nn

from deepfm.models.base import BaseCTRModel
from deepfm.models.layers.dnn import MLP

Model = TypeVar("Model", bound=BaseCTRModel)


def frozen(model: Model) -> Model:
    """Return the model for evaluation only, beside itself.

    Each module has a twin in evaluation mode with the very same weights, buffers and hooks; of a
    network the twin is `MLP.for_evaluation`, whose linear maps hold the batch norm as it is now.
    Costs next to nothing: no table is copied. Use it as long as the weights stay what they are.

    Logits are those of the model in evaluation mode up to rounding. A model that is frozen already
    is returned as it is.
    """
    if model.is_frozen:
        return model
    with torch.no_grad():
        found = cast(Model, _twin(model, {}))
    found.is_frozen = True
    return found


def _twin(module: nn.Module, known: dict[int, nn.Module]) -> nn.Module:
    """The twin of a module; a module that stands in several places has one."""
    if id(module) in known:
        return known[id(module)]
    if isinstance(module, MLP):
        twin: nn.Module = module.for_evaluation()
    else:
        twin = module.__new__(type(module))
        twin.__dict__.update(module.__dict__)
        for own in ("_parameters", "_buffers"):
            twin.__dict__[own] = dict(module.__dict__[own])
        twin.__dict__["_modules"] = {
            name: None if child is None else _twin(child, known)
            for name, child in module.__dict__["_modules"].items()
        }
        twin.training = False
    known[id(module)] = twin
    return twin
