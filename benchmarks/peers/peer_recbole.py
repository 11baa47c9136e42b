"""RecBole's DeepFM through `Trainer.fit`; scored batch by batch by its loader and `predict`.

RecBole has no call that returns the scores of a data set, only one that returns metrics, so the
loop around `model.predict` is ours. It embeds the dense fields (624 DNN inputs on W1) and its
DNN has no batch normalization, on W3 neither. Data are read from its atomic text files. It would
size its tables by the ids that occur in the data, 3.8 times smaller ones on W1; here they have
the rows of the workload's vocabulary, like everybody's. All fields but the multi-hot one share a
table.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from measure import Prepared, Task, run
from recbole.config import Config
from recbole.data import data_preparation
from recbole.data.dataset import Dataset
from recbole.model.context_aware_recommender import DeepFM
from recbole.trainer import Trainer
from variants import SHIPPED, adam
from workloads import BATCH_SIZE, EMBEDDING_DIM, LEARNING_RATE, Split

NAME = "benchmark"


def _write(folder: Path, part: str, split: Split) -> None:
    """An atomic file: one row per line, the type of each column in its header."""
    columns = {"label:float": split.label}
    columns |= {f"d{i}:float": values for i, values in enumerate(split.dense.T)}
    columns |= {f"s{i}:token": ids for i, ids in enumerate(split.sparse.T)}
    if split.sequence.shape[1]:
        columns["sequence:token_seq"] = [
            " ".join(map(str, ids[:length]))
            for ids, length in zip(split.sequence, split.lengths, strict=True)
        ]
    pd.DataFrame(columns).to_csv(folder / f"{NAME}.{part}.inter", sep="\t", index=False)


def prepare(task: Task) -> Prepared:
    """Writes the data as RecBole reads them and builds the model with the workload's settings."""
    workload = task.workload
    sizes = {f"s{i}": size for i, size in enumerate(workload.vocabulary_sizes)}
    sizes["sequence"] = workload.sequence_vocabulary_size

    class FullVocabulary(Dataset):
        """A dataset whose tables have a row for every id of the workload."""

        def num(self, field: str) -> int:
            return sizes.get(field) or super().num(field)

    scratch = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    os.chdir(scratch)  # the trainer writes event files into the working directory as it goes
    folder = Path(scratch) / NAME
    folder.mkdir()
    _write(folder, "train", task.train)
    _write(folder, "valid", Split(*(array[:BATCH_SIZE] for array in task.score)))
    _write(folder, "score", task.score)
    config = Config(
        model="DeepFM",
        dataset=NAME,
        config_dict={
            "data_path": scratch,
            "benchmark_filename": ["train", "valid", "score"],
            "USER_ID_FIELD": None,
            "ITEM_ID_FIELD": None,
            "load_col": None,
            "numerical_features": [f"d{i}" for i in range(workload.dense)],
            "train_neg_sample_args": None,
            "eval_args": {"group_by": None, "order": "RO", "mode": "labeled"},
            "metrics": ["AUC"],
            "valid_metric": "AUC",
            "embedding_size": EMBEDDING_DIM,
            "mlp_hidden_size": list(workload.hidden),
            "dropout_prob": workload.dropout,
            "train_batch_size": BATCH_SIZE,
            "eval_batch_size": BATCH_SIZE,
            "learning_rate": LEARNING_RATE,
            "epochs": task.epochs,
            "use_gpu": task.device == "cuda",
            "gpu_id": "0",
        },
    )
    train, _, score = data_preparation(config, FullVocabulary(config))
    model = DeepFM(config, train.dataset).to(config["device"])
    trainer = Trainer(config, model)
    if task.variant != SHIPPED:
        trainer.optimizer = adam(model.parameters(), task.variant, lr=LEARNING_RATE)

    def predict() -> np.ndarray:
        model.eval()
        with torch.no_grad():
            batches = (batch[0].to(config["device"]) for batch in score)
            return torch.cat([model.predict(batch).cpu() for batch in batches]).numpy()

    return Prepared(
        model,
        fit=lambda: trainer.fit(train, saved=False),
        predict=predict,
        notes="dense fields embedded; no batch norm; full tables instead of the ids seen; scored "
        "by a loop over its loader and model.predict",
    )


if __name__ == "__main__":
    run("recbole", "recbole", prepare, devices=("cpu", "cuda"))
