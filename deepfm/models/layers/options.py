"""Calls written as text in a config, such as `nn.LeakyReLU(negative_slope=0.1)`: read, never run.

Decided here: the grammar. What may be called with which arguments is a table of the reader's.
"""

import re
from collections.abc import Mapping

_CALL = re.compile(r"([A-Za-z_][\w.]*)\s*(?:\((.*)\)|,(.*))?", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WORD = re.compile(r"""'(\w+)'|"(\w+)"|(\w+)""")


def parse_call(text: str) -> tuple[str, dict[str, float | bool | str]]:
    """The name and the keyword arguments of `name`, `name(key=value, …)` or `name,key=value,…`.

    A value is a number, True, False, or a word. `torch.` before the name is left out.

    Raises:
        ValueError: The text has another form.

    Example:
        >>> parse_call("torch.nn.RReLU(lower=0.1, inplace=True)")
        ('nn.RReLU', {'lower': 0.1, 'inplace': True})
        >>> parse_call("nn.init.uniform_,a=-0.01,b=0.01")
        ('nn.init.uniform_', {'a': -0.01, 'b': 0.01})
    """
    match = _CALL.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"expected name(key=value, …), got {text!r}")
    name, *parts = match.groups()
    arguments: dict[str, float | bool | str] = {}
    for part in filter(None, (part.strip() for part in (parts[0] or parts[1] or "").split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key.isidentifier() or key in arguments:
            raise ValueError(f"expected key=value, each key once, got {part!r} in {text!r}")
        arguments[key] = _value(value, text)
    return name.removeprefix("torch."), arguments


def called(text: str) -> str:
    """The name in a call, whether or not its arguments can be read.

    Example:
        >>> called("torch.nn.ELU(alpha="), called("nn.init.zeros_,a=1")
        ('nn.ELU', 'nn.init.zeros_')
    """
    return re.split("[(,]", text.strip(), maxsplit=1)[0].strip().removeprefix("torch.")


def _value(value: str, text: str) -> float | bool | str:
    if value in ("True", "False"):
        return value == "True"
    if _NUMBER.fullmatch(value):
        return float(value)
    if match := _WORD.fullmatch(value):
        first, second, bare = match.groups(default="")
        return f"{first}{second}{bare}"  # one of them matched
    raise ValueError(f"expected a number, True, False or a word, got {value!r} in {text!r}")


def check_arguments(
    name: str, arguments: Mapping[str, float | bool | str], allowed: Mapping[str, type]
) -> None:
    """Refuse arguments that are not allowed, or of another type.

    Raises:
        ValueError: Names what was called, the argument, and what is allowed.
    """
    for key, value in arguments.items():
        if key not in allowed:
            known = ", ".join(allowed) or "none"
            raise ValueError(f"{name} has no argument {key!r}; known: {known}")
        if type(value) is not allowed[key]:
            kind = {float: "a number", bool: "True or False", str: "a word"}[allowed[key]]
            raise ValueError(f"{name}: {key} is {kind}, got {value!r}")
