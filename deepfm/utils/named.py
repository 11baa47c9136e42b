"""What a config gives by its name, with options: losses, metrics, optimizers, schedules, models.

Each is a frozen dataclass below `Named`: its fields are the options with their defaults, `name` is
what configs call it. What may be named somewhere is a mapping from names to such classes; a config
says a name, or a mapping with `name` and some options.
"""

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from deepfm.errors import ArgumentError, ConfigError, nearest, shown
from deepfm.utils.logging import LOGGER

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, kw_only=True)
class Named:
    """A thing with a name and options.

    Example:
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Cut(Named):
        ...     name = "cut"
        ...     at: float = 0.5
        >>> named({"name": "cut", "at": 0.25}, by_name(Cut), "knife", "tool").to_dict()
        {'name': 'cut', 'at': 0.25}
    """

    name: ClassVar[str]
    is_old: ClassVar[bool] = False  # whether this is an older name of something, see `current`

    def current(self, key: str) -> Self:
        """What this is called today; itself, but for an older name.

        Args:
            key: The setting, for messages.
        """
        return self

    def to_dict(self) -> dict[str, object]:
        """Name and options, as a config holds them."""
        return {"name": self.name} | {f.name: getattr(self, f.name) for f in fields(self)}


N = TypeVar("N", bound=Named)


def by_name(*classes: type[N]) -> dict[str, type[N]]:
    """The classes by their names."""
    return {item.name: item for item in classes}


def one_of(known: Mapping[str, type[Named]], what: str, default: object) -> Any:
    """A dataclass field that holds one of these, or a tuple of some of them.

    The dataclass makes them of what it was given by `resolve` in its `__post_init__`.

    Args:
        known: What may be named.
        what: What such a thing is called, for messages.
        default: As a config would say it; a tuple of such for a field that holds several.
    """
    return field(default=default, metadata={"named": known, "what": what})


def resolve(config: "DataclassInstance", section: str) -> None:
    """Make the instances of all `one_of` fields of a frozen dataclass, in place.

    Args:
        section: The dotted key of the dataclass.

    Raises:
        ConfigError: A name is unknown, or an option.
    """
    for item in fields(config):
        if "named" in item.metadata:
            value = named_value(getattr(config, item.name), item, f"{section}.{item.name}")
            object.__setattr__(config, item.name, value)


def named_value(value: object, item: "Field[Any]", key: str) -> object:
    """What a value of a `one_of` field stands for.

    Args:
        value: As a config says it; where the field holds several, one may stand without a list.
        item: The field. It may be None if that is its default.
        key: The setting, for messages.

    Raises:
        ConfigError: As `named`.
    """
    known, what = item.metadata["named"], item.metadata["what"]
    if isinstance(item.default, tuple):
        parts = value if isinstance(value, list | tuple) else (value,)
        return tuple(named(part, known, key, what) for part in parts)
    if value is None and item.default is None:
        return None
    if not isinstance(value, str | Mapping | Named):
        or_null = " or null" if item.default is None else ""
        raise ConfigError(f"{_EXPECTED}{or_null}, found {shown(value)}", key=key)
    return named(value, known, key, what)


_EXPECTED = "expected a text or a mapping with a name and options"


def named(spec: object, known: Mapping[str, type[N]], key: str, what: str) -> N:
    """The thing that is given by its name, or by its name and some options.

    Args:
        spec: A name, a mapping with `name` and options, or the thing itself.
        known: What may be named; a default of an option also says what its value must be.
        key, what: The setting and what it names, for messages.

    Raises:
        ConfigError: The name is unknown, or an option, or an option's value is of another kind.
    """
    if isinstance(spec, Named):
        given: dict[str, Any] = spec.to_dict()
    elif isinstance(spec, Mapping):
        given = dict(spec)
    elif isinstance(spec, str):
        given = {"name": spec}
    else:
        raise ConfigError(f"{_EXPECTED}, found {shown(spec)}", key=key)
    name = given.pop("name", None)
    if not isinstance(name, str) or name not in known:
        hint = nearest(str(name), [n for n, item in known.items() if not item.is_old])
        raise ConfigError(f"unknown {what} {name!r}; {hint}", key=key)
    chosen = known[name]
    options = {item.name: item for item in fields(chosen)}
    for option, value in given.items():
        if option not in options:
            problem = f"{name} has no option {option!r}; {nearest(option, options)}"
            raise ConfigError(problem, key=key)
        _check_option(f"{key}.{option}", value, options[option])
        given[option] = tuple(value) if isinstance(value, list) else value
    try:
        made = chosen(**given)
    except ArgumentError as error:  # of its own check, which knows no section
        raise ConfigError(error.problem, key=f"{key}.{error.argument}") from None
    if not made.is_old:
        return made
    current = made.current(key)
    LOGGER.warning(f"{key}: {name} is an older name; say {current.name}")
    return current


# What `deepfm.utils.settings.limited` may say of a number.
LIMITS: dict[str, Callable[[float, float], bool]] = {
    "at_least": operator.ge,
    "above": operator.gt,
    "at_most": operator.le,
    "below": operator.lt,
}


def beyond_limits(item: Named) -> Iterator[tuple[str, str, float]]:
    """The options with a number beyond the limits of their field: name, what is expected, number.

    Example:
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Cut(Named):
        ...     name = "cut"
        ...     at: float = field(default=0.5, metadata={"above": 0, "below": 1})
        >>> list(beyond_limits(Cut(at=2.0)))
        [('at', 'above 0 and below 1', 2.0)]
    """
    for option in fields(item):
        limits = {name: option.metadata[name] for name in LIMITS if name in option.metadata}
        value = getattr(item, option.name)
        for number in value if isinstance(value, tuple) else (value,):
            if any(not LIMITS[name](number, limit) for name, limit in limits.items()):
                words = [
                    f"{name.replace('at_', 'of at ')} {limit}" for name, limit in limits.items()
                ]
                yield option.name, " and ".join(words), number


def _check_option(key: str, value: Any, item: "Field[Any]") -> None:
    """Refuse a value that is not of its default's kind."""
    default = item.default
    if isinstance(default, bool):
        fits, expected = isinstance(value, bool), "true or false"
    elif isinstance(default, str):
        fits, expected = isinstance(value, str), "a text"
    elif isinstance(default, tuple) and default and "at_least" in item.metadata:
        fits = isinstance(value, list | tuple) and bool(value)
        fits = fits and all(isinstance(number, int) and _is_number(number) for number in value)
        expected = "a list of whole numbers"
    elif isinstance(default, tuple) and default:
        fits = isinstance(value, list | tuple) and len(value) == 2
        fits = fits and all(_is_number(v) and 0 <= v < 1 for v in value)
        expected = "two numbers in [0, 1)"
    elif isinstance(default, tuple):
        fits = isinstance(value, list | tuple) and all(_is_number(v) and v >= 0 for v in value)
        expected = "a list of numbers of at least 0"
    elif isinstance(default, int):
        fits = isinstance(value, int) and _is_number(value) and value >= 0
        expected = "a whole number of at least 0"
    elif default is None:  # inherited, or no limit
        fits = value is None or (_is_number(value) and value >= 0)
        expected = "a number of at least 0, or null"
    else:
        fits, expected = _is_number(value) and value >= 0, "a number of at least 0"
    if not fits:
        raise ConfigError(f"expected {expected}, found {shown(value)}", key=key)


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def reported_names(items: Iterable[Named]) -> list[str]:
    """What things are called in results: by name, and what sets those of one name apart.

    Example:
        >>> @dataclass(frozen=True, kw_only=True)
        ... class AUC(Named):
        ...     name = "auc"
        ...     thresholds: int = 0
        >>> reported_names([AUC(), AUC(thresholds=200)])
        ['auc[0]', 'auc[200]']
    """
    specs = [item.to_dict() for item in items]
    found = []
    for spec in specs:
        others = [other for other in specs if other["name"] == spec["name"]]
        apart = [
            str(value)
            for option, value in spec.items()
            if any(other[option] != value for other in others)
        ]
        found.append(f"{spec['name']}[{','.join(apart)}]" if apart else str(spec["name"]))
    return found
