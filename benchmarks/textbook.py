"""Whether our engine learns what the textbook implementation learns, before it is timed.

    python benchmarks/textbook.py --rows 300000

The textbook: one `nn.Embedding` per field and another for its first-order weights,
`torch.optim.Adam` over everything or `torch.optim.SparseAdam` for the tables, a loop of five
lines. Ours goes through `Trainer.fit`. Both begin with the same weights and see the same batches
of W1; what is compared is the AUC of the score split, a mean over seeds. The lazy optimizers
differ in where eps is added (see `deepfm.training.optimizers.LazyAdam`). Ours in bfloat16 must
learn as much as ours in float32.
"""

import argparse
import json
import statistics
from collections.abc import Sequence

import numpy as np
import ours
import torch
import workloads
from peers.measure import Task, auc
from torch import Tensor, nn
from workloads import BATCH_SIZE, LEARNING_RATE, WORKLOADS

from deepfm.data.batch import Batch, Inputs
from deepfm.models import build_model
from deepfm.models.base import BaseCTRModel

SEEDS = {"lazy_adam": (0, 1, 2), "adam": (0,)}  # the exact one takes long
TOLERANCE = 0.002  # of the mean AUC


class TextbookDeepFM(nn.Module):
    """DeepFM over sparse and raw dense fields, with the initial weights of one of ours.

    Args:
        model: Whose weights are copied.
        sparse: Whether the tables' gradients are sparse tensors.
    """

    def __init__(self, model: BaseCTRModel, *, sparse: bool) -> None:
        super().__init__()
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        names = [field.name for field in model.schema.sparse_fields]

        def tables(suffix: str) -> nn.ModuleList:
            return nn.ModuleList(
                nn.Embedding.from_pretrained(
                    weights[f"embedding.tables.{name}{suffix}.weight"], freeze=False, sparse=sparse
                )
                for name in names
            )

        self.tables, self.first_order = tables(""), tables("_wide")
        self.linear = nn.Parameter(weights["embedding.dense_first_order"])
        self.bias = nn.Parameter(weights["bias"])
        layers: list[nn.Module] = []
        for theirs in (module for module in model.dnn.modules() if isinstance(module, nn.Linear)):
            has_bias = theirs.bias is not None
            layers += [nn.Linear(theirs.in_features, theirs.out_features, has_bias), nn.ReLU()]
            layers[-2].load_state_dict(theirs.state_dict())
        self.dnn = nn.Sequential(*layers[:-1])

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits, (B,)."""
        ids = inputs.sparse.unbind(1)
        embeddings = [table(column) for table, column in zip(self.tables, ids, strict=True)]
        stacked = torch.stack(embeddings, dim=1)  # (B, F, D)
        second_order = 0.5 * (stacked.sum(1) ** 2 - (stacked**2).sum(1)).sum(1)
        first_order = sum(
            table(column).squeeze(1) for table, column in zip(self.first_order, ids, strict=True)
        )
        deep = self.dnn(torch.cat([stacked.flatten(1), inputs.dense], dim=1)).squeeze(1)
        return self.bias + first_order + inputs.dense @ self.linear + second_order + deep

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for everything, or SparseAdam for tables whose gradients are sparse."""
        if not self.tables[0].sparse:
            return [torch.optim.Adam(self.parameters(), lr=LEARNING_RATE, fused=True)]
        tables = [*self.tables.parameters(), *self.first_order.parameters()]
        others = [self.linear, self.bias, *self.dnn.parameters()]
        return [
            torch.optim.Adam(others, lr=LEARNING_RATE),
            torch.optim.SparseAdam(tables, lr=LEARNING_RATE),
        ]

    def fit(self, batches: Sequence[Batch]) -> None:
        """One step per batch."""
        optimizers = self.optimizers()
        for batch in batches:
            loss = nn.functional.binary_cross_entropy_with_logits(self(batch.inputs), batch.label)
            self.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()

    @torch.no_grad()
    def predict(self, inputs: Inputs) -> np.ndarray:
        """Probabilities of all rows, (N,)."""
        parts = [
            self(inputs.select(slice(start, start + BATCH_SIZE))).sigmoid()
            for start in range(0, inputs.num_rows, BATCH_SIZE)
        ]
        return torch.cat(parts).numpy()


def learned_by_ours(task: Task, optimizer: str, seed: int, precision: str = "fp32") -> np.ndarray:
    """Probabilities of the score split by ours after an epoch."""
    prepared = ours.prepare(task, optimizer, precision=precision, seed=seed)
    prepared.fit()
    return prepared.predict()


def learned(task: Task, optimizer: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the score split by ours and by the textbook after an epoch.

    `optimizer` is `adam` or `lazy_adam`.
    """
    probability = learned_by_ours(task, optimizer, seed)
    schema = ours.schema_of(task.workload)
    start = build_model(schema, ours.config_of(task.workload, optimizer, seed=seed))
    textbook = TextbookDeepFM(start, sparse=optimizer == "lazy_adam")
    train, score = (ours.dataset_of(schema, split) for split in (task.train, task.score))
    textbook.fit(train.epoch(BATCH_SIZE, seed=seed, epoch=0).batches())
    return probability, textbook.predict(score.inputs)


def main() -> None:
    """Prints the AUC of all as a line of JSON, and whether ours is as good."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--score-rows", type=int, default=100_000)
    parser.add_argument(
        "--precisions", nargs="+", choices=ours.PRECISIONS, default=list(ours.PRECISIONS)
    )
    arguments = parser.parse_args()
    train, score = workloads.load("W1", rows=arguments.rows, score_rows=arguments.score_rows)
    task = Task(WORKLOADS["W1"], train, score, epochs=1)
    found, as_good = {}, True
    for optimizer, seeds in SEEDS.items():
        values: dict[str, list[float]] = {"ours": [], "textbook": []}
        for seed in seeds:
            for who, probability in zip(values, learned(task, optimizer, seed), strict=True):
                values[who].append(round(auc(score.label, probability), 4))
        pairs = [("ours", "textbook")]
        if optimizer == "lazy_adam" and "bf16" in arguments.precisions:
            values["ours in bf16"] = [
                round(auc(score.label, learned_by_ours(task, optimizer, seed, "bf16")), 4)
                for seed in seeds
            ]
            pairs.append(("ours in bf16", "ours"))
        found[optimizer] = values
        mean = {who: statistics.mean(of_seeds) for who, of_seeds in values.items()}
        as_good &= all(mean[who] >= mean[other] - TOLERANCE for who, other in pairs)
    result = {"rows": arguments.rows, "auc": found, "as_good": as_good}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
