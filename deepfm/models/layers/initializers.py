"""How the weights of a table begin, given as text.

Decided here: the names, and that each table is drawn by its own shape.
"""

import math
import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from deepfm.errors import ArgumentError
from deepfm.models.layers.options import check_arguments, parse_call

# Functions of `torch.nn.init` that a text may name, with the arguments that they take.
_KAIMING = {"a": float, "mode": str, "nonlinearity": str}
_TORCH_INITIALIZERS: dict[str, dict[str, type]] = {
    "nn.init.uniform_": {"a": float, "b": float},
    "nn.init.normal_": {"mean": float, "std": float},
    "nn.init.trunc_normal_": {"mean": float, "std": float, "a": float, "b": float},
    "nn.init.constant_": {"val": float},
    "nn.init.zeros_": {},
    "nn.init.ones_": {},
    "nn.init.xavier_uniform_": {"gain": float},
    "nn.init.xavier_normal_": {"gain": float},
    "nn.init.kaiming_uniform_": _KAIMING,
    "nn.init.kaiming_normal_": _KAIMING,
}
INITIALIZERS = ("xavier_uniform", "uniform_rows", "normal(STD)", *_TORCH_INITIALIZERS)


def initializer_from(text: str) -> Callable[[Tensor], Tensor]:
    """The in-place initializer that a text names.

    `xavier_uniform`: uniform in ±sqrt(6 / (rows + dim)), X. Glorot and Y. Bengio, AISTATS 2010.
    `uniform_rows`: uniform in ±1 / sqrt(rows). `normal(STD)`: mean 0, deviation STD. Others name
    a function of `torch.nn.init` and its arguments, as `nn.init.uniform_,a=-0.01,b=0.01`; the
    text is read, not evaluated.

    Raises:
        ValueError: The text is none of these, STD is not a number above 0, or an argument is
            unknown or of another type.

    Example:
        >>> torch.all(initializer_from("uniform_rows")(torch.empty(4, 3)).abs() <= 0.5)
        tensor(True)
    """
    if text == "xavier_uniform":
        return nn.init.xavier_uniform_
    if text == "uniform_rows":
        return lambda weight: nn.init.uniform_(
            weight, -(weight.shape[0] ** -0.5), weight.shape[0] ** -0.5
        )
    if match := re.fullmatch(r"normal\(([0-9.eE+-]+)\)", text):
        try:
            std = float(match[1])
        except ValueError:
            std = math.nan
        if 0 < std < math.inf:
            return lambda weight: nn.init.normal_(weight, 0.0, std)
    name, arguments = parse_call(text) if "nn.init." in text else (text, {})
    if name in _TORCH_INITIALIZERS:
        return _torch_initializer(name, arguments)
    raise ArgumentError("initializer", f"expected one of {', '.join(INITIALIZERS)}, got {text!r}")


def _torch_initializer(
    name: str, arguments: Mapping[str, float | bool | str]
) -> Callable[[Tensor], Tensor]:
    """A function of `torch.nn.init` with arguments, which are tried on one number here."""
    function = getattr(nn.init, name.rpartition(".")[2])

    def initialize(weight: Tensor) -> Tensor:
        filled: Tensor = function(weight, **arguments)
        return filled

    try:
        check_arguments(name, arguments, _TORCH_INITIALIZERS[name])
        with torch.random.fork_rng(devices=[]):
            initialize(torch.empty(1, 1, device="cpu"))
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        reason = str(error).removeprefix(name).lstrip(": ")
        raise ArgumentError("initializer", f"{name}: {reason}") from None
    return initialize
