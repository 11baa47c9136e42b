"""The seam between training and prediction: checkpoint files and the run directory.

A checkpoint is one file of tensors and plain data. It is written to a temporary name, synced and
renamed, so a file under its final name is always whole; it is read with `weights_only=True`, so
reading one never runs code.
"""

import contextlib
import csv
import io
import json
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet
import torch
import yaml
from torch import Tensor

from deepfm.config import ExperimentConfig, config_from_dict
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.encoding.registry import ID_ENCODERS
from deepfm.data.fingerprint import Fingerprint
from deepfm.data.last_events import LastEvents
from deepfm.data.sampling import Interactions
from deepfm.data.schema import LEARNT, DatasetSchema
from deepfm.easyrec.names import DROPOUT_COLUMNS, dropout_file
from deepfm.errors import CheckpointError, ConfigError, DeepFMError, shown
from deepfm.evaluation.calibration import Calibration, calibration_from_plain
from deepfm.format_versions import FORMAT_VERSION, READABLE_VERSIONS, current_schema
from deepfm.models import build_model
from deepfm.models.base import BaseCTRModel
from deepfm.models.features import GROUPS
from deepfm.utils.io import (
    arrays_as_tensors,
    atomic_write_bytes,
    atomic_writer,
    make_directory,
    table_to_tensor,
    tensor_to_table,
)
from deepfm.utils.locks import HeldElsewhere, SoleLock
from deepfm.utils.places import AnyPath, fetched, path_of
from deepfm.utils.slices import SlicedTensor, forget_slices, open_slices, put_back
from deepfm.utils.workers import Workers

RESUMABLE_CHANGES = (
    "training.epochs", "training.max_steps", "training.log_every_steps",
    "training.checkpoint_every_steps", "training.threads", "training.report", "training.trackers",
    "output_dir", "device", "distributed", "data.auto_download", "data.store_dir", "data.verify",
    "feature.storage",
)  # fmt: skip
# Where files are may change too, if the checkpoint knows their content.
_PLACES = (
    "data.data_dir", "data.table.files", "data.table.valid_files", "data.table.test_files",
    "data.table.users.files", "data.table.items.files", "data.candidates.files",
)  # fmt: skip
# What a warm start may change: all but the network. Dims of fields are compared in the schema.
WARM_START_CHANGES = (
    "seed", "device", "output_dir", "data", "training", "evaluation", "dnn.dropout",
    "feature.init", "feature.wide_init", "feature.embedding_dims", "feature.embedding_l2_reg",
    "feature.embedding_l2_scope", "feature.storage", "distributed",
)  # fmt: skip
WARM_START_TASK_CHANGES = (
    "label", "losses", "weight", "metrics", "train_metrics", "sample_weight", "space",
    "in_space_weight", "out_space_weight",
)  # fmt: skip
# What its fields may change: the size of a vocabulary, which values enter it, and what becomes of
# its table. Whether declared ids still mean the same is for the encoders to say.
_FREE_IN_A_FIELD = (
    *LEARNT, "bad_values", "column", "group", "default", "init", "trainable",
    *(key for encoder in ID_ENCODERS for key in encoder.free_settings),
)  # fmt: skip


@dataclass
class Checkpoint:
    """All that prediction needs, and with `training` all that training needs to go on.

    Attributes:
        config: The experiment.
        encoders: Fitted on its training split.
        users, items: The raw user and item tables, in the order of their positions; None for
            data without them.
        history: Every pair of the data set, as (user position, item position); None for data
            without a ranking task.
        model: Weights by name.
        training: A `TrainingState` as plain data; None in `best_model.pt`.
        fingerprint: What the raw data was, by content; None of an earlier release.
        calibration: Maps that are applied to its logits last, by task; training drops them.
        events: The newest events of each user; None of a model without histories.
        estimator: What a scikit-learn estimator says of itself, as plain data; None of a run.
    """

    config: ExperimentConfig
    encoders: Encoders
    users: pa.Table | None
    items: pa.Table | None
    history: Interactions | None
    model: dict[str, Tensor]
    training: dict[str, Any] | None = None
    fingerprint: Fingerprint | None = None
    calibration: Mapping[str, Calibration] = field(default_factory=dict)
    events: LastEvents | None = None
    estimator: dict[str, Any] | None = None

    def build_model(self) -> BaseCTRModel:
        """The model with its weights, on the CPU, in evaluation mode."""
        self._refuse_misfits()
        model = build_model(self.encoders.schema, self._to_use())
        try:
            model.load_state_dict(self.model)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"the weights do not fit the checkpoint's schema: {reason}"
            ) from None
        return model.eval()

    def _to_use(self) -> ExperimentConfig:
        """The config of a model that this process holds as a whole, whoever trained it."""
        feature = replace(self.config.feature, storage="packed")
        return replace(self.config, model=replace(self.config.model, feature=feature))

    def _refuse_misfits(self) -> None:
        """Compare shapes before anything is allocated, which a false config may make any size of.

        Raises:
            CheckpointError: The weights are not those of such a model.
        """
        try:
            with torch.device("meta"):
                expected = build_model(self.encoders.schema, self._to_use()).state_dict()
        except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"the checkpoint's model cannot be built: {reason}") from None
        for name in expected.keys() | self.model.keys():
            one, other = (tensors.get(name) for tensors in (expected, self.model))
            if one is None or other is None or one.shape != other.shape:
                shapes = ["missing" if t is None else str(tuple(t.shape)) for t in (one, other)]
                raise CheckpointError(
                    f"the weights do not fit the checkpoint's schema: {name} is {shapes[1]}, "
                    f"expected {shapes[0]}"
                )

    def save(self, path: Path, *, slices: tuple[str, str] | None = None) -> None:
        """Write atomically.

        Args:
            slices: The folder beside it that holds tensors which are not here, and the checksum
                of its manifest.

        Raises:
            DeepFMError: The file cannot be written; what was there before is untouched.
        """
        with atomic_writer(path) as file:
            torch.save(self._content() | ({"slices": slices} if slices else {}), file)

    def to_bytes(self) -> bytes:
        """The bytes of its file; `checkpoint_of_bytes` is the inverse."""
        file = io.BytesIO()
        torch.save(self._content(), file)
        return file.getvalue()

    def _content(self) -> dict[str, Any]:
        return {
            "format": "deepfm checkpoint",
            "format_version": FORMAT_VERSION,
            "config": self.config.to_dict(),
            "encoders": arrays_as_tensors(self.encoders.to_dict()),
            "users": None if self.users is None else table_to_tensor(self.users),
            "items": None if self.items is None else table_to_tensor(self.items),
            "history": None if self.history is None else torch.from_numpy(self.history.pairs),
            "model": {
                name: weight[:] if isinstance(weight, SlicedTensor) else weight
                for name, weight in self.model.items()
            },
            "training": self.training,
            "fingerprint": None if self.fingerprint is None else self.fingerprint.to_plain(),
            "calibration": {task: found.to_plain() for task, found in self.calibration.items()},
            "events": None if self.events is None else self.events.to_plain(),
            "estimator": self.estimator,
        }


def load_checkpoint(path: str | AnyPath) -> Checkpoint:
    """Read a checkpoint, of a path or a URI, without running anything that stands in it.

    Raises:
        CheckpointError: The file is missing, damaged, no checkpoint, of a newer format, or
            carries code.
    """
    path = path_of(path)
    try:
        with fetched(path) as file:
            return _checkpoint(file, str(path), path.parent if isinstance(path, Path) else None)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None


def checkpoint_of_bytes(data: bytes, name: str) -> Checkpoint:
    """What `load_checkpoint` does, of the bytes of a file.

    Args:
        name: What errors call them.
    """
    return _checkpoint(io.BytesIO(data), name)


def _checkpoint(file: BinaryIO, path: str, folder: Path | None = None) -> Checkpoint:
    """A checkpoint, with the slices that stand in the folder of its file."""
    content = _read(file, path)
    if not isinstance(content, dict) or content.get("format") != "deepfm checkpoint":
        raise CheckpointError(f"{path}: not a checkpoint of deepfm")
    if content.get("format_version") not in READABLE_VERSIONS:
        raise CheckpointError(
            f"{path}: checkpoint format {content.get('format_version')}, this release reads "
            f"{' and '.join(map(str, READABLE_VERSIONS))}; update deepfm"
        )
    try:
        if (named := content.get("slices")) is not None:
            if folder is None:
                raise CheckpointError(f"{path}: its slices stand in {named[0]}, which is not here")
            for at, tensor in open_slices(folder / Path(named[0]).name, named[1]):
                put_back(content, at, tensor)
        return _from_content(content)
    except CheckpointError:
        raise
    except Exception as e:  # content of another kind fails in a dozen ways, too
        raise CheckpointError(f"{path}: damaged: {type(e).__name__}: {e}") from None


def _read(file: BinaryIO, path: str) -> object:
    """What stands in a file of tensors and plain data."""
    try:
        if not zipfile.is_zipfile(file):
            raise CheckpointError(f"{path}: not a checkpoint of deepfm, or cut short")
        with zipfile.ZipFile(file) as records:
            if damaged := records.testzip():  # compares checksums, which torch does not
                raise CheckpointError(f"{path}: damaged: {damaged} has another checksum")
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)
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


def _from_content(content: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint of what stood in its file; content of another kind fails in several ways."""
    users, items = (
        None if content[key] is None else tensor_to_table(content[key])
        for key in ("users", "items")
    )
    history = None
    if content["history"] is not None:
        if users is None or items is None:
            raise TypeError("the history counts users and items, and there are none")
        user, item = content["history"].numpy()
        history = Interactions(user, item, num_users=len(users), num_items=len(items))
    if not isinstance(content["training"], dict | None):
        raise TypeError("the state of training is no mapping")
    if not isinstance(content.get("estimator"), dict | None):  # older releases have none
        raise TypeError("what an estimator says of itself is no mapping")
    encoders, plain = dict(content["encoders"]), content.get("fingerprint")
    calibration = content.get("calibration", {})  # older releases have none
    encoders["schema"] = current_schema(encoders["schema"], content["format_version"])
    read, events = Encoders.from_dict(encoders), content.get("events")
    return Checkpoint(
        config=config_from_dict(_with_precision(content["config"])),
        encoders=read,
        users=users,
        items=items,
        history=history,
        model=_checked_weights(content["model"]),
        training=content["training"],
        fingerprint=None if plain is None else Fingerprint.from_plain(plain),
        calibration={task: calibration_from_plain(of) for task, of in calibration.items()},
        events=None if events is None else LastEvents.from_plain(events, read.schema),
        estimator=content.get("estimator"),
    )


def _with_precision(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a checkpoint, those of earlier releases with the precision that they had."""
    if not isinstance(training := config.get("training"), Mapping):
        return dict(config)
    return {**config, "training": {"precision": "fp32", **training}}


def _checked_weights(weights: object) -> dict[str, Tensor]:
    """Weights by name, all of them finite.

    Raises:
        TypeError: They are something else.
        ValueError: One is NaN or infinite.
    """
    if not isinstance(weights, dict):
        raise TypeError(f"expected weights by name, found {shown(weights)}")
    for name, weight in weights.items():
        if isinstance(name, str) and isinstance(weight, SlicedTensor):
            continue  # which looks at what it reads
        if not isinstance(name, str) or not isinstance(weight, Tensor):
            raise TypeError(f"expected a weight, found {shown(weight)} as {shown(name)}")
        if weight.is_floating_point() and not weight.sum().isfinite() and not _is_finite(weight):
            raise ValueError(f"{name} has a weight that is NaN or infinite")
    return weights


def _is_finite(weight: Tensor) -> bool:
    """Whether all numbers are, which costs memory; the sum of such can be infinite, too."""
    return bool(weight.isfinite().all())


def check_same_network(base: ExperimentConfig, config: ExperimentConfig) -> None:
    """Refuse a config whose model is another one than that of the checkpoint to start from.

    Raises:
        ConfigError: Names every key that differs, with both values.
    """
    of_tasks = [f"tasks.{name}.{key}" for name in base.tasks for key in WARM_START_TASK_CHANGES]
    if changed := changed_keys(base, config, allowed=(*WARM_START_CHANGES, *of_tasks)):
        raise ConfigError(
            "--init-from needs the model that the checkpoint was trained as; changed: "
            + ", ".join(changed)
        )
    before, after = base.label_rules(), config.label_rules()
    for name in before.keys() & after.keys():
        if (was := before[name].standardize) != after[name].standardize:
            raise ConfigError(
                f"--init-from needs it as the checkpoint was trained, which is {str(was).lower()}",
                key=f"data.table.labels.{name}.standardize",
            )


def check_same_fields(base: DatasetSchema, schema: DatasetSchema) -> None:
    """Refuse fields whose weights would mean something else than in the checkpoint to start from.

    Raises:
        CheckpointError: Names every field that differs, with both values.
    """
    before, after = ({f.name: asdict(f) for f in s.fields.values()} for s in (base, schema))
    problems = [f"field {name} is not in the checkpoint" for name in after.keys() - before.keys()]
    problems += [f"field {name} is only in the checkpoint" for name in before.keys() - after.keys()]
    problems += [
        f"field {name}: {key} ({before[name][key]} -> {value})"
        for name in after.keys() & before.keys()
        for key, value in after[name].items()
        if key not in _FREE_IN_A_FIELD and before[name][key] != value
    ]
    if not problems and list(before) != list(after):
        problems = [f"the fields stand in another order ({', '.join(before)})"]
    if problems:
        raise CheckpointError(
            "--init-from needs the fields that the checkpoint was trained with: "
            + "; ".join(sorted(problems))
        )


def transfer(model: BaseCTRModel, checkpoint: Checkpoint) -> None:
    """Give a model the weights of a checkpoint whose vocabularies its own have grown from.

    The first rows of each table become those of the checkpoint; the others, of new values, stay
    as the model was initialized. All else, the statistics of batch norm included, is taken over.

    Raises:
        CheckpointError: The weights do not fit; the model is as it was.
    """
    check_same_fields(checkpoint.encoders.schema, model.schema)
    stored = model.embedding.tables
    tables = {f"embedding.tables.{name}.weight": name for name in stored.logical}
    own, saved = model.state_dict(), checkpoint.model
    problems = [f"{name} is missing" for name in own.keys() - saved.keys()]
    problems += [f"{name} is unknown" for name in saved.keys() - own.keys()]
    for name in own.keys() & saved.keys():
        before, after = saved[name].shape, own[name].shape
        if name in tables:  # of which this process may hold a part
            after = torch.Size(stored.logical[tables[name]].shape)
        grown = name in tables and before[0] <= after[0] and before[1:] == after[1:]
        if not grown and before != after:
            problems.append(f"{name} has the shape {tuple(before)}, not {tuple(after)}")
    if problems:
        raise CheckpointError(
            "the checkpoint's weights do not fit the model: " + ", ".join(sorted(problems))
        )
    for name, weight in own.items():
        if name in tables:
            known = stored.own_part(tables[name], saved[name])
            weight[: len(known)].copy_(known)
        else:
            weight.copy_(saved[name])


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
        self.environment = self.path / "environment.json"
        self.report = self.path / "report.html"
        self.best = self.path / "best_model.pt"
        self.last = self.path / "last.pt"

    @property
    def trace(self) -> Path:
        """What `--profile` leaves; no part of a run."""
        return self.path / "trace.json"

    @property
    def dropout_ratios(self) -> dict[str, Path]:
        """What variational dropout learned, by feature group; not every run has it."""
        return {group: self.path / dropout_file(group) for group in GROUPS}

    @property
    def files(self) -> tuple[Path, ...]:
        """What every run has, or may have."""
        return (
            self.config, self.log, self.history, self.metrics, self.predictions, self.ranks,
            self.best, self.last, self.environment, self.report,
        )  # fmt: skip

    def check(
        self, config: ExperimentConfig, *, resume: bool, overwrite: bool
    ) -> Checkpoint | None:
        """The checkpoint to resume from, if any; nothing is written.

        Raises:
            ConfigError: The directory holds a run and neither flag is given, or the run to be
                resumed has another config or no `last.pt`.
        """
        # What a start leaves that failed before it saved anything is no run.
        kept = [file for file in self.files if file not in self._of_the_start]
        held = [file for file in kept if os.path.exists(file)]
        if held and not (resume or overwrite):
            raise ConfigError(
                f"{self.path} holds a run already; --resume continues it, --overwrite replaces "
                "it, --override output_dir=… (of a pipeline: model_dir=…) writes elsewhere"
            )
        if not resume or not held:
            return None
        if self.last not in held:
            raise ConfigError(
                f"{self.path}: --resume needs last.pt, which is missing beside "
                f"{', '.join(file.name for file in held)}; --overwrite starts anew"
            )
        checkpoint = load_checkpoint(self.last)
        allowed: tuple[str, ...] = RESUMABLE_CHANGES
        if checkpoint.fingerprint is not None:
            names = () if config.data.table is None else config.data.table.fields
            words = (f"data.table.fields.{name}.vocabulary_file" for name in names)
            allowed = (*allowed, *_PLACES, *words)
        config = settled_as(config, checkpoint.config)
        changed = changed_keys(checkpoint.config, config, allowed=allowed)
        if changed:
            raise ConfigError(
                f"{self.path}: --resume needs the config that the run began with; changed: "
                + ", ".join(changed)
            )
        return checkpoint

    @property
    def _of_the_start(self) -> tuple[Path, ...]:
        return (self.config, self.log)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Within this context no other process trains into the directory, which is made.

        If it was not there and is left empty, it is removed again.

        Raises:
            ConfigError: Another process trains into it.
            DeepFMError: The disk refuses.
        """
        is_new = not os.path.exists(self.path)  # also of a name that no disk holds
        self.make()
        try:
            lock = SoleLock(self.path / ".lock")
        except HeldElsewhere as error:
            raise ConfigError(
                f"{self.path}: process {error.process or '(unknown)'} trains into it; wait until "
                "it has ended, or write elsewhere with --override output_dir=…"
            ) from None
        except OSError as error:
            raise DeepFMError(
                f"{self.path}: cannot be written: {error.strerror or error}"
            ) from None
        try:
            yield
        finally:
            lock.release()
            if is_new:
                with contextlib.suppress(OSError):  # it holds something
                    self.path.rmdir()

    def make(self) -> None:
        """Make the directory, if it is not there.

        Raises:
            DeepFMError: The disk refuses.
        """
        make_directory(self.path, f"{self.path}: cannot be written")

    def refuse_unless_shared(self, workers: Workers) -> None:
        """Make sure that all hosts of a run see one directory, since they resume from it.

        Raises:
            ConfigError: One does not.
        """
        if not workers.are_on_several_hosts:
            return
        seen = self.path / ".seen-by-all-hosts"
        try:
            if workers.is_first:
                atomic_write_bytes(seen, b"")
            workers.wait()
            is_missing = workers.agree(int(not seen.exists()))
        finally:
            if workers.is_first:
                seen.unlink(missing_ok=True)
        if is_missing:
            raise ConfigError(
                f"{self.path.absolute()} is not one directory for all hosts, and each of them "
                "resumes from it; name one that they share",
                key="output_dir",
            )

    def prepare(self, config: ExperimentConfig, *, keep: bool) -> None:
        """Make the directory, remove an earlier run's files unless `keep`, write the config.

        Temporary files that a killed run left behind are removed too.

        Raises:
            DeepFMError: The directory cannot be written.
        """
        self.make()
        try:
            old = () if keep else (*self.files, *self.dropout_ratios.values())
            for file in (*self.path.glob(".*.tmp"), *old):
                file.unlink(missing_ok=True)
            if not keep:
                for file in (self.best, self.last):
                    forget_slices(file)
        except OSError as error:
            raise DeepFMError(f"{self.path}: cannot be written: {error.strerror}") from None
        text = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
        atomic_write_bytes(self.config, text.encode())

    def write_json(self, path: Path, content: Any) -> None:
        atomic_write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())

    def write_history(self, history: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(entry) + "\n" for entry in history)
        atomic_write_bytes(self.history, lines.encode())

    def write_dropout_ratios(self, group: str, ratios: Mapping[str, float]) -> None:
        """A CSV of drop probabilities by field, the most useful field first."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(DROPOUT_COLUMNS)
        for name in sorted(ratios, key=ratios.__getitem__):
            writer.writerow((name, ratios[name]))
        atomic_write_bytes(self.dropout_ratios[group], text.getvalue().encode())

    def write_table(self, path: Path, table: pa.Table) -> None:
        with atomic_writer(path) as file:
            pyarrow.parquet.write_table(table, file)


def settled_as(config: ExperimentConfig, before: ExperimentConfig) -> ExperimentConfig:
    """Return a config in which what it leaves to the machine is what a run began with."""
    settled: dict[str, Any] = {}
    for section in ("training", "evaluation"):
        now, then = getattr(config, section), getattr(before, section)
        if now.precision == "auto":
            settled[section] = replace(now, precision=then.precision)
    if config.training.threads is None:
        training = settled.get("training", config.training)
        settled["training"] = replace(training, threads=before.training.threads)
    return replace(config, **settled)


def changed_keys(
    old: ExperimentConfig, new: ExperimentConfig, *, allowed: tuple[str, ...]
) -> list[str]:
    """The dotted keys whose values differ, with both values, but for those allowed to.

    An allowed name stands for a key and for everything below it. Of two models only the sections
    that both have are compared, beside their names.
    """
    one, other = old.to_dict(), new.to_dict()
    shared = one.keys() & other.keys()
    before, after = (flatten({k: v for k, v in d.items() if k in shared}) for d in (one, other))
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
