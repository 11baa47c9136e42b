"""Scores and recommendations from a checkpoint alone."""

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from deepfm.checkpoint import Checkpoint
from deepfm.data.batch import Inputs
from deepfm.data.encoding.arrays import EncodedArrays
from deepfm.data.files.packed import ARCHIVE, file_ending
from deepfm.data.files.read import first_line, format_of, read_rows
from deepfm.data.files.rows import Rows, TextOptions
from deepfm.data.files.text import is_header, without_header
from deepfm.data.served_counts import unknown_values
from deepfm.data.served_inputs import served_inputs
from deepfm.data.served_rows import ReadRows, warn_of_absent
from deepfm.data.sources.tables import SideTables
from deepfm.data.split_times import Times
from deepfm.engine import Recommendation as Recommendation
from deepfm.engine import ScoredItem as ScoredItem
from deepfm.errors import DataError, Place
from deepfm.evaluation.members import Members
from deepfm.evaluation.scoring import score_tasks
from deepfm.item_logits import ItemLogits
from deepfm.models.base import BaseCTRModel
from deepfm.models.frozen import frozen
from deepfm.objectives import Task
from deepfm.served_engine import ServedEngine
from deepfm.several import load_several, scorer_of
from deepfm.utils.places import AnyPath, path_of


class ScoredRows(NamedTuple):
    """Rows of a file with what the model says about them.

    Attributes:
        rows: As they were read.
        predictions: By column, (N,) float64: `probability`, of the positive class;
            `probability_0`, … of three classes or more; `prediction`, of a regression; `score`,
            of losses that only put items in order; with the task's name at the end where there
            are several. Null for a row with a value that its field cannot read, if the field's
            policy is to drop such rows.
        unknown: Per field with a vocabulary, how many values training has not seen; of a
            sequence, how many elements.
        bad: Per column, how many values could not be read.
    """

    rows: Rows
    predictions: dict[str, pa.Array]
    unknown: dict[str, int]
    bad: dict[str, int]


class Predictor(ServedEngine):
    """A trained model together with everything it needs to read raw rows.

    Of several models the logits are averaged. The calibration of a checkpoint is applied.

    What every request needs is made at the first one: the model in evaluation mode with its batch
    norm folded, dictionaries of values, the encoded items and their share of each logit. So the
    weights of `model` must stay as they are. Threads may share a predictor, and it can be pickled
    or copied, without what is made at a request.

    Args:
        checkpoint: Path or URI of a `best_model.pt` or `last.pt`, or several of them; or a
            checkpoint that has been read.
        device: Where the model runs.
        batch_size: Rows per scoring batch; the checkpoint's `evaluation.batch_size` by default.

    Raises:
        CheckpointError: A checkpoint cannot be used, or two of them do not agree.
    """

    tasks: tuple[Task, ...]

    def __init__(
        self,
        checkpoint: str | AnyPath | Checkpoint | Sequence[str | AnyPath],
        *,
        device: torch.device | str = "cpu",
        batch_size: int | None = None,
    ) -> None:
        checkpoints = load_several(checkpoint)
        loaded = checkpoints[0]
        self.model = scorer_of(checkpoints).to(device)
        super().__init__(
            loaded.encoders,
            SideTables(loaded.users, loaded.items),
            loaded.history,
            loaded.events,
            self.model.tasks,
        )
        self.batch_size = batch_size or loaded.config.evaluation.batch_size
        self._source = loaded.config.data.table
        rules = loaded.config.label_rules().values()
        self._label_columns = {rule.column for rule in rules} | {self.schema.label_field}

    def __getstate__(self) -> dict[str, Any]:
        """Without what is made at the first request, which is made anew."""
        made = ("_scorer", "_lists")
        return {name: value for name, value in vars(self).items() if name not in made}

    def __repr__(self) -> str:
        """The model and its fields; of weights nothing."""
        names = list(self.schema.fields)
        shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        return f"Predictor({type(self.model).__name__} of {len(names)} fields: {shown})"

    def predict_file(self, path: str | AnyPath) -> Iterator[ScoredRows]:
        """Return the rows of a file of any size with what is predicted for them, in a stream.

        CSV, TSV, Parquet as in `deepfm.data.files.read.read_rows`, also of a URI. A text file of
        the kind that a declared table was trained on has that table's delimiter and encoding. If
        the table names its columns, a first line that repeats none of the names is a row; the
        label may be left out of the rows then.

        Raises:
            DataError: As in `predict`, with file and line.
        """
        path, count, absent, times = path_of(path), 0, list[str](), Times()
        for rows in read_rows([path], **self._text_options(path)):
            try:
                columns = self._tables.complete(self.schema, rows.table)
                encoded = self.encoders.encode_rows(rows._replace(table=columns))
                inputs, kept, bad, elements = encoded
                if len(kept) < len(columns):
                    columns = columns.take(pa.array(kept))
                if self._histories is not None:
                    seen = self._histories.seen_by_rows(
                        columns, times, partial(_kept_row, rows, kept)
                    )
                    inputs = self._histories.added_to_inputs(inputs, seen)
            except DataError as error:
                if error.place.file:
                    raise
                raise error.at(error.place._replace(file=str(path))) from None
            known = self._columns(self._predicted_of(inputs))
            predictions = {}
            for name, values in known.items():
                whole = np.full(len(rows.table), np.nan)
                whole[kept] = values
                predictions[name] = pa.array(whole, from_pandas=True)
            count, absent = (
                count + len(rows.table),
                absent or self._rows.absent(columns.column_names),
            )
            missing = {
                field.name: columns[field.column].null_count
                for field in self.schema.sparse_fields
                if field.column in columns.column_names
            }
            unknown = unknown_values(self.schema, inputs.sparse.numpy(), missing) | elements
            yield ScoredRows(rows, predictions, unknown, bad)
        warn_of_absent(absent, count)

    def _predicted(self, read: ReadRows) -> dict[str, np.ndarray]:
        return self._predicted_of(served_inputs(read, self._histories))

    def _predicted_of(self, inputs: Inputs) -> dict[str, np.ndarray]:
        logits = score_tasks(self._scorer, inputs, batch_size=self.batch_size)
        return {task.name: task.predicted(logits) for task in self.tasks}

    def _item_scorer(self, items: EncodedArrays) -> ItemLogits:
        return ItemLogits(items, self._scorer, batch_size=self.batch_size)

    def _predicted_by(self, logits: np.ndarray) -> np.ndarray:
        return self.tasks[0].predicted({"": logits})

    @cached_property
    def _scorer(self) -> BaseCTRModel | Members:
        """The model for evaluation only."""
        return self.model.frozen() if isinstance(self.model, Members) else frozen(self.model)

    def _text_options(self, path: AnyPath) -> TextOptions:
        """How a file is to be read."""
        table = self._source
        if table is None or format_of(path).is_typed:
            return {}
        options: TextOptions = {}
        ending, trained = file_ending(path), set(map(file_ending, table.files))
        if ending not in (".csv", ".tsv") or trained & {ending, ARCHIVE}:
            options = {"delimiter": table.delimiter, "encoding": table.encoding}
        if not table.columns:
            if not isinstance(path, Path) or path.is_file():  # a pipe can be read once
                self._refuse_no_header(path, first_line(path, options))
            return options
        cells = first_line(path, options)
        if is_header(cells, table.columns):
            return options
        unlabelled = [name for name in table.columns if name not in self._label_columns]
        is_unlabelled = len(cells) == len(unlabelled) < len(table.columns)
        options["columns"] = unlabelled if is_unlabelled else table.columns
        return options

    def _refuse_no_header(self, path: AnyPath, cells: list[str]) -> None:
        """Refuse a first line that names no column of the model and looks like a row.

        Raises:
            DataError: It does.
        """
        needed = [name for field in self.schema.fields.values() for name in field.raw_columns]
        if not set(needed) & set(cells) and (hint := without_header(cells)):
            raise DataError(
                f"no column {needed[0]!r}{hint} of the table that the model is trained on, or put "
                "a line with the names above the rows",
                place=Place(file=str(path), line=1),
            )


def _kept_row(rows: Rows, kept: np.ndarray, index: int) -> Place:
    """Where a row of those that are kept of a file stands."""
    return rows.place(int(kept[index]))
