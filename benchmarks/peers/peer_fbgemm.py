"""A reference row: FBGEMM's table-batched embedding under a hand-written plain loop.

All tables are one operator whose backward pass updates the touched rows by row-wise Adagrad, so
no step touches a whole table: another optimizer than the peers' Adam, with one statistic per
row. A row holds the embedding, the first-order weight and three unused values (widths must be
multiples of 4). The rest is the model of ours in plain torch: dense fields raw into the linear
part and the DNN (429 inputs on W1), mean pooling, Adam. Batches are whole-array slices of
preloaded tensors, shuffled each epoch; on CUDA the data and the tables lie on the device.
"""

from collections.abc import Iterator
from importlib.metadata import packages_distributions

import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from measure import Prepared, Task, run
from torch import nn
from variants import adam
from workloads import BATCH_SIZE, EMBEDDING_DIM, LEARNING_RATE, Split, Workload

ROW_WIDTH = EMBEDDING_DIM + 4
ADAGRAD_LEARNING_RATE = 0.02
DISTRIBUTION = packages_distributions()["fbgemm_gpu"][0]  # that of the CPU or of CUDA
Batch = list[torch.Tensor]  # the fields of a Split


class DeepFM(nn.Module):
    """DeepFM over a table-batched embedding; returns logits (B,)."""

    def __init__(self, workload: Workload, device: str) -> None:
        super().__init__()
        place = (
            (EmbeddingLocation.DEVICE, ComputeDevice.CUDA)
            if device == "cuda"
            else (EmbeddingLocation.HOST, ComputeDevice.CPU)
        )
        sizes = list(workload.vocabulary_sizes)
        sizes += [workload.sequence_vocabulary_size] if workload.sequence_length else []
        self.fields = len(sizes)
        self.tables = SplitTableBatchedEmbeddingBagsCodegen(
            [(size, ROW_WIDTH, *place) for size in sizes],
            optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=ADAGRAD_LEARNING_RATE,
            eps=1e-8,
            pooling_mode=PoolingMode.MEAN,
        )
        self.tables.init_embedding_weights_uniform(-0.01, 0.01)
        layers: list[nn.Module] = []
        width = self.fields * EMBEDDING_DIM + workload.dense
        for units in workload.hidden:
            layers.append(nn.Linear(width, units))
            layers += [nn.BatchNorm1d(units)] if workload.batch_norm else []
            layers.append(nn.ReLU())
            layers += [nn.Dropout(workload.dropout)] if workload.dropout else []
            width = units
        self.dnn = nn.Sequential(*layers, nn.Linear(width, 1))
        self.linear = nn.Linear(workload.dense, 1) if workload.dense else None
        self.to(device)

    def forward(self, batch: Batch) -> torch.Tensor:
        dense, sparse, sequence, lengths, _ = batch
        rows = len(dense)
        # the operator wants all ids of the first field, then of the next, and where each bag ends
        offsets = torch.arange(sparse.numel() + 1, device=sparse.device)
        indices = sparse.T.flatten()
        if sequence.shape[1]:
            indices = torch.cat([indices, sequence[sequence > 0]])
            offsets = torch.cat([offsets, sparse.numel() + lengths.cumsum(0)])
        pooled = self.tables(indices, offsets).view(rows, self.fields, ROW_WIDTH)
        embedding = pooled[:, :, :EMBEDDING_DIM]  # (B, F, D)
        logit = pooled[:, :, EMBEDDING_DIM].sum(1)
        logit = logit + 0.5 * (embedding.sum(1) ** 2 - (embedding**2).sum(1)).sum(1)
        inputs = torch.cat([embedding.flatten(1), dense], dim=1)
        if self.linear is not None:
            logit = logit + self.linear(dense).squeeze(1)
        return logit + self.dnn(inputs).squeeze(1)


def _batches(split: Batch, order: torch.Tensor) -> Iterator[Batch]:
    for rows in order.split(BATCH_SIZE):
        yield [array[rows] for array in split]


def _tensors(split: Split, device: str) -> Batch:
    return [torch.from_numpy(array).to(device) for array in split]


def prepare(task: Task) -> Prepared:
    """Builds the model with the workload's settings."""
    model = DeepFM(task.workload, task.device)
    # the tables update themselves in their backward pass
    dense_parameters = [*model.dnn.parameters()]
    dense_parameters += [] if model.linear is None else [*model.linear.parameters()]
    optimizer = adam(dense_parameters, task.variant, lr=LEARNING_RATE)
    train, score = (_tensors(split, task.device) for split in (task.train, task.score))

    def fit() -> None:
        model.train()
        for _ in range(task.epochs):
            order = torch.randperm(len(train[0])).to(task.device)
            for batch in _batches(train, order):
                loss = nn.functional.binary_cross_entropy_with_logits(model(batch), batch[-1])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def predict() -> np.ndarray:
        model.eval()
        with torch.no_grad():
            batches = _batches(score, torch.arange(len(score[0]), device=task.device))
            return torch.cat([model(batch).sigmoid() for batch in batches]).cpu().numpy()

    tables = sum(table.numel() for table in model.tables.split_embedding_weights())
    return Prepared(
        model,
        fit,
        predict,
        notes="reference row, not a peer: plain loop on preloaded tensors; tables by row-wise "
        "Adagrad",
        parameters=tables + sum(parameter.numel() for parameter in dense_parameters),
    )


if __name__ == "__main__":
    run("fbgemm", DISTRIBUTION, prepare, devices=("cpu", "cuda"))
