"""The model that a worker answers with: read, warmed, with an example of a row."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from deepfm.data.served_rows import columns_read
from deepfm.engine import Engine
from deepfm.errors import DataError


class ServedModel(NamedTuple):
    """A model that is ready.

    Attributes:
        engine: Answers.
        version: A digest of its files.
        columns: What rows may bring.
        example: A row that it can read; None: none could be guessed.
        listed: A request for a list that it can answer; None: it makes none.
        kind: `torch` or `onnx`.
        loaded: When, in UTC.
    """

    engine: Engine
    version: str
    columns: frozenset[str]
    example: dict[str, Any] | None
    listed: dict[str, Any] | None
    kind: str
    loaded: str


def load(files: Sequence[Path], version: str, shared: Path) -> ServedModel:
    """Read and warm a model, so that its first request finds all that is made once.

    Args:
        files: Checkpoints, whose logits are averaged where there are several; or a directory that
            `deepfm export` wrote.
        version: A digest of their content.
        shared: Folder of the weights that workers share.

    Raises:
        CheckpointError: A checkpoint cannot be used.
    """
    kind = "onnx" if files[0].is_dir() else "torch"
    engine = _of_export(files[0]) if kind == "onnx" else _of_checkpoints(files, shared)
    example = _that_works(engine.example_row(), lambda row: engine.predict_counted([row]))
    listed = _that_works(engine.example_list(), lambda asked: engine.recommend(**asked))
    loaded = datetime.now(UTC).isoformat(timespec="seconds")
    read = frozenset(columns_read(engine.schema))
    return ServedModel(engine, version, read, example, listed, kind, loaded)


def _of_checkpoints(files: Sequence[Path], shared: Path) -> Engine:
    """Torch is imported here, so that a server of another engine needs none."""
    import torch

    from deepfm.evaluation.members import Members
    from deepfm.prediction import Predictor
    from deepfm.serving.shared_weights import map_large_weights

    torch.set_num_threads(1)  # workers are what uses the cores
    predictor = Predictor(list(files))
    model = predictor.model
    map_large_weights(model.models if isinstance(model, Members) else (model,), shared)
    return predictor


def _of_export(directory: Path) -> Engine:
    from deepfm.runtime import load as load_export

    return load_export(directory, threads=1)


def _that_works(
    guess: dict[str, Any] | None, tried: Callable[[dict[str, Any]], object]
) -> dict[str, Any] | None:
    """A guess that the engine can answer, which is warm then."""
    if guess is None:
        return None
    try:
        tried(guess)
    except DataError:
        return None
    return guess
