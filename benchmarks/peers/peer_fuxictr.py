"""FuxiCTR's DeepFM through `BaseModel.fit` and `predict`, fed by its in-memory npz loader.

The wheel holds no models, so DeepFM is put together here from its layers, as its model zoo does.
It embeds the dense fields, each by a linear map to 16 values, which also enter the FM (624 DNN
inputs on W1). The first-order term of the multi-hot field is a sum, the embedding a mean. `fit`
evaluates at the end of each epoch (here on one batch), saves the best weights and reads them
back, all outside a step. Its `train_step` always clips gradients; it is repeated here without
that line, since no other peer clips. Its Parquet loader needs Ray's processes and is not used.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.layers import FactorizationMachine, FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel
from measure import Prepared, Task, run
from variants import SHIPPED, adam
from workloads import BATCH_SIZE, EMBEDDING_DIM, LEARNING_RATE, Split, Workload

DATASET = "benchmark"


class Model(BaseModel):
    """FuxiCTR's embedding layer, what `build` adds to it, and Adam."""

    def __init__(
        self, feature_map: FeatureMap, workload: Workload, folder: str, device: str
    ) -> None:
        super().__init__(
            feature_map,
            model_root=folder,
            gpu=0 if device == "cuda" else -1,
            verbose=0,
            metrics=["AUC"],
            early_stop_patience=sys.maxsize,  # all epochs, at one learning rate
            reduce_lr_on_plateau=False,
        )
        self.embedding_layer = FeatureEmbedding(feature_map, EMBEDDING_DIM)
        self.build(feature_map, workload)
        self.compile("adam", "binary_crossentropy", LEARNING_RATE)
        self.reset_parameters()
        self.model_to_device()

    def build(self, feature_map: FeatureMap, workload: Workload) -> None:
        """Makes the layers after the embedding."""
        raise NotImplementedError

    def dnn(self, feature_map: FeatureMap, workload: Workload, outputs: int | None) -> MLP_Block:
        """The workload's DNN on all embeddings; `outputs` None: its hidden units."""
        return MLP_Block(
            feature_map.sum_emb_out_dim(),
            hidden_units=list(workload.hidden),
            output_dim=outputs,
            dropout_rates=workload.dropout,
            batch_norm=workload.batch_norm,
        )

    def train_step(self, batch_data: dict[str, torch.Tensor]) -> torch.Tensor:
        """FuxiCTR's own step without the clipping."""
        self.optimizer.zero_grad()
        loss = self.compute_loss(self.forward(batch_data), self.get_labels(batch_data))
        loss.backward()
        self.optimizer.step()
        return loss


class DeepFM(Model):
    """FM plus DNN on FuxiCTR's layers."""

    def build(self, feature_map: FeatureMap, workload: Workload) -> None:
        self.fm = FactorizationMachine(feature_map)
        self.mlp = self.dnn(feature_map, workload, 1)

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        fields = self.get_inputs(inputs)
        embeddings = self.embedding_layer(fields)
        logit = self.fm(fields, embeddings) + self.mlp(embeddings.flatten(start_dim=1))
        return {"y_pred": self.output_activation(logit)}


def _feature_map(workload: Workload, folder: str) -> FeatureMap:
    feature_map = FeatureMap(DATASET, folder)
    feature_map.default_emb_dim = EMBEDDING_DIM
    feature_map.labels = ["label"]
    features = feature_map.features
    for i in range(workload.dense):
        features[f"d{i}"] = {"source": "", "type": "numeric"}
    for i, size in enumerate(workload.vocabulary_sizes):
        features[f"s{i}"] = {
            "source": "",
            "type": "categorical",
            "padding_idx": 0,
            "vocab_size": size,
        }
    if workload.sequence_length:
        features["sequence"] = {
            "source": "",
            "type": "sequence",
            "padding_idx": 0,
            "vocab_size": workload.sequence_vocabulary_size,
            "max_len": workload.sequence_length,
            "feature_encoder": "layers.MaskedAveragePooling()",
        }
    feature_map.num_fields = feature_map.get_num_fields()
    feature_map.set_column_index()
    return feature_map


def _save(path: Path, split: Split) -> str:
    columns = {f"d{i}": values for i, values in enumerate(split.dense.T)}
    columns |= {f"s{i}": ids for i, ids in enumerate(split.sparse.T)}
    np.savez(path, sequence=split.sequence, label=split.label, **columns)
    return str(path)


def prepare(task: Task, of: type[Model] = DeepFM) -> Prepared:
    """Writes the data as the npz files that FuxiCTR reads and builds a model."""
    scratch = TemporaryDirectory()
    folder = Path(scratch.name)
    os.mkdir(folder / DATASET)
    feature_map = _feature_map(task.workload, scratch.name)
    train, valid, score = RankDataLoader(
        feature_map,
        train_data=_save(folder / "train.npz", task.train),
        valid_data=_save(
            folder / "valid.npz", Split(*(array[:BATCH_SIZE] for array in task.score))
        ),
        test_data=_save(folder / "score.npz", task.score),
        batch_size=BATCH_SIZE,
        num_workers=0,
    )
    model = of(feature_map, task.workload, scratch.name, task.device)
    if task.variant != SHIPPED:
        model.optimizer = adam(model.parameters(), task.variant, lr=LEARNING_RATE)

    def fit() -> None:
        with scratch:
            model.fit(train, epochs=task.epochs, validation_data=valid)

    return Prepared(
        model,
        fit,
        predict=lambda: model.predict(score),
        notes="dense fields embedded; step without its clipping; npz loader, no workers",
    )


if __name__ == "__main__":
    run("fuxictr", "fuxictr", prepare, devices=("cpu", "cuda"))
