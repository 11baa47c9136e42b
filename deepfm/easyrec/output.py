"""An experiment's nested data as YAML for people: short lists and small mappings on one line."""

from collections.abc import Iterable, Mapping

import yaml

_WIDTH = 100


def to_yaml(raw: Mapping[str, object], title: str) -> str:
    """YAML with a comment above it, which `load_config` reads back to equal data."""
    return f"# {title}\n" + yaml.dump(
        raw, Dumper=_Dumper, sort_keys=False, width=_WIDTH, allow_unicode=True
    )


class _Dumper(yaml.SafeDumper):
    """Lists, and mappings without anything nested below them, in one line."""

    def ignore_aliases(self, data: object) -> bool:
        return True  # equal lists are written twice rather than by reference


def _is_plain(value: object) -> bool:
    return not isinstance(value, dict | list)


def _is_flat(values: Iterable[object]) -> bool:
    return all(map(_is_plain, values))


def _mapping(dumper: _Dumper, data: dict[str, object]) -> yaml.Node:
    """A field, or something named with its options, takes one line; sections take many."""
    is_small = not data.keys().isdisjoint(("type", "name")) and all(
        _is_flat(value) if isinstance(value, list) else _is_plain(value) for value in data.values()
    )
    return dumper.represent_mapping("tag:yaml.org,2002:map", data.items(), flow_style=is_small)


def _list(dumper: _Dumper, data: list[object]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=_is_flat(data))


_Dumper.add_representer(dict, _mapping)
_Dumper.add_representer(list, _list)
