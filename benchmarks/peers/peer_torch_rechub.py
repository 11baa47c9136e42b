"""Torch-RecHub's DeepFM through `CTRTrainer.fit` and `predict`, fed by its `DataGenerator`.

Dense fields go raw into the DNN only (429 inputs on W1). There are no first-order tables: the
linear part is one linear layer over the concatenated embeddings. The DNN always has batch
normalization, on W1 and W2 too, and the embedding is looked up twice per step, for the FM and
for the DNN. The trainer's default weight decay of 1e-5 is switched off.
"""

from tempfile import TemporaryDirectory

import numpy as np
from measure import Prepared, Task, run
from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature
from torch_rechub.models.ranking import DeepFM
from torch_rechub.trainers import CTRTrainer
from torch_rechub.utils.data import DataGenerator
from variants import adam_options
from workloads import BATCH_SIZE, EMBEDDING_DIM, LEARNING_RATE, Split


def _inputs(split: Split) -> dict[str, np.ndarray]:
    columns = {f"s{i}": ids for i, ids in enumerate(split.sparse.T)}
    columns |= {f"d{i}": values for i, values in enumerate(split.dense.T)}
    return columns | ({"sequence": split.sequence} if split.sequence.shape[1] else {})


def prepare(task: Task) -> Prepared:
    """Builds the model with the workload's settings."""
    workload = task.workload
    sparse = [
        SparseFeature(f"s{i}", vocab_size=size, embed_dim=EMBEDDING_DIM)
        for i, size in enumerate(workload.vocabulary_sizes)
    ]
    if workload.sequence_length:
        size = workload.sequence_vocabulary_size
        sparse.append(SequenceFeature("sequence", size, EMBEDDING_DIM, "mean", padding_idx=0))
    dense = [DenseFeature(f"d{i}") for i in range(workload.dense)]
    model = DeepFM(
        deep_features=sparse + dense,
        fm_features=sparse,
        mlp_params={"dims": list(workload.hidden), "dropout": workload.dropout},
    )
    score_inputs = _inputs(task.score)
    train, _, score = DataGenerator(_inputs(task.train), task.train.label).generate_dataloader(
        x_val=score_inputs,
        y_val=task.score.label,
        x_test=score_inputs,
        y_test=task.score.label,
        batch_size=BATCH_SIZE,
    )
    scratch = TemporaryDirectory()  # the trainer saves the weights when it is done
    trainer = CTRTrainer(
        model,
        optimizer_params={"lr": LEARNING_RATE, **adam_options(task.variant)},
        n_epoch=task.epochs,
        model_path=scratch.name,
    )

    def fit() -> None:
        with scratch:
            trainer.fit(train)

    return Prepared(
        model,
        fit,
        predict=lambda: np.array(trainer.predict(model, score)),
        notes="always batch norm; no first-order tables; embeds twice per step; no weight decay",
    )


if __name__ == "__main__":
    run("torch-rechub", "torch-rechub", prepare)
