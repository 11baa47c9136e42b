"""The seam between training and prediction: checkpoint files and the run directory.

A checkpoint is one file of tensors and plain data. It is written to a temporary name, synced and
renamed, so a file under its final name is always whole; it is read with `weights_only=True`, so
reading one never runs code.
"""

import json
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import torch
import yaml
from torch import Tensor

from deepfm.config import ExperimentConfig, config_from_dict
from deepfm.data.sampling import Interactions
from deepfm.data.transforms import Encoders
from deepfm.errors import CheckpointError, ConfigError, DeepFMError
from deepfm.models import build_model
from deepfm.models.base import BaseCTRModel
from deepfm.utils.io import atomic_write_bytes, atomic_writer

FORMAT_VERSION = 1
RESUMABLE_CHANGES = ("training.epochs", "output_dir", "device")


@dataclass
class Checkpoint:
    """All that prediction needs, and with `training` all that training needs to go on.

    Attributes:
        config: The experiment.
        encoders: Fitted on its training split.
        users, items: The raw user and item tables, in the order of their positions.
        history: Every pair of the data set, as (user position, item position).
        model: Weights by name.
        training: A `TrainingState` as plain data; None in `best_model.pt`.
    """

    config: ExperimentConfig
    encoders: Encoders
    users: pa.Table
    items: pa.Table
    history: Interactions
    model: dict[str, Tensor]
    training: dict[str, Any] | None = None

    def build_model(self) -> BaseCTRModel:
        """The model with its weights, on the CPU, in evaluation mode."""
        model = build_model(self.encoders.schema, self.config)
        try:
            model.load_state_dict(self.model)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"the weights do not fit the checkpoint's schema: {reason}"
            ) from None
        return model.eval()

    def save(self, path: Path) -> None:
        """Write atomically.

        Raises:
            DeepFMError: The file cannot be written; what was there before is untouched.
        """
        content = {
            "format": "deepfm checkpoint",
            "format_version": FORMAT_VERSION,
            "config": self.config.to_dict(),
            "encoders": self.encoders.to_dict(),
            "users": _table_to_tensor(self.users),
            "items": _table_to_tensor(self.items),
            "history": torch.from_numpy(self.history.pairs),
            "model": self.model,
            "training": self.training,
        }
        with atomic_writer(path) as file:
            torch.save(content, file)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint without running anything that stands in it.

    Raises:
        CheckpointError: The file is missing, damaged, no checkpoint, of a newer format, or
            carries code.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise CheckpointError(f"{path}: not a checkpoint of deepfm, or cut short")
            with zipfile.ZipFile(file) as records:
                if damaged := records.testzip():  # compares checksums, which torch does not
                    raise CheckpointError(f"{path}: damaged: {damaged} has another checksum")
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: refused: it is no checkpoint of plain data (damaged, or it carries code)"
        ) from None
    except CheckpointError:
        raise
    except Exception as error:  # damaged bytes fail in a dozen ways, from IndexError to zlib.error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{path}: damaged: {reason}") from None
    if not isinstance(content, dict) or content.get("format") != "deepfm checkpoint":
        raise CheckpointError(f"{path}: not a checkpoint of deepfm")
    if content.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: checkpoint format {content.get('format_version')}, this release reads "
            f"{FORMAT_VERSION}; update deepfm"
        )
    try:
        users, items = (_tensor_to_table(content[key]) for key in ("users", "items"))
        user, item = content["history"].numpy()
        return Checkpoint(
            config=config_from_dict(content["config"]),
            encoders=Encoders.from_dict(content["encoders"]),
            users=users,
            items=items,
            history=Interactions(user, item, num_users=len(users), num_items=len(items)),
            model=content["model"],
            training=content["training"],
        )
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ConfigError,
        pa.ArrowException,
    ) as e:
        raise CheckpointError(f"{path}: damaged: {type(e).__name__}: {e}") from None


class RunDirectory:
    """The files of one run; each is written whole or not at all."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.log = self.path / "train.log"
        self.history = self.path / "history.jsonl"
        self.metrics = self.path / "metrics.json"
        self.predictions = self.path / "predictions.parquet"
        self.ranks = self.path / "ranks.parquet"
        self.best = self.path / "best_model.pt"
        self.last = self.path / "last.pt"

    @property
    def trace(self) -> Path:
        """What `--profile` leaves; no part of a run."""
        return self.path / "trace.json"

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(value for key, value in vars(self).items() if key != "path")

    def check(
        self, config: ExperimentConfig, *, resume: bool, overwrite: bool
    ) -> Checkpoint | None:
        """The checkpoint to resume from, if any; nothing is written.

        Raises:
            ConfigError: The directory holds a run and neither flag is given, or the run to be
                resumed has another config.
        """
        held = [file for file in self.files if file.exists()]
        if held and not (resume or overwrite):
            raise ConfigError(
                f"{self.path} holds a run already; --resume continues it, --overwrite replaces "
                "it, --override output_dir=… writes elsewhere"
            )
        if not resume or not self.last.exists():
            return None
        checkpoint = load_checkpoint(self.last)
        changed = changed_keys(checkpoint.config, config, allowed=RESUMABLE_CHANGES)
        if changed:
            raise ConfigError(
                f"{self.path}: --resume needs the config that the run began with; changed: "
                + ", ".join(changed)
            )
        return checkpoint

    def make(self) -> None:
        """Make the directory, if it is not there.

        Raises:
            DeepFMError: The disk refuses.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DeepFMError(f"{self.path}: cannot be written: {error.strerror}") from None

    def prepare(self, config: ExperimentConfig, *, keep: bool) -> None:
        """Make the directory, remove an earlier run's files unless `keep`, write the config.

        Temporary files that a killed run left behind are removed too.

        Raises:
            DeepFMError: The directory cannot be written.
        """
        self.make()
        try:
            for file in (*self.path.glob(".*.tmp"), *(() if keep else self.files)):
                file.unlink(missing_ok=True)
        except OSError as error:
            raise DeepFMError(f"{self.path}: cannot be written: {error.strerror}") from None
        text = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
        atomic_write_bytes(self.config, text.encode())

    def write_json(self, path: Path, content: Any) -> None:
        atomic_write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())

    def write_history(self, history: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(entry) + "\n" for entry in history)
        atomic_write_bytes(self.history, lines.encode())

    def write_table(self, path: Path, table: pa.Table) -> None:
        with atomic_writer(path) as file:
            pyarrow.parquet.write_table(table, file)


def changed_keys(
    old: ExperimentConfig, new: ExperimentConfig, *, allowed: tuple[str, ...]
) -> list[str]:
    """The dotted keys whose values differ, with both values, but for those allowed to.

    An allowed name stands for a key and for everything below it.
    """
    before, after = flatten(old.to_dict()), flatten(new.to_dict())
    return [
        f"{key} ({before.get(key)!r} -> {after.get(key)!r})"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
        and not any(key == name or key.startswith(f"{name}.") for name in allowed)
    ]


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        path = f"{prefix}{key}"
        flat |= flatten(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return flat


def _table_to_tensor(table: pa.Table) -> Tensor:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return torch.frombuffer(bytearray(sink.getvalue()), dtype=torch.uint8)


def _tensor_to_table(tensor: Tensor) -> pa.Table:
    table = pa.ipc.open_stream(pa.py_buffer(tensor.numpy())).read_all()
    table.validate(full=True)
    return table
