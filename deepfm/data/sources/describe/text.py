"""The guesses as a config for `train`, and as a table for people."""

import os
import re
from pathlib import Path
from typing import Any

from deepfm.data.sources.describe.description import Description
from deepfm.data.sources.describe.labels import LabelGuess
from deepfm.data.sources.describe.rules import HISTORY

_FEW = 50  # rows of the rarest class of which a tenth would measure nothing
_YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


def to_yaml(found: Description) -> str:
    """An experiment on the file, with a comment beside each guess."""
    head = found.head
    kept = "all" if head.is_whole else "the first"
    lines = [
        f"# Guessed from {kept} {found.rows:,} rows of {head.path.name}; check each field.",
        "model_name: deepfm",
        "data:",
        "  dataset_name: tabular",
        f"  data_dir: {quoted(str(head.path.parent))}",
        f"  split_strategy: {found.split} # {found.split_reason}",
    ]
    if found.split in ("random", "time"):
        parts, reason = "[0.8, 0.1, 0.1]", ""
        if found.split == "random" and found.smallest_class < _FEW:
            parts, reason = "[0.6, 0.2, 0.2]", f" # of {found.smallest_class} rows of a class"
        lines.append(f"  split_fractions: {parts}{reason}")
    if found.split == "random" and found.label is not None and found.label.kind != "number":
        lines.append("  stratify: true")
    lines += ["  table:", f"    files: {quoted(head.path.name)}"]
    if found.valid is not None:
        lines.append(f"    valid_files: {quoted(_below(found.valid, head.path.parent))}")
    if head.delimiter is not None:
        lines.append(f"    delimiter: {quoted(head.delimiter)}")
    if head.encoding != "utf-8":
        lines.append(f"    encoding: {quoted(head.encoding)}")
    if head.columns:
        names = ", ".join(quoted(name) for name in head.columns)
        lines.append(f"    columns: [{names}] # the file has no header: names are made up")
    lines += _label_lines(found)
    for key, column in (("user_field", found.wishes.user), ("item_field", found.wishes.item)):
        if column is not None:
            lines.append(f"    {key}: {quoted(_field_name(found, column))}")
    if found.time is not None:
        lines.append(f"    time_column: {quoted(found.time.column.name)}")
        if found.label is None:
            lines.append(f"    history: {{max_length: {HISTORY}}} # what a user did before a row")
    lines.append("    fields:")
    for field in found.fields:
        body = ", ".join(f"{key}: {_plain(value)}" for key, value in field.settings.items())
        mark, reason = ("# ", f"; {field.against}") if field.against else ("", "")
        lines.append(f"      {mark}{quoted(field.name)}: {{{body}}} # {field.facts}{reason}")
    for section, settings in found.settings.items():
        lines.append(f"{section}:")
        lines += [f"  {key}: {_plain(value)}" for key, value in settings.items()]
    return "\n".join(lines) + "\n"


def to_lines(found: Description) -> list[str]:
    """A table for people: one line per column."""
    widths = max(6, *(len(column.name) for column in found.summaries))
    lines = [f"{'column':<{widths}}  {'kind':<6}  {'distinct':>9}  {'missing':>7}  examples"]
    for column in found.summaries:
        examples = ", ".join(_short(text) for text in column.examples)
        lines.append(
            f"{column.name:<{widths}}  {column.kind:<6}  {column.distinct:>9,}  "
            f"{column.missing:>7.1%}  {examples}"
        )
    return lines


def _label_lines(found: Description) -> list[str]:
    label = found.label
    if label is None:
        assert found.wishes.item is not None
        rule = f"{{column: {quoted(found.wishes.item)}, present: true}}"
        return ["    label: positive", "    labels:", f"      positive: {rule} # every row is one"]
    assert label.column is not None
    lines = _rule_lines(label)
    if label.column.missing:
        lines.append("    bad_values: drop # rows without a label are left out")
    return lines


def _rule_lines(label: LabelGuess) -> list[str]:
    assert label.column is not None
    column = quoted(label.column.name)
    if label.kind == "binary" and label.positive is None and label.threshold is None:
        return [f"    label: {column} # {label.reason}"]
    if label.kind == "number":
        rule = f"{{column: {column}, kind: number, standardize: true}}"
    elif label.kind == "class":
        classes = ", ".join(_text(text) for text in label.classes)
        rule = f"{{column: {column}, kind: class, classes: [{classes}]}}"
    elif label.threshold is not None:
        rule = f"{{column: {column}, threshold: {label.threshold:g}}}"
    else:
        rule = f"{{column: {column}, positive: {_text(label.positive or '')}}}"
    return ["    label: target", "    labels:", f"      target: {rule} # {label.reason}"]


def _field_name(found: Description, column: str) -> str:
    """The field that reads a column."""
    return next(
        field.name
        for field in found.fields
        if field.settings.get("column", field.name) == column and "transform" not in field.settings
    )


def _below(path: Path, folder: Path) -> str:
    """A path relative to a folder."""
    return os.path.relpath(path, folder)


def _plain(value: Any) -> str:
    """A value in a YAML of one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_plain(item)}' for key, item in value.items())}}}"
    if isinstance(value, bool):
        return str(value).lower()
    return quoted(value)


def _text(value: str) -> str:
    """A YAML text in double quotes, whatever it looks like."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    escaped = re.sub(
        r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]", lambda c: f"\\u{ord(c[0]):04x}", escaped
    )
    return f'"{escaped}"'


def quoted(value: object) -> str:
    """A YAML scalar: plain where that is safe, in double quotes otherwise."""
    if not isinstance(value, str):
        return str(value)
    if re.fullmatch(r"[A-Za-z_][\w./()-]*", value) and value.lower() not in _YAML_WORDS:
        return value
    return _text(value)


def _short(text: str, width: int = 24) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
