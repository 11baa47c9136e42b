"""torchfm's DeepFM; the package has no loop, so this is the plain one of its example script.

That is a DataLoader over a dataset that returns one row per index, binary cross-entropy, Adam,
and for scoring a list that is extended batch by batch; no worker processes (one core), shuffled.
The model knows categorical fields only: dense fields are cut into 100 buckets each and embedded
(624 DNN inputs on W1), and of the multi-hot field it gets the first id. It always has batch
normalization in the DNN, on W1 and W2 too. All fields share one table.
"""

import numpy as np
import torch
from measure import Prepared, Task, run
from torch.utils.data import DataLoader, Dataset
from torchfm.model.dfm import DeepFactorizationMachineModel
from variants import adam
from workloads import BATCH_SIZE, EMBEDDING_DIM, LEARNING_RATE, Split

BUCKETS = 100


class Rows(Dataset):
    """One row of ids and its label per index."""

    def __init__(self, split: Split) -> None:
        buckets = (split.dense * BUCKETS).astype(np.int64).clip(0, BUCKETS - 1)
        self.items = np.concatenate([buckets, split.sparse, split.sequence[:, :1]], axis=1)
        self.targets = split.label

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.float32]:
        return self.items[index], self.targets[index]


def prepare(task: Task) -> Prepared:
    """Builds the model with the workload's settings."""
    workload = task.workload
    sizes = [BUCKETS] * workload.dense + workload.vocabulary_sizes
    sizes += [workload.sequence_vocabulary_size] if workload.sequence_length else []
    model = DeepFactorizationMachineModel(
        sizes, EMBEDDING_DIM, mlp_dims=workload.hidden, dropout=workload.dropout
    )
    optimizer = adam(model.parameters(), task.variant, lr=LEARNING_RATE)
    criterion = torch.nn.BCELoss()
    train = DataLoader(Rows(task.train), batch_size=BATCH_SIZE, shuffle=True)
    score = DataLoader(Rows(task.score), batch_size=BATCH_SIZE)

    def fit() -> None:
        model.train()
        for _ in range(task.epochs):
            for items, targets in train:
                loss = criterion(model(items), targets)
                model.zero_grad()
                loss.backward()
                optimizer.step()

    def predict() -> np.ndarray:
        model.eval()
        probabilities: list[float] = []
        with torch.no_grad():
            for items, _ in score:
                probabilities.extend(model(items).tolist())
        return np.array(probabilities)

    return Prepared(
        model,
        fit,
        predict,
        notes="no loop of its own: plain DataLoader loop; dense fields bucketized and embedded; "
        "first genre only; always batch norm",
    )


if __name__ == "__main__":
    run("torchfm", "torchfm", prepare)
