"""Arithmetic expressions of one number, parsed and compiled, never evaluated as Python."""

import ast
from collections.abc import Callable
from typing import Any

import numpy as np

from deepfm.errors import nearest

MAX_EXPRESSION = 500  # characters; longer ones could nest deeper than Python's stack


def parse_expression(text: str) -> Callable[[np.ndarray], np.ndarray]:
    """An arithmetic expression of x as a function of arrays; it is parsed and never evaluated.

    Raises:
        ValueError: Something in it is not allowed; the message names the part.

    Example:
        >>> parse_expression("2 * max(x, 0) ** 2")(np.array([-1.0, 3.0])).tolist()
        [0.0, 18.0]
    """
    if len(text) > MAX_EXPRESSION:
        raise ValueError(f"expected at most {MAX_EXPRESSION} characters, found {len(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError(f"{text!r} is no arithmetic expression") from None
    if not any(isinstance(node, ast.Name) and node.id == "x" for node in ast.walk(tree)):
        raise ValueError(f"{text!r} does not depend on x")
    compute = _compiled(tree, text.strip())
    return lambda numbers: np.broadcast_to(compute(numbers), numbers.shape)


_OPERATORS: dict[type, Callable[..., np.ndarray]] = {
    ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.divide,
    ast.Pow: np.power, ast.USub: np.negative, ast.UAdd: np.positive,
}  # fmt: skip
_FUNCTIONS: dict[str, tuple[int, Callable[..., np.ndarray]]] = {
    "abs": (1, np.abs), "ceil": (1, np.ceil), "exp": (1, np.exp), "floor": (1, np.floor),
    "log": (1, np.log), "log10": (1, np.log10), "log1p": (1, np.log1p), "log2": (1, np.log2),
    "max": (2, np.maximum), "min": (2, np.minimum), "pow": (2, np.power), "round": (1, np.round),
    "sigmoid": (1, lambda x: 1.0 / (1.0 + np.exp(-x))), "sqrt": (1, np.sqrt), "tanh": (1, np.tanh),
}  # fmt: skip


def _compiled(node: ast.expr, text: str) -> Callable[[np.ndarray], Any]:
    """A node of the whitelist as a function of x."""
    part = ast.get_source_segment(text, node)
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            try:
                number = np.float64(value)
            except OverflowError:
                raise ValueError(f"{part} is too large") from None
            return lambda x: number
        case ast.Name(id="x"):
            return lambda x: x
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            operator, inner = _OPERATORS[type(op)], _compiled(operand, text)
            return lambda x: operator(inner(x))
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _OPERATORS:
            operator = _OPERATORS[type(op)]
            first, second = _compiled(left, text), _compiled(right, text)
            return lambda x: operator(first(x), second(x))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            count, function = _FUNCTIONS[name]
            if len(args) != count:
                raise ValueError(f"{part!r}: {name} takes {count}, found {len(args)}")
            inputs = [_compiled(arg, text) for arg in args]
            return lambda x: function(*(inner(x) for inner in inputs))
        case ast.BinOp(op=ast.BitXor()):
            raise ValueError(f"{part!r}: a power is written with **")
        case ast.Call(func=ast.Name(id=name)):
            raise ValueError(f"unknown function in {part!r}; {nearest(name, _FUNCTIONS)}")
        case ast.Name(id=name):
            raise ValueError(f"unknown name {name!r}; the number is called x")
    raise ValueError(f"{part!r} is no number, x, + - * / **, or one of {', '.join(_FUNCTIONS)}")
