"""pytorch-widedeep's DeepFM plus its wide part through `Trainer.fit` and `predict_proba`.

Dense fields are embedded (624 DNN inputs on W1), the DNN ends in 16 rectified outputs, summed, and
the first-order term is the package's wide component over the sparse fields. A multi-hot field
does not exist; its first id is used. Where the workload normalizes, batch norm follows the
activation. No worker processes (its default is one per core).
"""

import numpy as np
import torch
from measure import Prepared, Task, run
from variants import adam
from workloads import BATCH_SIZE, EMBEDDING_DIM, LEARNING_RATE, Split

try:
    import torchvision  # noqa: F401
except RuntimeError:
    # pytorch-widedeep imports torchvision, whose build for CUDA cannot load its operators beside
    # a CPU build of torch and then fails for want of these two names; nothing here calls them
    VISION = torch.library.Library("torchvision", "FRAGMENT")
    for _operator in ("nms", "qnms"):
        VISION.define(f"{_operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from pytorch_widedeep import Trainer
from pytorch_widedeep.initializers import Normal
from pytorch_widedeep.models import Wide, WideDeep
from pytorch_widedeep.models.rec import DeepFactorizationMachine


def _inputs(split: Split, cardinalities: list[int]) -> dict[str, np.ndarray]:
    sparse = np.concatenate([split.sparse, split.sequence[:, :1]], axis=1)
    offsets = np.concatenate([[0], np.cumsum(cardinalities)[:-1]])  # one table for the wide part
    tabular = np.concatenate([sparse, split.dense], axis=1).astype(np.float32)
    return {"X_wide": sparse + offsets, "X_tab": tabular}


def prepare(task: Task) -> Prepared:
    """Builds the model with the workload's settings."""
    workload = task.workload
    cardinalities = [*workload.cardinalities]
    cardinalities += [workload.sequence_cardinality] if workload.sequence_length else []
    sparse = [f"s{i}" for i in range(len(cardinalities))]
    dense = [f"d{i}" for i in range(workload.dense)]
    deep = DeepFactorizationMachine(
        column_idx={name: i for i, name in enumerate(sparse + dense)},
        num_factors=EMBEDDING_DIM,
        cat_embed_input=list(zip(sparse, cardinalities, strict=True)),
        continuous_cols=dense or None,
        mlp_hidden_dims=list(workload.hidden),
        mlp_dropout=workload.dropout,
        mlp_batchnorm=workload.batch_norm,
        mlp_linear_first=True,
    )
    model = WideDeep(wide=Wide(input_dim=sum(cardinalities)), deeptabular=deep)
    trainer = Trainer(
        model,
        objective="binary",
        optimizers=adam(model.parameters(), task.variant, lr=LEARNING_RATE),
        # its defaults, normal(0, 1) embeddings first of all, take many epochs to unlearn
        initializers={"wide": Normal(std=0.01), "deeptabular": Normal(std=0.01, pattern="embed")},
        num_workers=0,
        verbose=0,
    )
    train, score = (_inputs(split, cardinalities) for split in (task.train, task.score))
    return Prepared(
        model,
        fit=lambda: trainer.fit(
            **train, target=task.train.label, n_epochs=task.epochs, batch_size=BATCH_SIZE
        ),
        predict=lambda: trainer.predict_proba(**score, batch_size=BATCH_SIZE)[:, 1],
        notes="dense fields embedded; first-order term by its wide part; first genre only",
    )


if __name__ == "__main__":
    run("pytorch-widedeep", "pytorch-widedeep", prepare)
