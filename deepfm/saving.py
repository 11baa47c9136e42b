"""What a run saves while it trains: whole checkpoints, or what each process holds of them.

Decided here: tables that no process holds as a whole are gathered as long as they fit one file;
beyond that each process writes its own part of them, which needs a directory that all share.
"""

import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from deepfm.checkpoint import Checkpoint, RunDirectory
from deepfm.models.base import BaseCTRModel
from deepfm.training.gathering import sliced_state, sliced_weights, whole_state
from deepfm.training.trainer import TrainingState
from deepfm.utils.slices import Slice, folder_of, forget_slices, write_manifest, write_slices
from deepfm.utils.workers import Workers

LARGEST_FILE = 4 * 2**30  # bytes of tables that are gathered


class Saver:
    """Saves the states of a run; all processes call it together, and the first one writes.

    Args:
        run: Where.
        bundle: The checkpoint of weights, and of a state of training if one is given.
        model: In training.
        workers: Who trains it.

    Attributes:
        in_slices: Whether no file holds the tables as a whole.
    """

    def __init__(
        self,
        run: RunDirectory,
        bundle: Callable[[dict[str, Tensor], dict[str, Any] | None], Checkpoint],
        model: BaseCTRModel,
        workers: Workers,
    ) -> None:
        self._run, self._bundle, self._model, self._workers = run, bundle, model, workers
        tables = model.embedding.tables
        of_tables = sum(4 * table.rows * table.dim for table in tables.logical.values())
        self.in_slices = tables.capabilities.only_own_optimizers and of_tables > LARGEST_FILE

    def save(self, state: TrainingState, is_best: bool) -> None:
        """Write `last.pt`, and `best_model.pt` if its weights have just changed.

        Raises:
            DeepFMError: The disk refuses.
        """
        if self.in_slices:
            if is_best:  # first: what comes later is made again from what came before
                self._save_slices(self._run.best, *sliced_weights(state.best_model, self._model))
            plain, slices = sliced_state(state, self._model, self._workers)
            self._save_slices(self._run.last, plain["model"], slices, plain)
        else:
            plain = whole_state(state, self._model, self._workers)
            if not self._workers.is_first:
                return
            self._bundle(plain["model"], plain).save(self._run.last)
            forget_slices(self._run.last)
            self._save_best(plain["best_model"], is_best)
        if self._workers.is_first:
            self._run.write_history(state.history)

    def complete(self, state: TrainingState) -> None:
        """Write what a process that was killed wrote `last.pt` for, and no more."""
        if self._workers.is_first:
            tensors = (isinstance(weight, Tensor) for weight in state.best_model.values())
            self._save_best(state.best_model, bool(state.best_model) and all(tensors))
            self._run.write_history(state.history)

    def _save_best(self, weights: dict[str, Tensor], is_best: bool) -> None:
        if is_best:
            self._bundle(weights, None).save(self._run.best)
            forget_slices(self._run.best)

    def _save_slices(
        self,
        path: Path,
        weights: dict[str, Tensor],
        slices: list[Slice],
        training: dict[str, Any] | None = None,
    ) -> None:
        """Write the slices of all processes, then the manifest, then the checkpoint."""
        workers = self._workers
        folder = folder_of(path, workers.texts(secrets.token_hex(4))[0])
        told = workers.texts(json.dumps(write_slices(folder, workers.rank, slices)))
        if workers.is_first:
            digest = write_manifest(folder, [item for one in told for item in json.loads(one)])
            self._bundle(weights, training).save(path, slices=(folder.name, digest))
            forget_slices(path, keep=folder)
        workers.wait()
