"""The composition root: configuration to data, model, training, evaluation and files."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

import deepfm
from deepfm.checkpoint import (
    Checkpoint,
    RunDirectory,
    check_same_fields,
    check_same_network,
    flatten,
    load_checkpoint,
    settled_as,
    transfer,
)
from deepfm.config import ExperimentConfig
from deepfm.data import load
from deepfm.data.dataset import TabularDataset
from deepfm.data.declared import declared_schema
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.fingerprint import Fingerprint
from deepfm.data.load import ExperimentData
from deepfm.data.shards import refuse_other_shard
from deepfm.errors import CheckpointError, ConfigError, DataError
from deepfm.evaluation.base_rate import Verdict
from deepfm.evaluation.calibration_figures import INTERVAL
from deepfm.evaluation.ranking import SHORT_RANKING, hit_rate, ndcg, rank_counts
from deepfm.evaluation.references import REFERENCES, Training
from deepfm.evaluation.scoring import Evaluation, evaluate
from deepfm.evaluation.table_references import (
    reference_metrics,
    reported_of,
    table_references,
    title_of,
)
from deepfm.models import build_model, parameters_of
from deepfm.models.base import BaseCTRModel
from deepfm.objectives.tasks import prediction_columns
from deepfm.preflight import check_memory, check_settings, resolve_device, settle
from deepfm.saving import Saver
from deepfm.training.initial_bias import start_at_base_rate
from deepfm.training.profiling import Profile, profile
from deepfm.training.threads import settle_threads
from deepfm.training.trackers import Tracker, tracked
from deepfm.training.trainer import Trainer, TrainingState
from deepfm.utils.environment import Usage, machine
from deepfm.utils.interrupt import catch_signals
from deepfm.utils.logging import LOGGER, RunLog
from deepfm.utils.progress import working
from deepfm.utils.workers import ALONE, Workers


class Finished(NamedTuple):
    """A run that has just ended, with what its process still holds.

    Attributes:
        run: Its files, which are all written.
        config: As it was settled.
        data: All splits.
        model: With the weights that are kept.
        history: An entry per epoch.
        results: Evaluations by split.
        metrics: What stands in `metrics.json`.
        used: What it took.
    """

    run: RunDirectory
    config: ExperimentConfig
    data: ExperimentData
    model: BaseCTRModel
    history: list[dict[str, Any]]
    results: dict[str, Evaluation]
    metrics: dict[str, Any]
    used: Usage


def load_data(
    config: ExperimentConfig,
    encoders: Encoders | None = None,
    *,
    base: Encoders | None = None,
    expected: Fingerprint | None = None,
    may_be_part: bool = False,
) -> ExperimentData:
    """Return what `deepfm.data.load.load_data` does, for evaluation and a warm start too."""
    if base is not None:
        check_same_fields(base.schema, declared_schema(config))
    return load.load_data(
        config,
        encoders,
        base=base,
        candidates=SHORT_RANKING,
        expected=expected,
        may_be_part=may_be_part,
    )


def train(
    config: ExperimentConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    init_from: str | Path | None = None,
    with_optimizer: bool = False,
    validation_only: bool = False,
    trackers: Sequence[Tracker] = (),
    afterwards: Callable[[Finished], None] = lambda finished: None,
    workers: Workers = ALONE,
) -> dict[str, Any]:
    """Run an experiment into `config.output_dir` and return its metrics.

    Args:
        resume: Continue the run that stands there, if any.
        overwrite: Replace it.
        init_from: A checkpoint whose vocabularies and weights training starts from; values that
            it does not know get new rows, and the optimizer starts anew. A run that is resumed
            has its own checkpoint, and this one is not read.
        with_optimizer: Optimizers begin with the statistics of `init_from`, a `last.pt`; those of
            new values begin anew.
        validation_only: The test split is left alone: nothing of it is scored or reported.
        trackers: What is told of the run besides those of `training.trackers`.
        afterwards: Called last, while the data is still held.
        workers: Who runs the same experiment together, with the same arguments. The first one
            writes, and calls `afterwards`.

    Raises:
        ConfigError: A setting is wrong, the processes have different ones, or the directory holds
            a run and no flag is given.
        CheckpointError: `init_from` cannot be used, or has other fields.
        DeepFMError: Data, network or disk failed, the processes have different data, or the loss
            became NaN.
        Interrupted: A signal arrived; the state is saved.
    """
    run, begun = RunDirectory(config.output_dir), Usage.so_far()
    with RunLog() as run_log, ExitStack() as stack:
        if workers.is_first:
            stack.enter_context(run.locked())
        now = stack.enter_context(working("checking the settings"))
        device = workers.own_device(resolve_device(config.device))
        workers.refuse_unless_equal(
            json.dumps(config.to_dict(), default=str),
            lambda: ConfigError("the processes of the run have different settings"),
        )
        run.refuse_unless_shared(workers)
        check_settings(config)
        checkpoint = run.check(config, resume=resume, overwrite=overwrite)
        if checkpoint is not None:
            config = settled_as(config, checkpoint.config)
        config = settle(config, device)
        trackers = [*(item.build() for item in config.training.trackers), *trackers]
        base = load_checkpoint(init_from) if init_from and checkpoint is None else None
        statistics = _statistics(base, init_from) if with_optimizer and checkpoint is None else ()
        for path in _calibrated(run, checkpoint, init_from, base):
            LOGGER.warning(
                f"the calibration of {path} is dropped: it is of the weights as they are"
            )
        if base is not None:
            check_same_network(base.config, config)
        if checkpoint is not None and checkpoint.fingerprint is None:
            LOGGER.warning(
                f"{run.last} is of an earlier release and does not know its data: whether that "
                "has changed is not checked"
            )
        now("reading the data")
        data = workers.first_before_others(
            lambda: load_data(
                config,
                checkpoint.encoders if checkpoint else None,
                base=base.encoders if base else None,
                expected=checkpoint.fingerprint if checkpoint else None,
                may_be_part=True,
            )
        )
        refuse_other_shard(data.held, workers)
        workers.refuse_unless_equal(
            json.dumps(data.fingerprint.to_plain()) if data.fingerprint else "",
            lambda: DataError("the processes of the run have different data, by its content"),
        )
        if validation_only:
            data = data._replace(test=None)
        now("building the model")
        check_memory(data.encoders.schema, config)
        model = build_model(data.encoders.schema, config).to(device)
        before = None if checkpoint is None else checkpoint.config.training
        threads = settle_threads(
            config.training, before, model, data.valid.inputs, processes=workers.world
        )
        config = replace(config, training=replace(config.training, threads=threads))
        start: dict[str, torch.Tensor] = {}
        if base is not None:
            transfer(model, base)
        elif checkpoint is None and config.training.initial_bias == "base_rate":
            start = start_at_base_rate(model, data.train)
        if workers.is_first:
            run.prepare(config, keep=resume)
            run_log.write_to(run.log)
        saved = checkpoint.training if checkpoint else None
        state = TrainingState(**saved) if saved else TrainingState()
        parameters = sum(parameters_of(model))
        LOGGER.info(
            f"{config.model_name} with {parameters:,} parameters on {device}, "
            f"{config.training.precision}, threads: {threads}, "
            + ("" if workers.is_alone else f"in each of {workers.world} processes, ")
            + f"into {run.path}"
            + (f", resumed in epoch {state.epoch + 1} at step {state.step}" if checkpoint else "")
            + (f", from {init_from}{_growth(base, data.encoders)}" if base else "")
            + (" and the statistics of its optimizers" if statistics else "")
        )

        for name, bias in start.items():
            values = ", ".join(f"{value:.4f}" for value in bias.flatten().tolist())
            of_task = f" of {name}" if name else ""
            LOGGER.info(
                f"the output bias{of_task} starts at {values}: the base rate of the rows as trained"
            )
        if config.feature.groups and model.uses_first_order and not model.embedding.first_order:
            LOGGER.info("feature.groups has no group wide: the first-order term is zero")

        if (events := data.last_events) is not None:
            LOGGER.info(
                f"checkpoints hold {len(events.time):,} last events of {len(events.user):,} users "
                f"for their histories, {events.num_bytes / 2**20:.1f} MiB"
            )

        def bundle(weights: dict[str, torch.Tensor], training: Any = None) -> Checkpoint:
            return Checkpoint(
                config,
                data.encoders,
                data.users,
                data.items,
                data.history,
                weights,
                training,
                data.fingerprint,
                events=data.last_events,
            )

        saver = Saver(run, bundle, model, workers)
        if checkpoint is not None:
            saver.complete(state)
        trainer = Trainer(
            config.training, config.evaluation, seed=config.seed, device=device, workers=workers
        )
        told = stack.enter_context(
            tracked(
                trackers if workers.is_first else (),
                run.path,
                config.to_dict(),
                state.total_steps,
            )
        )
        now("training")
        with catch_signals() as received:
            state = trainer.fit(
                model,
                data.train,
                data.valid,
                state=state,
                statistics=statistics,
                save=saver.save,
                should_stop=received,
                log=LOGGER.info,
                record=told.record,
            )
        LOGGER.info(_kept(config, state))
        splits = {"valid": data.valid} | ({"test": data.test} if data.test is not None else {})
        now(f"final evaluation on {' and '.join(splits)}")
        results = {
            name: evaluate(
                model,
                split,
                batch_size=config.evaluation.batch_size,
                train=data.train,
                workers=workers,
            )
            for name, split in splits.items()
        }
        metrics: dict[str, Any] = {name: result.metrics for name, result in results.items()}
        if data.summary is not None:
            metrics["data"] = data.summary
        if data.protocol is not None:
            metrics["protocol"] = data.protocol
        used = Usage.so_far().since(begun)
        if not workers.is_first:
            return metrics
        for group, dropout in model.embedding.variational_dropouts().items():
            run.write_dropout_ratios(group, dropout.ratios())
        last = "test" if "test" in splits else "valid"
        run.write_table(run.predictions, _predictions(config, splits[last], results[last]))
        if (ranks := _ranks(splits[last], results[last])) is not None:
            run.write_table(run.ranks, ranks)
        run.write_json(run.environment, _environment(config, device, used))
        run.write_json(run.metrics, metrics)
        told.metrics = metrics
        for line in format_metrics(metrics):
            LOGGER.info(line)
        for name, result in results.items():
            _say(name, result.verdicts)
        if saver.in_slices:
            LOGGER.info(f"no page: the tables are larger than one file; deepfm report {run.path}")
            return metrics
        if data.held is not None:
            LOGGER.info(
                f"no page: this host has a part of the training rows; deepfm report {run.path} "
                "where the whole store is"
            )
            return metrics
        if model.embedding.tables.capabilities.only_own_optimizers:  # parts, which others share
            kept = run.best if run.best.exists() else run.last
            model = load_checkpoint(kept).build_model()
        afterwards(Finished(run, config, data, model, state.history, results, metrics, used))
        return metrics


def _statistics(base: Checkpoint | None, path: str | Path | None) -> Sequence[dict[str, Any]]:
    """What the optimizers of a run have gathered up to a checkpoint.

    Raises:
        ConfigError: There is no checkpoint, or one without them.
    """
    if base is None:
        raise ConfigError("--with-optimizer is of a run that starts --init-from a checkpoint")
    if base.training is None:
        raise ConfigError(
            f"{path}: --with-optimizer needs the last.pt of a run; a best_model.pt has no "
            "statistics of optimizers"
        )
    found: Sequence[dict[str, Any]] = base.training["optimizers"]
    return found


def _environment(config: ExperimentConfig, device: torch.device, used: Usage) -> dict[str, Any]:
    """What a run was made with, and what its last process took: `environment.json`."""
    return {
        "deepfm": deepfm.__version__,
        **machine(),
        "device": str(device),
        "threads": config.training.threads,
        "wall_seconds": round(used.wall_seconds, 1),
        "cpu_seconds": round(used.cpu_seconds, 1),
        "peak_memory": used.peak_memory,
    }


def _calibrated(
    run: RunDirectory,
    resumed: Checkpoint | None,
    init_from: str | Path | None,
    base: Checkpoint | None,
) -> Iterator[str | Path | None]:
    """The files that training starts from, or replaces while it is resumed, with a calibration."""
    if base is not None and base.calibration:
        yield init_from
    if resumed is None:
        return
    if resumed.calibration:
        yield run.last
    with suppress(CheckpointError):  # what cannot be read is written anew, from `last.pt`
        if load_checkpoint(run.best).calibration:
            yield run.best


def _say(split: str, verdicts: Iterable[Verdict]) -> None:
    """The figures of a split beside those of the base rate; a warning where they are no better."""
    for found in verdicts:
        of_task = f" {found.task}:" if found.task else ""
        if found.value is None or found.base_rate is None:
            LOGGER.info(f"{split}:{of_task} {found.why}")
            continue
        title = {"logloss": "LogLoss", "rmse": "RMSE"}[found.figure]
        if found.is_corrected:
            title += " after the prior correction"
        constant = "mean" if found.figure == "rmse" else "base rate"
        line = f"{split}:{of_task} {title} {found.value:.4f}, of the training {constant} alone "
        line += f"{found.base_rate:.4f}"
        if found.is_worse:
            LOGGER.warning(f"{line}: the model is worse than a constant")
        else:
            LOGGER.info(line)


def _kept(config: ExperimentConfig, state: TrainingState) -> str:
    """Which weights a run ends with, and that what follows is not cut short."""
    if state.best_value is None:
        best = f"{config.training.metric} does not exist on the rows evaluated in training"
    else:
        best = f"best {config.training.metric} {state.best_value:.4f} in epoch {state.best_epoch}"
        if config.training.evaluate_every_steps is not None:
            best += f" after {state.best_step:,} steps"
    if config.training.keep == "last":
        best += f"; kept are the last weights, of epoch {state.epoch}"
    limited = config.evaluation.max_batches is not None
    return f"{best}; final evaluation of all rows" if limited else best


def baselines(config: ExperimentConfig) -> list[str]:
    """What simple methods reach on the data of a config, as the lines of a table.

    Raises:
        ConfigError: A setting is wrong.
        DeepFMError: Data, network or disk failed.
    """
    check_settings(config)
    data = load_data(config)
    splits = {"valid": data.valid} | ({"test": data.test} if data.test is not None else {})
    if config.task_data().ranks:
        return _recommenders(data, splits)
    lines = []
    for task in config.task_list():
        found = table_references(data.train, data.valid, data.test, task, seed=config.seed)
        cells = [["", *(f"{split} {name}" for split in splits for name in reported_of(task))]]
        for name, reference in found.items():
            values = [
                value
                for split, rows in splits.items()
                for value in reference_metrics(task, rows, getattr(reference, split)).values()
            ]
            shown = ("-" if value is None else f"{value:.4f}" for value in values)
            cells.append([title_of(name, task), *shown])
        where = ", in its space:" if task.is_of_space else ":"
        lines += [f"{task.name}{where}"] if task.name else []
        lines += _aligned(cells)
    return lines


def _recommenders(data: ExperimentData, splits: dict[str, TabularDataset]) -> list[str]:
    """HR@10 and NDCG@10 of simple recommenders, among the candidates of the config."""
    training, events = interactions_of(data), data.events
    assert events is not None  # what ranks has them
    cells = [["", *(f"{split} {name}" for split in splits for name in ("hr@10", "ndcg@10"))]]
    for name, reference in REFERENCES.items():
        scores, row = reference(training), [name]
        for split in splits.values():
            task = split.ranking
            assert task is not None
            items = task.items[:, : 1 + task.num_negatives]
            user = events.user[split.row[task.rows]]
            counts = rank_counts(scores[user[:, None], items], items >= 0)
            for value in (hit_rate(counts, 10), ndcg(counts, 10)):
                row.append(f"{value.mean():.4f}" if len(value) else "-")
        cells.append(row)
    return _aligned(cells)


def interactions_of(data: ExperimentData) -> Training:
    """The training interactions of a ranking task, which its references learn from."""
    events, history = data.events, data.history
    assert events is not None  # what ranks has both
    assert history is not None
    rows = events.split.train
    return Training(
        events.user[rows],
        events.item[rows],
        events.rating[rows].astype(np.float64),
        events.label[rows] > 0,
        events.order[rows],
        history.num_users,
        history.num_items,
    )


def _aligned(cells: list[list[str]]) -> list[str]:
    """Lines of a table whose first column is of names."""
    return [f"{first:<22}" + "".join(f"{cell:>16}" for cell in row) for first, *row in cells]


def profile_training(config: ExperimentConfig) -> Profile:
    """Where the time of a training step goes; a trace, and nothing else, in `config.output_dir`.

    Raises:
        ConfigError: A setting is wrong.
        DeepFMError: Data, network or disk failed, or the loss became NaN.
    """
    run = RunDirectory(config.output_dir)
    device = resolve_device(config.device)
    check_settings(config)
    data = load_data(config)
    model = build_model(data.encoders.schema, config)
    trainer = Trainer(config.training, config.evaluation, seed=config.seed, device=device)
    run.make()
    measured = profile(trainer, model, data.train, data.valid, trace=run.trace)
    for line in measured.lines():
        LOGGER.info(line)
    LOGGER.info(f"trace for ui.perfetto.dev or chrome://tracing: {run.trace}")
    return measured


def format_metrics(metrics: dict[str, Any]) -> list[str]:
    """The lines of a table with a column per split; an interval stands behind its figure."""
    splits = [name for name in metrics if name not in ("data", "protocol")]
    flat = {split: flatten(metrics[split]) for split in splits}
    names = [name for name in flat[splits[0]] if not name.endswith(INTERVAL)]
    columns = [[split, *(_cell(flat[split], name) for name in names)] for split in splits]
    widths = [2 + max(8, *map(len, column)) for column in columns]
    title = max(20, 1 + max(map(len, names)))
    return [
        f"{name:<{title}}" + "".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))
        for name, *cells in zip(["", *names], *columns, strict=True)
    ]


def _cell(figures: dict[str, Any], name: str) -> str:
    """A figure with its interval, if it has one."""
    value, interval = figures.get(name), figures.get(f"{name}{INTERVAL}")
    text = "-" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"
    return text if interval is None else f"{text} [{interval[0]:.4f}, {interval[1]:.4f}]"


def _growth(base: Checkpoint, encoders: Encoders) -> str:
    """How many values the encoders know that those of the checkpoint do not, for the log."""
    before, after = (
        sum(
            {
                field.embedding_name: field.vocabulary_size for field in e.schema.fields.values()
            }.values()
        )
        for e in (base.encoders, encoders)
    )
    return f" with {after - before:,} new values"


def _predictions(config: ExperimentConfig, dataset: TabularDataset, result: Evaluation) -> pa.Table:
    """Per row its number, labels, predictions and, of binary tasks, logits, which tell more than
    probabilities do from 37 on; the columns of several tasks end in their names."""
    tasks = config.task_list()
    labels = {
        task.column("label"): task.label_of(dataset.label, dataset.schema).numpy() for task in tasks
    }
    logits = {
        task.column("logit"): result.logits[task.name]
        for task in tasks
        if task.name in result.logits
    }
    predicted = prediction_columns(tasks, result.predictions)
    return pa.table({"row": dataset.row} | labels | predicted | logits)


def _ranks(dataset: TabularDataset, result: Evaluation) -> pa.Table | None:
    """Per ranked row how many candidates stand above and beside the positive; None without a
    ranking task."""
    task, counts, counts_99 = dataset.ranking, result.counts, result.counts_99
    if task is None or counts is None or counts_99 is None:
        return None
    return pa.table(
        {
            "row": dataset.row[task.rows],
            "above": counts.above,
            "tied": counts.tied,
            "above_99": counts_99.above,
            "tied_99": counts_99.tied,
        }
    )
