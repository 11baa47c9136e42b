"""A trained model without torch: what `deepfm export` wrote, by ONNX Runtime.

It needs NumPy, pyarrow, xxhash and onnxruntime, and reads raw rows by the very code that
`deepfm.prediction.Predictor` reads them with.

Shapes: N rows, C classes, D items.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepfm.data.encoding.arrays import EncodedArrays
from deepfm.data.schema import DatasetSchema
from deepfm.data.served_rows import ReadRows
from deepfm.errors import CheckpointError
from deepfm.exported.files import Exported, read_exported
from deepfm.exported.layout import ITEM, PAIR, ROWS, USER, ExportedTask, InputLayout
from deepfm.served_engine import ServedEngine
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


class Runtime(ServedEngine):
    """An engine as `deepfm.prediction.Predictor` is one, from an exported directory.

    Threads may share it. See `load`.
    """

    tasks: tuple[ExportedTask, ...]

    def __init__(self, folder: Path, exported: Exported, threads: int | None = None) -> None:
        super().__init__(
            exported.encoders,
            exported.tables,
            exported.interactions,
            exported.events,
            exported.tasks,
        )
        self._graphs = {
            name: _Graph(folder / of["file"], of, threads)
            for name, of in exported.signature["graphs"].items()
        }
        self._layout = InputLayout(self.schema)

    def _predicted(self, read: ReadRows) -> dict[str, np.ndarray]:
        outputs = [task.output for task in self.tasks]
        parts = []
        for start in range(0, read.arrays.num_rows, ROWS_AT_ONCE):
            some = slice(start, start + ROWS_AT_ONCE)
            arrays = read.arrays.select(some)
            if read.seen is not None:
                assert self._histories is not None
                arrays = self._histories.added(arrays, read.seen.select(some))
            parts.append(self._graphs[ROWS].run(self._layout.given(arrays), outputs))
        if not parts:
            return {task.name: np.zeros(_shape(task)) for task in self.tasks}
        whole = (np.concatenate(of_task) for of_task in zip(*parts, strict=True))
        return {task.name: of for task, of in zip(self.tasks, whole, strict=True)}

    def _item_scorer(self, items: EncodedArrays) -> "_ItemScorer":
        return _ItemScorer(self._graphs, self._layout, self.schema, items)

    def _predicted_by(self, logits: np.ndarray) -> np.ndarray:
        if self.tasks[0].predicts_logit:
            return logits
        found: np.ndarray = np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))  # sigmoid
        return found


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
