"""The training loop of a pipeline: steps, optimizers, schedules, clipping, evaluation."""

from collections.abc import Mapping, Sequence

from deepfm.easyrec.convert_objectives import Objectives, watched_in
from deepfm.easyrec.pipeline_pb2 import DenseOptimizer, PartOptimizer, SparseOptimizer
from deepfm.easyrec.reading import Keys, Pipeline, options_of, shortest

_SPARSE = {
    "sgd_optimizer": "lazy_sgd",
    "adagrad_optimizer": "adagrad",
    "adam_optimizer": "lazy_adam",
    "rowwise_adagrad_optimizer": "rowwise_adagrad",
}
_DENSE = {
    "sgd_optimizer": "sgd",
    "adagrad_optimizer": "adagrad",
    "adam_optimizer": "adam",
    "adamw_optimizer": "adamw",
}
_SPARSE_EPS = 1e-8
_SCHEDULES = {
    "exponential_decay_learning_rate": (
        "exponential",
        {
            "decay_size": "decay_size", "decay_factor": "decay_factor", "staircase": "staircase",
            "warmup_learning_rate": "warmup_lr", "warmup_size": "warmup_size",
            "min_learning_rate": "min_lr", "by_epoch": "by_epoch",
        },
    ),
    "manual_step_learning_rate": (
        "manual_step",
        {
            "schedule_sizes": "sizes", "learning_rates": "lrs", "warmup": "warmup",
            "by_epoch": "by_epoch",
        },
    ),
    "cosine_annealing_learning_rate": (
        "cosine",
        {
            "T_max": "t_max", "min_learning_rate": "min_lr", "warmup_learning_rate": "warmup_lr",
            "warmup_size": "warmup_size", "by_epoch": "by_epoch",
        },
    ),
    "cosine_annealing_warm_restarts_learning_rate": (
        "cosine_restarts",
        {
            "T_0": "t_0", "T_mult": "t_mult", "min_learning_rate": "min_lr",
            "warmup_learning_rate": "warmup_lr", "warmup_size": "warmup_size",
            "by_epoch": "by_epoch",
        },
    ),
}  # fmt: skip


def training_of(pipeline: Pipeline, tasks: Sequence[Objectives]) -> Keys:
    """Keys of the section `training`.

    Args:
        tasks: Of one that has no name, the losses and metrics stand in this section.
    """
    config, data = pipeline.message.train_config, pipeline.message.data_config
    if bool(config.num_steps) == bool(config.num_epochs):
        raise pipeline.error("train_config", "choose one of num_epochs and num_steps")
    found: Keys = {"epochs": config.num_epochs or config.num_steps}
    if config.num_steps:  # no epoch is shorter than a step, so the steps decide
        found["max_steps"] = config.num_steps
    if not data.batch_size:
        raise pipeline.error("data_config.batch_size", "expected at least 1, found 0")
    found |= {
        "batch_size": data.batch_size,
        "shuffle": data.shuffle,
        "drop_last": data.drop_remainder,
        "losses": tasks[0].losses,
        "initial_bias": "zero",
        "precision": _precision(pipeline),
        "metrics": tasks[0].train_metrics,
    }
    if tasks[0].task:  # each of the tasks says it
        del found["losses"], found["metrics"]
    found |= _optimizers(pipeline)
    found |= {"early_stopping_patience": None} | watched_in(pipeline, tasks)
    found |= _clipping(pipeline)
    if config.gradient_accumulation_steps > 1:
        found["gradient_accumulation_steps"] = config.gradient_accumulation_steps
        found["sparse_update"] = "backward"
    if config.dense_optimizer.HasField("ema"):
        found["ema_decay"] = shortest(config.dense_optimizer.ema.decay)
    for section in ("eval_config", "export_config"):
        chosen = getattr(pipeline.message, section)
        if chosen.HasField("use_dense_ema") and chosen.use_dense_ema != ("ema_decay" in found):
            raise pipeline.error(
                f"{section}.use_dense_ema",
                "with ema it is true here, and false without; leave it out",
            )
    steps = config.save_checkpoints_steps
    if config.save_checkpoints_epochs:
        steps = 0
    if steps:
        found |= {"checkpoint_every_steps": steps, "evaluate_every_steps": steps}
    if config.log_step_count_steps:
        found["log_every_steps"] = config.log_step_count_steps
    return found


def _precision(pipeline: Pipeline) -> str:
    path, asked = "train_config.mixed_precision", pipeline.message.train_config.mixed_precision
    if asked not in ("", "BF16", "FP16"):
        raise pipeline.error(path, f"expected BF16 or FP16, found {asked!r}")
    if asked == "FP16":
        pipeline.note(path, "FP16 is trained in fp32; BF16 is supported")
    return "bf16" if asked == "BF16" else "fp32"


def _clipping(pipeline: Pipeline) -> Keys:
    config = pipeline.message.train_config.grad_clipping
    kind, limit = config.clipping_type.lower(), shortest(config.max_gradient)
    found: Keys = {"gradient_clip_norm": None}
    if kind == "norm":
        found = {"gradient_clip_norm": limit, "gradient_clip_scope": "dense"}
        found["gradient_clip_norm_type"] = shortest(config.norm_type)
    elif kind == "value":
        found |= {"gradient_clip_value": limit, "gradient_clip_scope": "dense"}
    elif kind != "none":
        raise pipeline.error(
            "train_config.grad_clipping.clipping_type",
            f"expected norm, value or none, found {config.clipping_type!r}",
        )
    return found


def _optimizers(pipeline: Pipeline) -> Keys:
    config = pipeline.message.train_config
    sparse, dense = config.sparse_optimizer, config.dense_optimizer
    found: Keys = {
        "optimizer": _optimizer(pipeline, dense, _DENSE, "train_config.dense_optimizer"),
        "scheduler": _schedule(pipeline, dense, "train_config.dense_optimizer") or "none",
        "sparse_optimizer": _sparse_optimizer(pipeline),
        "sparse_scheduler": _schedule(pipeline, sparse, "train_config.sparse_optimizer") or "none",
    }
    parts = []
    for k, part in enumerate(dense.part_optimizers):
        path = f"train_config.dense_optimizer.part_optimizers[{k}]"
        if not part.regex_pattern:
            raise pipeline.error(path, "regex_pattern: a value is needed")
        parts.append(
            {
                "pattern": part.regex_pattern,
                "optimizer": _optimizer(pipeline, part, _DENSE, path),
                "scheduler": _schedule(pipeline, part, path),
            }
        )
    if parts:
        found["part_optimizers"] = parts
    return found


def _optimizer(
    pipeline: Pipeline,
    config: DenseOptimizer | PartOptimizer | SparseOptimizer,
    names: Mapping[str, str],
    path: str,
) -> Keys:
    kind = config.WhichOneof("optimizer")
    if kind is None:
        raise pipeline.error(path, f"expected one of {', '.join(names)}")
    options = options_of(getattr(config, kind))
    options.pop("fused", None)
    options.pop("weight_decay_mode", None)
    if "beta1" in options:
        options["betas"] = [options.pop("beta1"), options.pop("beta2")]
    return {"name": names[kind]} | options


def _sparse_optimizer(pipeline: Pipeline) -> Keys:
    config = pipeline.message.train_config.sparse_optimizer
    options = _optimizer(pipeline, config, _SPARSE, "train_config.sparse_optimizer")
    options.pop("weight_decay", None)  # is 0
    limit = options.pop("max_gradient")
    if options.pop("gradient_clipping"):
        options["max_gradient"] = limit
    if options["name"] != "lazy_sgd":
        options["eps"] = _SPARSE_EPS
    return options


def _schedule(
    pipeline: Pipeline, config: DenseOptimizer | PartOptimizer | SparseOptimizer, path: str
) -> Keys | str | None:
    """None: no schedule is named."""
    kind = config.WhichOneof("learning_rate")
    if kind is None:
        return None
    if kind == "constant_learning_rate":
        return "none"
    name, renamed = _SCHEDULES[kind]
    options = options_of(getattr(config, kind))
    for needed in renamed:
        if needed not in options:
            raise pipeline.error(f"{path}.{kind}", f"{needed}: a value is needed")
    fixed = {"at_end": "stay"} if name == "cosine" else {}  # the format's never rises again
    return {"name": name} | {ours: options[theirs] for theirs, ours in renamed.items()} | fixed


def evaluation_of(pipeline: Pipeline, tasks: Sequence[Objectives]) -> Keys:
    """Keys of the section `evaluation`."""
    data, config = pipeline.message.data_config, pipeline.message.eval_config
    found: Keys = {"batch_size": data.eval_batch_size or data.batch_size}
    if config.num_steps:
        found["max_batches"] = config.num_steps
    return found if tasks[0].task else found | {"metrics": tasks[0].metrics}
