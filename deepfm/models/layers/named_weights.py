"""Weights whose names come from the data."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class NamedWeights(nn.Module):
    """Weights under names that only the data decides; `state_dict` keys are `<name>.weight`.

    `nn.ModuleDict` and `nn.ParameterDict` refuse names such as `type`, `keys` or `children`,
    because the attribute would hide a method. Here the attribute is called `<name>_weight`, and
    saving and loading translate.

    Args:
        shapes: By name.

    Example:
        >>> weights = NamedWeights({"type": (5, 2)})
        >>> list(weights.state_dict()), tuple(weights["type"].shape)
        (['type.weight'], (5, 2))
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self._names = tuple(shapes)
        for name, shape in shapes.items():
            self.register_parameter(f"{name}_weight", nn.Parameter(torch.empty(shape)))

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> nn.Parameter:
        weight: nn.Parameter = getattr(self, f"{name}_weight")
        return weight

    def _save_to_state_dict(
        self, destination: dict[str, Tensor], prefix: str, keep_vars: bool
    ) -> None:
        for name in self._names:
            weight = self[name]
            destination[f"{prefix}{name}.weight"] = weight if keep_vars else weight.detach()

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        prefix: str,
        local_metadata: dict[str, object],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        keys = {f"{prefix}{name}_weight": f"{prefix}{name}.weight" for name in self._names}
        own = {inside: state_dict[key] for inside, key in keys.items() if key in state_dict}
        missing: list[str] = []
        super()._load_from_state_dict(
            own, prefix, local_metadata, strict, missing, unexpected_keys, error_msgs
        )
        missing_keys += [keys[inside] for inside in missing]
        known = set(keys.values())
        unexpected_keys += [k for k in state_dict if k.startswith(prefix) and k not in known]
