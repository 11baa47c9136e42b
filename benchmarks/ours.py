"""Ours: a model built from a config, trained by `Trainer.fit`, scored by `scoring.score`.

    python benchmarks/ours.py --workload W1 --score --optimizer lazy_adam --precision bf16
    python benchmarks/ours.py --workload W1 --model dcn_v2 --dense embedded

The model is a DeepFM if `--model` names no other; the workload says what its DNN is. Dense fields
go raw into the first-order term and the DNN (429 inputs on W1), with `--dense embedded` by a linear
map to 16 numbers each (624 inputs); a first-order weight per id, mean pooling of the multi-hot
field. `--optimizer` updates the embedding tables: `lazy_adam` and `rowwise_adagrad` touch the rows
of a batch only, `adam` is the exact dense update; all other weights have Adam. Embeddings begin
normal with a deviation of 0.01, about as the peers' do. `--precision` is that of the model's
products, in training and in scoring. `Trainer.fit` validates at the end of each epoch, here on one
batch, copies the best weights and puts them back at the end, all outside a step.
"""

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from peers.measure import Prepared, Task, parser, run
from workloads import BATCH_SIZE, EMBEDDING_DIM, LEARNING_RATE, Split, Workload

from deepfm.config import (
    DNNConfig,
    EvaluationConfig,
    ExperimentConfig,
    FeatureConfig,
    TrainingConfig,
    config_from_dict,
)
from deepfm.data.dataset import TabularDataset
from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema
from deepfm.evaluation.scoring import score
from deepfm.models import MODELS, build_model
from deepfm.models.options import ModelConfig, NetworkConfig
from deepfm.training.trainer import Trainer

# of the embedding tables; row-wise Adagrad has the learning rate of the FBGEMM reference row
OPTIMIZERS = {
    "lazy_adam": {"name": "lazy_adam"},
    "rowwise_adagrad": {"name": "rowwise_adagrad", "lr": 0.02},
    "adam": None,
}
PRECISIONS = ("fp32", "bf16")
DENSE = {"raw": "none", "embedded": "linear"}
# Options of models, in the section of their name, whose defaults are not what is measured.
OPTIONS: dict[str, dict[str, Any]] = {"dcn_v2": {"layers": 2}}
# on W3, whose fields are those of MovieLens-100K: item id and genres
ITEM_FIELDS = ("s1", "sequence")


def schema_of(workload: Workload, dense: str = "raw") -> DatasetSchema:
    """The fields of a workload; those of `ITEM_FIELDS` are an item's, the others a user's."""
    sizes = {f"s{i}": size for i, size in enumerate(workload.vocabulary_sizes)}
    fields = [
        _field(name, FeatureType.SPARSE, vocabulary_size=size) for name, size in sizes.items()
    ]
    fields += [
        _field(f"d{i}", FeatureType.DENSE, dense_embedding=DENSE[dense])
        for i in range(workload.dense)
    ]
    if workload.sequence_length:
        sequence = _field(
            "sequence",
            FeatureType.SEQUENCE,
            vocabulary_size=workload.sequence_vocabulary_size,
            max_length=workload.sequence_length,
        )
        fields.append(sequence)
    return DatasetSchema(fields={field.name: field for field in fields}, label_field="label")


def _field(name: str, kind: FeatureType, **options: Any) -> FieldSchema:
    group = "item" if name in ITEM_FIELDS else "user"
    return FieldSchema(name, kind, embedding_dim=EMBEDDING_DIM, group=group, **options)


def dataset_of(schema: DatasetSchema, split: Split) -> TabularDataset:
    """A split as the trainer takes it."""
    columns = {f"s{i}": ids for i, ids in enumerate(split.sparse.T)}
    columns |= {f"d{i}": values for i, values in enumerate(split.dense.T)}
    columns |= {"sequence": (split.sequence, split.lengths)}
    return TabularDataset.from_arrays(schema, columns, split.label)


def config_of(
    workload: Workload,
    optimizer: str,
    *,
    precision: str = "fp32",
    epochs: int = 1,
    seed: int = 0,
    model: str = "deepfm",
) -> ExperimentConfig:
    """The workload's settings; no L2, no clipping, no schedule, no early stopping."""
    return ExperimentConfig(
        model=model_of(workload, model),
        seed=seed,
        training=TrainingConfig(
            epochs=epochs,
            batch_size=BATCH_SIZE,
            lr=LEARNING_RATE,
            sparse_optimizer=OPTIMIZERS[optimizer],
            scheduler="none",
            early_stopping_patience=epochs,
            metric="logloss",
            gradient_clip_norm=None,
            precision=precision,
        ),
        evaluation=EvaluationConfig(batch_size=BATCH_SIZE, precision=precision),
    )


def model_of(workload: Workload, name: str) -> ModelConfig:
    """Options of a model: embeddings, dropout and, if it has one, the DNN as the workload says."""
    own = {"fcn": {"dropout": workload.dropout}} | OPTIONS
    sections = {name: own[name]} if name in own else {}
    options = replace(
        config_from_dict({"model_name": name, **sections}).model,
        feature=FeatureConfig(
            fm_embedding_dim=EMBEDDING_DIM, init="normal(0.01)", embedding_l2_reg=0.0
        ),
    )
    if not isinstance(options, NetworkConfig):
        return options
    norm = "batch" if workload.batch_norm else "none"
    dnn = DNNConfig(hidden_units=workload.hidden, dropout=workload.dropout, norm=norm)
    return replace(options, dnn=dnn)


def prepare(
    task: Task,
    optimizer: str,
    *,
    precision: str = "fp32",
    seed: int = 0,
    model: str = "deepfm",
    dense: str = "raw",
) -> Prepared:
    """Builds the model with the workload's settings."""
    config = config_of(
        task.workload, optimizer, precision=precision, epochs=task.epochs, seed=seed, model=model
    )
    schema = schema_of(task.workload, dense)
    train, scored = dataset_of(schema, task.train), dataset_of(schema, task.score)
    valid = dataset_of(schema, Split(*(array[:BATCH_SIZE] for array in task.score)))
    built = build_model(schema, config)
    trainer = Trainer(config.training, config.evaluation, seed=seed, device=task.device)

    def predict() -> np.ndarray:
        logits = score(built, scored.inputs, batch_size=config.evaluation.batch_size)
        return torch.from_numpy(logits).sigmoid().numpy()

    return Prepared(
        built,
        fit=lambda: trainer.fit(built, train, valid),
        predict=predict,
        notes=f"tables by {optimizer}, all else by Adam",
    )


def add_model(options: argparse.ArgumentParser, default: str | None = "deepfm") -> None:
    """The options that choose a model and what it reads of dense fields."""
    options.add_argument("--model", choices=MODELS, default=default)
    options.add_argument("--dense", choices=DENSE, default="raw")


def main() -> None:
    options = parser()
    options.add_argument("--optimizer", choices=OPTIMIZERS, default="lazy_adam")
    options.add_argument("--precision", choices=PRECISIONS, default="fp32")
    add_model(options)
    arguments = options.parse_args()
    name = "deepfm" if arguments.model == "deepfm" else f"deepfm {arguments.model}"
    run(
        f"{name} {arguments.optimizer}",
        "deepfm",
        lambda task: prepare(
            task,
            arguments.optimizer,
            precision=arguments.precision,
            model=arguments.model,
            dense=arguments.dense,
        ),
        arguments,
        devices=("cpu", "cuda"),
    )


if __name__ == "__main__":
    main()
