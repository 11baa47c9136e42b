"""DeepCTR-Torch's DeepFM through its own `fit` and `predict`.

Its model is the nearest to ours: dense fields go raw into the linear part and the DNN (429
inputs on W1), a first-order weight per id, mean pooling of the multi-hot field. It differs in
the loss, which it sums over the batch (Adam does not care), and in the hidden initialization.
Its L2 terms, 1e-5 by default and over whole tables at every step, are switched off.
"""

import numpy as np
from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat
from deepctr_torch.models import DeepFM
from measure import Prepared, Task, run
from variants import adam
from workloads import BATCH_SIZE, EMBEDDING_DIM, LEARNING_RATE, Split


def _inputs(split: Split) -> dict[str, np.ndarray]:
    columns = {f"s{i}": ids for i, ids in enumerate(split.sparse.T)}
    columns |= {f"d{i}": values for i, values in enumerate(split.dense.T)}
    return columns | {"sequence": split.sequence, "lengths": split.lengths}


def prepare(task: Task) -> Prepared:
    """Builds the model with the workload's settings."""
    workload = task.workload
    columns = [
        SparseFeat(f"s{i}", size, embedding_dim=EMBEDDING_DIM)
        for i, size in enumerate(workload.vocabulary_sizes)
    ]
    columns += [DenseFeat(f"d{i}", 1) for i in range(workload.dense)]
    if workload.sequence_length:
        feature = SparseFeat("sequence", workload.sequence_vocabulary_size, EMBEDDING_DIM)
        columns.append(
            VarLenSparseFeat(
                feature, maxlen=workload.sequence_length, combiner="mean", length_name="lengths"
            )
        )
    model = DeepFM(
        columns,
        columns,
        dnn_hidden_units=workload.hidden,
        dnn_use_bn=workload.batch_norm,
        dnn_dropout=workload.dropout,
        l2_reg_linear=0.0,
        l2_reg_embedding=0.0,
        device=task.device,
    )
    model.compile(adam(model.parameters(), task.variant, lr=LEARNING_RATE), "binary_crossentropy")
    train, score = _inputs(task.train), _inputs(task.score)
    return Prepared(
        model,
        fit=lambda: model.fit(
            train, task.train.label, batch_size=BATCH_SIZE, epochs=task.epochs, verbose=0
        ),
        predict=lambda: model.predict(score, batch_size=BATCH_SIZE),
        notes="L2 off (its default is 1e-5 over whole tables)",
    )


if __name__ == "__main__":
    run("deepctr-torch", "deepctr-torch", prepare, devices=("cpu", "cuda"))
