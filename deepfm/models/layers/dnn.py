"""The fully connected network of every deep branch, and the activations that it knows."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_linear_bn_weights

from deepfm.errors import ArgumentError
from deepfm.models.layers.dropout import Dropout, ReLUDropout, norm_relu_dropout
from deepfm.models.layers.options import check_arguments, parse_call
from deepfm.models.layers.precision import MANY_ROWS, ProductLinear, is_open

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "none": nn.Identity,
}
# Activations of `torch.nn` that a text may name, with the arguments that they take. `inplace` may
# be given and is left out: it changes no number, and the layer decides where it is safe.
_TORCH_ACTIVATIONS: dict[str, dict[str, type]] = {
    "CELU": {"alpha": float},
    "ELU": {"alpha": float},
    "GELU": {"approximate": str},
    "Hardshrink": {"lambd": float},
    "Hardsigmoid": {},
    "Hardswish": {},
    "Hardtanh": {"min_val": float, "max_val": float},
    "Identity": {},
    "LeakyReLU": {"negative_slope": float},
    "LogSigmoid": {},
    "Mish": {},
    "PReLU": {"num_parameters": float, "init": float},
    "RReLU": {"lower": float, "upper": float},
    "ReLU": {},
    "ReLU6": {},
    "SELU": {},
    "SiLU": {},
    "Sigmoid": {},
    "Softplus": {"beta": float, "threshold": float},
    "Softshrink": {"lambd": float},
    "Softsign": {},
    "Tanh": {},
    "Tanhshrink": {},
    "Threshold": {"threshold": float, "value": float},
}
ACTIVATION_NAMES = (*ACTIVATIONS, *_TORCH_ACTIVATIONS, "Dice")
NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
INITS = ("xavier_uniform", "torch")


class Dice(nn.Module):
    r"""Activation whose bend follows the data, (B, width) -> (B, width).

    With p = sigmoid(batch norm(x)), the norm without weights of its own:

        Dice(x) = p * x + (1 - p) * alpha * x

    alpha is learned, one per unit, and begins at 0.

    Source: G. Zhou et al., "Deep Interest Network", KDD 2018, arXiv:1706.06978, "Data
    Adaptive Activation Function".

    NOTE[DIFF]: The norm's eps is torch's 1e-5, as in TorchEasyRec; the paper has 1e-8.

    Args:
        width: Units.

    Example:
        >>> Dice(3).eval()(torch.zeros(2, 3)).shape
        torch.Size([2, 3])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.alpha = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.bent(x, torch.sigmoid(self.norm(x)))

    def bent(self, x: Tensor, p: Tensor) -> Tensor:
        """Dice(x) by the share p of its upper half, in two passes over its numbers."""
        return x * torch.addcmul(self.alpha, p, 1 - self.alpha)


def activation_from(text: str, width: int) -> nn.Module:
    """The activation of `width` units that a text names.

    A key of `ACTIVATIONS`; a class of `torch.nn` with its arguments, as `nn.LeakyReLU` or
    `LeakyReLU(negative_slope=0.1)`; `Dice`; or the empty text for none. The text is read, not
    evaluated.

    Raises:
        ArgumentError: It is none of these, or cannot be made with its arguments.

    Example:
        >>> activation_from("nn.ELU(alpha=0.5)", 4)
        ELU(alpha=0.5)
    """
    text = text.strip() or "none"
    if text in ACTIVATIONS:
        return ACTIVATIONS[text]()
    try:
        name, arguments = parse_call(text)
        name = name.removeprefix("nn.")
        if name == "Dice":
            check_arguments(name, arguments, {})
            return Dice(width)
        if name not in _TORCH_ACTIVATIONS:
            raise ValueError(f"{text!r} is none of {', '.join(ACTIVATION_NAMES)}")
        check_arguments(name, arguments, _TORCH_ACTIVATIONS[name] | {"inplace": bool})
        arguments.pop("inplace", None)
        if (shared := arguments.get("num_parameters", 1)) not in (1, width):
            raise ValueError(f"num_parameters is 1 or the width of the layer, {width}, in {text!r}")
        if "num_parameters" in arguments:
            arguments["num_parameters"] = int(shared)
        function: nn.Module = getattr(nn, name)(**arguments)
        if arguments:
            function(torch.empty(0, width))  # some of them are looked at no earlier
        return function
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ArgumentError("activation", str(error)) from None


class MLP(nn.Module):
    """Fully connected layers, (B, in_features) -> (B, output_dim).

    Each layer is Linear -> norm -> activation -> dropout, the last one too: a logit needs a
    `Linear` after it. With batch norm the linear map has no bias, because the norm subtracts it
    again.

    Source: S. Ioffe and C. Szegedy, "Batch Normalization", ICML 2015, arXiv:1502.03167, for the
    norm between the linear map and the activation.

    Args:
        in_features: Width of the input.
        hidden_units: Width of each layer; `output_dim` is the last.
        activation: As `activation_from` reads it.
        norm: `batch`, `layer` or None.
        dropout: Probability that a unit is dropped in training: of all layers, or of each.
        bias: Whether the linear maps have a bias where there is no batch norm.
        init: As in `initialize_linears`.
        return_hidden: Return the outputs of all layers as a list, first to last.

    Raises:
        ArgumentError: No hidden units, dropout for another number of layers, or an unknown
            activation, norm or init.

    Example:
        >>> import torch
        >>> MLP(3, (8, 2))(torch.zeros(4, 3)).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        in_features: int,
        hidden_units: Sequence[int],
        *,
        activation: str = "relu",
        norm: str | None = None,
        dropout: float | Sequence[float] = 0.0,
        bias: bool = True,
        init: str = "xavier_uniform",
        return_hidden: bool = False,
    ) -> None:
        super().__init__()
        if not hidden_units:
            raise ArgumentError("hidden_units", "expected at least one layer")
        if norm not in (None, *NORMS):
            raise ArgumentError("norm", f"{norm!r} is none of {', '.join(NORMS)}")
        rates = rates_of_layers(dropout, len(hidden_units))
        self.hidden_units = tuple(hidden_units)
        self.output_dim = hidden_units[-1]
        self.return_hidden = return_hidden
        self.layers, linears = nn.ModuleList(), []
        for width, rate in zip(hidden_units, rates, strict=True):
            function = activation_from(activation, width)
            is_last = len(self.layers) == len(hidden_units) - 1
            reads_narrow = norm in (None, "batch") and type(function) is nn.ReLU
            linears.append(
                ProductLinear(
                    in_features,
                    width,
                    bias=bias and norm != "batch",
                    narrow=reads_narrow and not is_last,
                )
            )
            layer = nn.Sequential(linears[-1])
            if norm is not None:
                layer.append(NORMS[norm](width))
            if type(function) is nn.ReLU:
                layer.append(ReLUDropout(rate))
            else:
                layer.extend([function, Dropout(rate)])
            self.layers.append(layer)
            in_features = width
        initialize_linears(linears, init)

    def _linears(self) -> Iterator[tuple[ProductLinear, list[nn.Module]]]:
        """Of each layer the linear map, and what follows."""
        for layer in self.layers:
            assert isinstance(layer, nn.Sequential)
            linear, *others = layer
            assert isinstance(linear, ProductLinear)
            yield linear, others

    @property
    def first(self) -> ProductLinear:
        """The first linear map."""
        return next(self._linears())[0]

    def opened(self) -> tuple[nn.Linear, nn.Sequential]:
        """Return the first linear map, and all that follows; both have the network's weights."""
        (first, others), *_ = self._linears()
        return first, nn.Sequential(*others, *list(self.layers)[1:])

    def folded(self) -> list[nn.Sequential]:
        """Return layers for evaluation only, on weights of their own: fewer passes over numbers.

        With fixed statistics batch norm is a scale and a shift per unit and moves into the linear
        map before it; there is no dropout; activations overwrite their input where torch can.
        The linear map, which always has a bias, comes first in each layer.
        """
        layers = []
        for linear, others in self._linears():
            weight: Tensor = linear.weight
            bias: Tensor | None = linear.bias
            if isinstance(norm := others[0], nn.BatchNorm1d):
                mean, variance = norm.running_mean, norm.running_var
                assert mean is not None  # each norm of `NORMS` keeps them
                assert variance is not None
                weight, bias = fuse_linear_bn_weights(
                    linear.weight, linear.bias, mean, variance, norm.eps, norm.weight, norm.bias
                )
            elif bias is None:
                bias = weight.new_zeros(len(weight))
            layer = nn.Sequential(_linear(weight, bias, narrow=linear.narrow))
            for module in others:
                if isinstance(module, ReLUDropout):
                    layer.append(nn.ReLU(inplace=True))
                elif not isinstance(module, nn.BatchNorm1d | Dropout):
                    function = copy.deepcopy(module)
                    if "inplace" in vars(function):
                        vars(function)["inplace"] = True
                    layer.append(function)
            layers.append(layer.eval())
        return layers

    def for_evaluation(self) -> "MLP":
        """Return a network of the `folded` layers, in evaluation mode; this one stays as it is."""
        found = copy.copy(self)
        vars(found)["_modules"] = {"layers": nn.ModuleList(self.folded())}
        return found.eval()

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        hidden, is_fused = [], is_open() and len(x) >= MANY_ROWS
        for layer in self.layers:
            assert isinstance(layer, nn.Sequential)
            x = _in_few_passes(layer, x) if is_fused else layer(x)
            if self.return_hidden:  # else evaluation would keep every layer's output alive
                hidden.append(x.float() if x.dtype is torch.bfloat16 else x)
        return hidden if self.return_hidden else x


def rates_of_layers(dropout: float | Sequence[float], num_layers: int) -> list[float]:
    """The rate of each layer, of one for all or of one each.

    Raises:
        ArgumentError: They are as many as neither.
    """
    rates = [dropout] if isinstance(dropout, int | float) else list(dropout)
    rates = rates * num_layers if len(rates) == 1 else rates
    if len(rates) != num_layers:
        problem = f"expected one number, or one per layer ({num_layers})"
        raise ArgumentError("dropout", f"{problem}, got {len(rates)}")
    return rates


def _in_few_passes(layer: nn.Sequential, x: Tensor) -> Tensor:
    """A layer of `MLP` with what follows its product in as few passes over numbers as can be."""
    y: Tensor
    linear, *others = layer
    if isinstance(last := others[-1], nn.ReLU | ReLUDropout):
        is_active = isinstance(last, ReLUDropout) and last.is_active
        if len(others) == 1 and not is_active:
            y = linear(x, relu=True)
            return y
        if isinstance(norm := others[0], nn.BatchNorm1d) and isinstance(last, ReLUDropout):
            return norm_relu_dropout(linear(x), norm, last)
    y = layer(x)
    return y


def initialize_linears(linears: Iterable[nn.Linear], init: str) -> None:
    """Begin new linear maps by one of `INITS`.

    `xavier_uniform`: with biases of zero. `torch`: weights and biases as `nn.Linear` has drawn
    them, uniform in ±1 / sqrt(in_features).

    Raises:
        ArgumentError: The name is another.
    """
    if init not in INITS:
        raise ArgumentError("init", f"{init!r} is none of {', '.join(INITS)}")
    for linear in linears if init == "xavier_uniform" else ():
        nn.init.xavier_uniform_(linear.weight)
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)


def _linear(weight: Tensor, bias: Tensor, *, narrow: bool) -> ProductLinear:
    """A linear map with these weights, (out_features, in_features) and (out_features,)."""
    out_features, in_features = weight.shape
    with torch.device("meta"):
        linear = ProductLinear(in_features, out_features, narrow=narrow)
    linear.weight, linear.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return linear
