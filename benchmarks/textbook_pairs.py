"""LR, FM and FwFM as a textbook has them, trained by a loop of five lines.

    python benchmarks/textbook_pairs.py --workload W1 --model fwfm

One `nn.Embedding` per field and another for its first-order weights, `torch.optim.SparseAdam` for
them and `torch.optim.Adam` for the rest; raw dense fields count in the first-order term. FwFM lays
out all pairs of fields. Its rows per second are what ours are compared with.
"""

import numpy as np
import ours
import torch
from peers.measure import Prepared, Task, parser, run
from torch import Tensor, nn
from workloads import BATCH_SIZE, EMBEDDING_DIM, LEARNING_RATE, Workload

from deepfm.data.batch import Inputs

MODELS = ("lr", "fm", "fwfm")


class Textbook(nn.Module):
    """One of `MODELS` over sparse and raw dense fields."""

    def __init__(self, name: str, workload: Workload) -> None:
        super().__init__()
        if workload.sequence_length:
            raise SystemExit("the textbook has no multi-hot fields: take W1")

        def tables(width: int) -> nn.ModuleList:
            sizes = workload.vocabulary_sizes
            found = nn.ModuleList(nn.Embedding(size, width, sparse=True) for size in sizes)
            for table in found:
                nn.init.normal_(table.weight, std=0.01)
            return found

        self.first_order = tables(1)
        self.tables = None if name == "lr" else tables(EMBEDDING_DIM)
        self.linear = nn.Parameter(torch.zeros(workload.dense))
        self.bias = nn.Parameter(torch.zeros(()))
        fields = len(workload.vocabulary_sizes)
        self.pairs = torch.triu_indices(fields, fields, offset=1)
        self.strengths = nn.Parameter(torch.ones(self.pairs.shape[1])) if name == "fwfm" else None

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits, (B,)."""
        ids = inputs.sparse.unbind(1)
        looked_up = [table(column) for table, column in zip(self.first_order, ids, strict=True)]
        logit = self.bias + torch.cat(looked_up, 1).sum(1) + inputs.dense @ self.linear
        if self.tables is None:
            return logit
        vectors = [table(column) for table, column in zip(self.tables, ids, strict=True)]
        fields = torch.stack(vectors, dim=1)  # (B, F, D)
        if self.strengths is None:
            return logit + 0.5 * (fields.sum(1) ** 2 - (fields**2).sum(1)).sum(1)
        products = (fields[:, self.pairs[0]] * fields[:, self.pairs[1]]).sum(2)
        return logit + products @ self.strengths

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """SparseAdam for the tables, Adam for what is left."""
        of_tables = [*self.first_order.parameters()]
        of_tables += [] if self.tables is None else [*self.tables.parameters()]
        others = [p for p in self.parameters() if all(p is not table for table in of_tables)]
        return [
            torch.optim.SparseAdam(of_tables, lr=LEARNING_RATE),
            torch.optim.Adam(others, lr=LEARNING_RATE),
        ]


def prepare(task: Task, name: str) -> Prepared:
    """Builds the model; an epoch's batches are those of ours."""
    schema = ours.schema_of(task.workload)
    train, scored = (ours.dataset_of(schema, split) for split in (task.train, task.score))
    model = Textbook(name, task.workload)

    def fit() -> None:
        optimizers = model.optimizers()
        for epoch in range(task.epochs):
            for batch in train.epoch(BATCH_SIZE, seed=0, epoch=epoch).batches():
                logits = model(batch.inputs)
                loss = nn.functional.binary_cross_entropy_with_logits(logits, batch.label)
                model.zero_grad()
                loss.backward()
                for optimizer in optimizers:
                    optimizer.step()

    def predict() -> np.ndarray:
        rows = range(0, scored.inputs.num_rows, BATCH_SIZE)
        with torch.no_grad():
            parts = [model(scored.inputs.select(slice(k, k + BATCH_SIZE))) for k in rows]
        return torch.cat(parts).sigmoid().numpy()

    return Prepared(model, fit, predict, notes="tables by SparseAdam, all else by Adam")


def main() -> None:
    options = parser()
    options.add_argument("--model", choices=MODELS, required=True)
    arguments = options.parse_args()
    arguments.precision = "fp32"
    name = arguments.model
    run(f"textbook {name}", "torch", lambda task: prepare(task, name), arguments)


if __name__ == "__main__":
    main()
