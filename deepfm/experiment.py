"""The composition root: configuration to data, model, training, evaluation and files."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from deepfm.checkpoint import Checkpoint, RunDirectory, changed_keys, flatten, load_checkpoint
from deepfm.config import DataConfig, ExperimentConfig
from deepfm.data import ADAPTERS
from deepfm.data.dataset import Catalogue, NegativeSampling, RankingTask, TabularDataset
from deepfm.data.sampling import Interactions, draw_candidates
from deepfm.data.schema import DatasetSchema, RawTables
from deepfm.data.splits import Splits, leave_one_out
from deepfm.data.transforms import Encoders
from deepfm.errors import CheckpointError, ConfigError, DataError, nearest
from deepfm.evaluation.scoring import SHORT_RANKING, Evaluation, evaluate
from deepfm.models import build_model, find_model
from deepfm.training.profiling import Profile, profile
from deepfm.training.trainer import Trainer, TrainingState
from deepfm.utils.interrupt import catch_signals
from deepfm.utils.logging import LOGGER, RunLog
from deepfm.utils.seeding import generator

EVALUATION_CHANGES = ("data.data_dir", "data.auto_download", "evaluation", "output_dir", "device")


class Events(NamedTuple):
    """The interactions of a data set before encoding, as positions and labels, and their split."""

    tables: RawTables
    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    label: np.ndarray
    split: Splits


class ExperimentData(NamedTuple):
    """The three encoded splits of a data set, and what they were made from."""

    train: TabularDataset
    valid: TabularDataset
    test: TabularDataset
    encoders: Encoders
    events: Events
    history: Interactions


def load_data(config: ExperimentConfig, encoders: Encoders | None = None) -> ExperimentData:
    """Read, split, fit on the training split, encode.

    Args:
        config: Its `data`, `feature` and `evaluation` sections are used.
        encoders: Already fitted ones, of a checkpoint; they are used as they are.

    Raises:
        ConfigError: The data set is unknown, or settings contradict each other.
        DataError: The data is missing or not what its schema says.
        CheckpointError: The given encoders belong to another schema.
    """
    data = config.data
    if not data.num_neg_train and not data.explicit_negatives:
        raise ConfigError(
            "data.num_neg_train is 0 and data.explicit_negatives false: training would see no "
            "negative; change one of them"
        )
    adapter = _choose("data.dataset_name", data.dataset_name, ADAPTERS)
    schema = _with_dims(adapter.schema(), config.feature.embedding_dims)
    if encoders is not None and encoders.schema != _sized_like(schema, encoders.schema):
        raise CheckpointError(
            f"the checkpoint's schema is not that of {data.dataset_name} with these "
            f"feature.embedding_dims (its fields: {', '.join(encoders.schema.fields)})"
        )
    tables, user, item, _, label, split = events = _read_events(adapter, schema, data)

    columns = tables.complete(schema, tables.interactions)
    encoders = encoders or Encoders.fit(schema, columns.take(split.train))
    schema = encoders.schema
    catalogue = Catalogue.of(schema, encoders.encode(tables.items, group="item"))
    size = {"num_users": len(tables.users), "num_items": len(tables.items)}
    history = Interactions(user, item, **size)
    candidates = draw_candidates(
        max(data.num_neg_eval, SHORT_RANKING),
        history,
        generator(config.evaluation.candidate_seed, "candidates"),
    )

    def dataset(rows: np.ndarray, **extra: Any) -> TabularDataset:
        inputs = encoders.encode(columns.take(rows))
        return TabularDataset(schema, inputs, torch.from_numpy(label[rows]), row=rows, **extra)

    def held_out(rows: np.ndarray) -> TabularDataset:
        positive = np.flatnonzero(label[rows] > 0)
        ranked = rows[positive]
        items = np.column_stack([item[ranked], candidates[user[ranked]]])
        return dataset(rows, ranking=RankingTask(positive, items, data.num_neg_eval, catalogue))

    trained = split.train
    if not data.explicit_negatives:
        trained = trained[label[trained] > 0]
    if not len(trained):
        raise DataError(
            f"no training row has {schema.label_field} >= {data.label_threshold}: nothing to "
            "train on; lower data.label_threshold"
        )
    known = history
    if data.negative_exclusion == "train":
        known = Interactions(user[split.train], item[split.train], **size)
    negatives = NegativeSampling(data.num_neg_train, user[trained], known, catalogue)
    LOGGER.info(
        f"{data.dataset_name}: {len(user):,} interactions, {len(tables.users):,} users, "
        f"{len(tables.items):,} items; rows: {len(trained):,} train (+ {data.num_neg_train} "
        f"sampled negatives per positive), {len(split.valid):,} valid, {len(split.test):,} test"
    )
    return ExperimentData(
        dataset(trained, negatives=negatives),
        held_out(split.valid),
        held_out(split.test),
        encoders,
        events,
        history,
    )


def train(
    config: ExperimentConfig, *, resume: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Run an experiment into `config.output_dir` and return its metrics.

    Raises:
        ConfigError: A setting is wrong, or the directory holds a run and no flag is given.
        DeepFMError: Data, network or disk failed, or the loss became NaN.
        Interrupted: A signal arrived; the state is saved.
    """
    run = RunDirectory(config.output_dir)
    with RunLog() as run_log:
        device = resolve_device(config.device)
        find_model(config)  # a misspelt name should not cost a download
        checkpoint = run.check(config, resume=resume, overwrite=overwrite)
        data = load_data(config, checkpoint.encoders if checkpoint else None)
        model = build_model(data.encoders.schema, config)
        run.prepare(config, keep=resume)
        run_log.write_to(run.log)
        state = TrainingState(**checkpoint.training) if checkpoint else TrainingState()
        parameters = sum(parameter.numel() for parameter in model.parameters())
        LOGGER.info(
            f"{config.model_name} with {parameters:,} parameters on {device}, into {run.path}"
            + (f", resumed in epoch {state.epoch + 1} at step {state.step}" if checkpoint else "")
        )

        def bundle(weights: dict[str, torch.Tensor], training: Any = None) -> Checkpoint:
            tables = data.events.tables
            return Checkpoint(
                config, data.encoders, tables.users, tables.items, data.history, weights, training
            )

        def save(state: TrainingState, is_best: bool) -> None:
            if is_best:
                bundle(state.best_model).save(run.best)
            bundle(state.model, dict(vars(state))).save(run.last)
            run.write_history(state.history)

        trainer = Trainer(
            config.training,
            seed=config.seed,
            device=device,
            eval_batch_size=config.evaluation.batch_size,
        )
        with catch_signals() as received:
            state = trainer.fit(
                model,
                data.train,
                data.valid,
                state=state,
                save=save,
                should_stop=received,
                log=LOGGER.info,
            )
        LOGGER.info(
            f"best {config.training.metric} {state.best_value:.4f} in epoch {state.best_epoch}"
        )
        valid, test = (
            evaluate(model, split, batch_size=config.evaluation.batch_size)
            for split in (data.valid, data.test)
        )
        metrics = {"valid": valid.metrics, "test": test.metrics}
        run.write_table(run.predictions, _predictions(data.test, test))
        if test.counts is not None:
            run.write_table(run.ranks, _ranks(data.test, test))
        run.write_json(run.metrics, metrics)
        for line in format_metrics(metrics):
            LOGGER.info(line)
        return metrics


def profile_training(config: ExperimentConfig) -> Profile:
    """Where the time of a training step goes; a trace, and nothing else, in `config.output_dir`.

    Raises:
        ConfigError: A setting is wrong.
        DeepFMError: Data, network or disk failed, or the loss became NaN.
    """
    run = RunDirectory(config.output_dir)
    device = resolve_device(config.device)
    find_model(config)
    data = load_data(config)
    model = build_model(data.encoders.schema, config)
    trainer = Trainer(config.training, seed=config.seed, device=device)
    run.make()
    measured = profile(trainer, model, data.train, data.valid, trace=run.trace)
    for line in measured.lines():
        LOGGER.info(line)
    LOGGER.info(f"trace for ui.perfetto.dev or chrome://tracing: {run.trace}")
    return measured


def evaluate_checkpoint(
    path: str | Path, *, config: ExperimentConfig | None = None, split: str = "test"
) -> dict[str, Any]:
    """Metrics of a checkpoint on a split of the data that its config names.

    Args:
        path: A `best_model.pt` or `last.pt`.
        config: Replaces the checkpoint's, from which it may differ in `EVALUATION_CHANGES` only.
        split: `valid` or `test`.

    Raises:
        ConfigError: `config` changes more than it may.
        CheckpointError: The checkpoint cannot be used, or not with this data.
    """
    checkpoint = load_checkpoint(path)
    used = checkpoint.config
    if config is not None:
        if changed := changed_keys(used, config, allowed=EVALUATION_CHANGES):
            raise ConfigError(
                "--config may change data paths and evaluation only; it also changes "
                + ", ".join(changed)
            )
        used = config
    data = load_data(used, checkpoint.encoders)
    device = resolve_device("auto" if config is None else config.device)
    model = checkpoint.build_model().to(device)
    result = evaluate(model, getattr(data, split), batch_size=used.evaluation.batch_size)
    return {split: result.metrics}


def resolve_device(name: str) -> torch.device:
    """`auto` is MPS, then CUDA, then CPU, whichever is there first.

    Raises:
        ConfigError: The device is unknown or not on this machine.
    """
    available = {
        "mps": torch.backends.mps.is_available(),
        "cuda": torch.cuda.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(device for device, there in available.items() if there))
    if name not in available:
        raise ConfigError(f"device: unknown device {name!r}; {nearest(name, ['auto', *available])}")
    if not available[name]:
        raise ConfigError(f"device: no {name} on this machine; use auto or cpu")
    return torch.device(name)


def format_metrics(metrics: dict[str, Any]) -> list[str]:
    """The lines of a table with a column per split."""
    splits = list(metrics)
    flat = {split: flatten(metrics[split]) for split in splits}
    lines = [f"{'':<20}" + "".join(f"{split:>10}" for split in splits)]
    for name in flat[splits[0]]:
        values = [flat[split].get(name) for split in splits]
        cells = ("-" if v is None else str(v) if isinstance(v, int) else f"{v:.4f}" for v in values)
        lines.append(f"{name:<20}" + "".join(f"{cell:>10}" for cell in cells))
    return lines


def _read_events(adapter: Any, schema: DatasetSchema, data: DataConfig) -> Events:
    tables = adapter.load(Path(data.data_dir), auto_download=data.auto_download)
    rows = tables.interactions
    user, item = (
        tables.positions(schema, rows, group).to_numpy(zero_copy_only=False).astype(np.int64)
        for group in ("user", "item")
    )
    rating = rows[schema.label_field].to_numpy()
    label = (rating >= data.label_threshold).astype(np.float32)
    time = rows[schema.time_column].to_numpy()
    split = leave_one_out(user, time, min_interactions=data.min_interactions)
    return Events(tables, user, item, rating, label, split)


def _choose(key: str, name: str, choices: dict[str, Any]) -> Any:
    if name not in choices:
        raise ConfigError(f"{key}: unknown name {name!r}; {nearest(name, choices)}")
    return choices[name]


def _with_dims(schema: DatasetSchema, dims: dict[str, int]) -> DatasetSchema:
    for name in dims:
        if name not in schema.fields:
            hint = nearest(name, schema.fields)
            raise ConfigError(f"feature.embedding_dims: no field {name!r}; {hint}")
    return schema.with_fields({name: {"embedding_dim": dim} for name, dim in dims.items()})


def _sized_like(schema: DatasetSchema, fitted: DatasetSchema) -> DatasetSchema:
    """The schema with the vocabulary sizes of a fitted one."""
    return schema.with_fields(
        {
            name: {"vocabulary_size": fitted.fields[name].vocabulary_size}
            for name in schema.fields
            if name in fitted.fields
        }
    )


def _predictions(dataset: TabularDataset, result: Evaluation) -> pa.Table:
    return pa.table(
        {"row": dataset.row, "label": dataset.label.numpy(), "probability": result.probability}
    )


def _ranks(dataset: TabularDataset, result: Evaluation) -> pa.Table:
    """Per ranked row how many candidates stand above and beside the positive."""
    return pa.table(
        {
            "row": dataset.row[dataset.ranking.rows],
            "above": result.counts.above,
            "tied": result.counts.tied,
            "above_99": result.counts_99.above,
            "tied_99": result.counts_99.tied,
        }
    )
