"""A trained model without torch: what `deepfm export` wrote, by ONNX Runtime.

It needs NumPy, pyarrow, xxhash and onnxruntime, and reads raw rows by the very code that
`deepfm.prediction.Predictor` reads them with.

Shapes: N rows, C classes, D items.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from deepfm.data.encoding.arrays import EncodedArrays
from deepfm.data.schema import DatasetSchema
from deepfm.data.served_counts import missing_values, unknown_values
from deepfm.data.served_histories import ServedHistories
from deepfm.data.served_rows import ReadRows, ServedRows, warn_of_absent
from deepfm.data.sources.rows_given import Given
from deepfm.engine import CountedPredictions, Recommendation, ScoredItem
from deepfm.errors import CheckpointError, DataError
from deepfm.exported.files import Exported, read_exported
from deepfm.exported.layout import ITEM, PAIR, ROWS, USER, ExportedTask, InputLayout
from deepfm.served_lists import ServedLists
from deepfm.utils.extras import needed

ROWS_AT_ONCE = 4096  # whose activations stay in the caches of a core


def load(
    directory: str | Path, *, threads: int | None = None, verify_weights: bool = False
) -> "Runtime":
    """Return what serves the model of a directory.

    Args:
        threads: Of a request; None: one per core.
        verify_weights: Compare the checksum of the weights, too, which reads all of them.

    Raises:
        CheckpointError: The directory is no export in ONNX, or damaged.
        ConfigError: ONNX Runtime is not installed.
    """
    folder = Path(directory)
    return Runtime(folder, read_exported(folder, verify_weights=verify_weights), threads)


class Runtime:
    """An engine as `deepfm.prediction.Predictor` is one, from an exported directory.

    Threads may share it. See `load`.
    """

    def __init__(self, folder: Path, exported: Exported, threads: int | None = None) -> None:
        self.encoders = exported.encoders
        self.schema: DatasetSchema = exported.encoders.schema
        self.tasks: tuple[ExportedTask, ...] = exported.tasks
        self._exported = exported
        self._histories: ServedHistories | None = None
        if self.schema.built_fields:
            if exported.events is None:
                raise CheckpointError(f"{folder}: lacks the events that its histories need")
            self._histories = ServedHistories(exported.events, self.schema)
        self._rows = ServedRows(self.encoders, exported.tables, self._histories)
        self._graphs = {
            name: _Graph(folder / of["file"], of, threads)
            for name, of in exported.signature["graphs"].items()
        }
        self._layout = InputLayout(self.schema)

    def predict(self, rows: Given) -> np.ndarray:
        """Return what `deepfm.prediction.Predictor.predict` does.

        Raises:
            DataError: The rows are in no form that is read, a column is missing that cannot be
                looked up, or a value cannot be read.
            ValueError: The model has several tasks.
        """
        found = self.predict_tasks(rows)
        if "" not in found:
            raise ValueError(f"the model has several tasks: {', '.join(found)}")
        return found[""]

    def predict_tasks(self, rows: Given) -> dict[str, np.ndarray]:
        """Return what `predict` does for a model of any number of tasks, by their names."""
        read = self._rows.read(rows)
        warn_of_absent(self._rows.absent(read.columns), read.arrays.num_rows)
        return self._predicted_tasks(read)

    def predict_counted(self, rows: Given) -> CountedPredictions:
        """Return what `deepfm.prediction.Predictor.predict_counted` does.

        Raises:
            DataError: As `predict` does.
        """
        read = self._rows.read(rows)
        predictions = self._predicted_tasks(read)
        columns: dict[str, np.ndarray] = {}
        for task in self.tasks:
            values = predictions[task.name]
            of_task = values.T if values.ndim == 2 else [values]
            columns |= dict(zip(task.prediction_names(), of_task, strict=True))
        missing = missing_values(self.schema, read)
        return CountedPredictions(columns, unknown_values(self.schema, read, missing), missing)

    def example_row(self) -> dict[str, object]:
        """A row that `predict` can read as far as can be known, without what it looks up."""
        return self._rows.example()

    def example_list(self) -> dict[str, object] | None:
        """Arguments that `recommend` can answer, as far as can be known; None: it ranks nothing."""
        try:
            return self._lists.example()
        except DataError:
            return None

    def context_columns(self) -> tuple[str, ...]:
        """The columns that the `context` of `recommend` may have; none, where it ranks nothing."""
        try:
            return self._lists.context.columns
        except DataError:
            return ()

    def _predicted_tasks(self, read: ReadRows) -> dict[str, np.ndarray]:
        """What is predicted for rows that are read."""
        count = read.arrays.num_rows
        outputs = [task.output for task in self.tasks]
        parts = []
        for start in range(0, count, ROWS_AT_ONCE):
            some = slice(start, start + ROWS_AT_ONCE)
            arrays = read.arrays.select(some)
            if read.seen is not None:
                assert self._histories is not None
                arrays = self._histories.added(arrays, read.seen.select(some))
            parts.append(self._run_rows(arrays, outputs))
        if not parts:
            return {task.name: np.zeros(_shape(task)) for task in self.tasks}
        whole = (np.concatenate(of_task) for of_task in zip(*parts, strict=True))
        return {task.name: of for task, of in zip(self.tasks, whole, strict=True)}

    def knows_user(self, user: object) -> bool:
        """Return whether the user stands in the user table.

        Raises:
            DataError: There are no items to rank.
        """
        return self._lists.knows_user(user)

    def recommend(
        self,
        user: object,
        *,
        top: int = 10,
        history: Sequence[object] | None = None,
        time: object = None,
        context: Mapping[str, object] | None = None,
        candidates: Sequence[object] | None = None,
        exclude: Collection[object] = (),
    ) -> list[Recommendation] | list[ScoredItem]:
        """Return what `deepfm.prediction.Predictor.recommend` does.

        Raises:
            DataError: As there.
        """
        return self._lists.recommend(
            user,
            top=top,
            history=history,
            time=time,
            context=context,
            candidates=candidates,
            exclude=exclude,
        )

    @cached_property
    def _lists(self) -> ServedLists:
        return ServedLists(
            self.encoders,
            self._exported.tables.items,
            self._exported.interactions,
            self.tasks,
            self._rows,
            self._histories,
            scorer=self._item_scorer,
            predicted=self._predicted,
        )

    def _item_scorer(self, items: EncodedArrays) -> "_ItemScorer":
        return _ItemScorer(self._graphs, self._layout, self.schema, items)

    def _predicted(self, logits: np.ndarray) -> np.ndarray:
        if self.tasks[0].predicts_logit:
            return logits
        return np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))  # sigmoid

    def _run_rows(self, arrays: EncodedArrays, outputs: Sequence[str]) -> list[np.ndarray]:
        return self._graphs[ROWS].run(self._layout.given(arrays), outputs)


class _Graph:
    """A graph of a directory.

    Args:
        signature: Its inputs and outputs.
    """

    def __init__(self, path: Path, signature: Mapping[str, Any], threads: int | None) -> None:
        ort = needed("onnxruntime", extra="onnx", wanted_by="deepfm.runtime")
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = threads or 0
        try:
            self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its classes of errors have no base of their own
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{path}: cannot be opened: {reason}") from None
        self._inputs = [one["name"] for one in signature["inputs"]]
        self._outputs: list[str] = signature["outputs"]

    def run(
        self, inputs: Sequence[np.ndarray], outputs: Sequence[str] | None = None
    ) -> list[np.ndarray]:
        """The outputs; None: all of them."""
        feed = dict(zip(self._inputs, inputs, strict=True))
        found: list[np.ndarray] = self._session.run(outputs or self._outputs, feed)
        return found


class _ItemScorer:
    """Logits of items: of halves where the export has them, else of whole rows."""

    def __init__(
        self,
        graphs: Mapping[str, _Graph],
        layout: InputLayout,
        schema: DatasetSchema,
        items: EncodedArrays,
    ) -> None:
        self._graphs, self._layout, self._items = graphs, layout, items
        self._own, self._users = (
            InputLayout(schema, groups) for groups in (("item",), ("user", "context"))
        )
        self._halves: list[np.ndarray] | None = None
        if PAIR in graphs:
            parts = [
                graphs[ITEM].run(self._own.given(items.select(slice(k, k + ROWS_AT_ONCE))))
                for k in range(0, items.num_rows, ROWS_AT_ONCE)
            ]
            self._halves = [np.concatenate(halves) for halves in zip(*parts, strict=True)]

    def logits(self, row: EncodedArrays, items: np.ndarray) -> np.ndarray:
        """Those of some items by their positions, (D,) float64."""
        found = np.empty(len(items))
        if self._halves is not None:
            user = self._graphs[USER].run(self._users.taken(row))
            for start in range(0, len(items), ROWS_AT_ONCE):
                some = slice(start, start + ROWS_AT_ONCE)
                halves = [half[items[some]] for half in self._halves]
                (found[some],) = self._graphs[PAIR].run([*user, *halves])
            return found
        for start in range(0, len(items), ROWS_AT_ONCE):
            some = slice(start, start + ROWS_AT_ONCE)
            found[some] = self.logits_of_rows(self._with_items(row, items[some]))
        return found

    def logits_of_rows(self, rows: EncodedArrays) -> np.ndarray:
        """Those of whole rows, (C,) float64."""
        (found,) = self._graphs[ROWS].run(self._layout.given(rows), ["logit"])
        return found

    def _with_items(self, row: EncodedArrays, items: np.ndarray) -> EncodedArrays:
        """The row, once with each item."""
        rows = row.select(np.zeros(len(items), np.int64))  # copies
        own = self._items.select(items)
        rows.sparse[:, self._own.sparse] = own.sparse
        rows.dense[:, self._own.dense] = own.dense
        ids, lengths = list(rows.sequence_ids), list(rows.sequence_lengths)
        for k, place in enumerate(self._own.sequences.tolist()):
            ids[place], lengths[place] = own.sequence_ids[k], own.sequence_lengths[k]
        return rows._replace(sequence_ids=tuple(ids), sequence_lengths=tuple(lengths))


def _shape(task: ExportedTask) -> tuple[int, ...]:
    """Of the predictions of no rows."""
    return (0, task.num_class) if task.num_class > 2 else (0,)
