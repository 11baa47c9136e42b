"""What Python gets back from `describe`: guesses about a table, to look at and to train by."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from deepfm.data.sources.describe import Description, to_yaml
from deepfm.errors import ConfigError
from deepfm.results import Cells, Shown
from deepfm.utils.io import atomic_write_bytes, atomic_writer


@dataclass(frozen=True, repr=False)
class Described(Shown):
    """The guesses about a file or a frame.

    Attributes:
        found: All of them, with what they rest on.
        is_file: Whether the rows stand in a file already.
    """

    found: Description
    is_file: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided."""
        return self.found.notes

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is to be known before a figure is trusted."""
        return self.found.warnings

    @property
    def fields(self) -> dict[str, dict[str, Any]]:
        """The fields that a config would declare, which `fields` of an estimator takes as well."""
        return {field.name: field.settings for field in self.found.fields if not field.against}

    @property
    def yaml(self) -> str:
        """The config that `train` takes."""
        return to_yaml(self.found)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the config, for a frame also its rows as Parquet beside it; return the config.

        Raises:
            ConfigError: One of the files exists, and `overwrite` is not given.
            DeepFMError: The disk refuses.
        """
        path, found = Path(path), self.found
        files = [path]
        if not self.is_file:
            rows = path.with_suffix(".parquet")
            found = found._replace(head=found.head._replace(path=rows))
            files.append(rows)
        for file in files:
            if file.exists() and not overwrite:
                raise ConfigError(f"{file} exists already; overwrite=True replaces it")
        if not self.is_file:
            with atomic_writer(files[1]) as target:
                pa.parquet.write_table(found.head.rows, target)
        atomic_write_bytes(path, to_yaml(found).encode())
        return path

    def _title(self) -> str:
        return "\n".join([f"{self.found.rows:,} rows", *self.notes])

    def _cells(self) -> Cells:
        label = self.found.label
        own = None if label is None or label.column is None else label.column.name
        cells = [["column", "kind", "distinct", "missing", "becomes"]]
        for column in self.found.summaries:
            counts = [f"{column.distinct:,}", f"{column.missing:.1%}"]
            made = "label" if column.name == own else self._becomes(column.name)
            cells.append([column.name, column.kind, *counts, made])
        return cells

    def _becomes(self, column: str) -> str:
        """What fields a column gives, or why it gives none."""
        fields = [f for f in self.found.fields if f.settings.get("column", f.name) == column]
        kept = [
            f.settings.get("transform", "").partition("(")[0] or f.settings["type"]
            for f in fields
            if not f.against
        ]
        against = next((f.against for f in fields if f.against), "")
        return ", ".join(kept) or f"left out: {against}"
