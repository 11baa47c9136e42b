"""Training runs of several processes, and of one, for tests: `python -m tests.training.processes`.

Each process reads a list of cases and runs them one after the other; the first one writes what
came out of each into a folder.
"""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from deepfm import experiment
from deepfm.commands import processes
from deepfm.config import load_config
from deepfm.models import build_model
from deepfm.models.features import STORAGES
from deepfm.training import trainer as trainer_module
from deepfm.training.gathering import whole_state
from deepfm.training.trainer import Trainer
from deepfm.utils.heartbeat import end_now
from deepfm.utils.workers import ALONE, workers_of_environment
from tests import tiny

# What makes rounding the only difference between runs of one process and of several.
COMMON = {
    "dnn__norm": "none",
    "dnn__dropout": 0.0,
    "training__precision": "fp32",
    "training__epochs": 2,
    "training__batch_size": 96,
    "training__log_every_steps": 1,
    "training__threads": 1,
    "training__early_stopping_patience": None,
}


def cases_of(changes, make_folder, **more):
    """By name and whether numbers are float64, what `outcome` is asked for.

    Args:
        changes: By name, what a case changes of `COMMON`.
        make_folder: Makes a folder of some name.
        more: What else `outcome` is asked for.
    """
    tiny.register()
    found = {}
    for name, of_case in changes.items():
        path = tiny.write_config(make_folder("case"), **(COMMON | of_case))
        for double in (False, True):
            found[name, double] = {"config": str(path), "double": double, **more}
    return found


def doubled(dataset):
    """The same rows, and the items that they are completed with, in float64."""

    def of(inputs):
        return inputs._replace(dense=inputs.dense.double())

    dataset.inputs, dataset.label = of(dataset.inputs), dataset.label.double()
    if (sampling := dataset.negatives) is not None:
        catalogue = sampling.catalogue._replace(inputs=of(sampling.catalogue.inputs))
        pairs = sampling.pairs and replace(sampling.pairs, items=of(sampling.pairs.items))
        dataset.negatives = replace(sampling, catalogue=catalogue, pairs=pairs)
    if (task := dataset.ranking) is not None:
        catalogue = task.catalogue._replace(inputs=of(task.catalogue.inputs))
        dataset.ranking = task._replace(catalogue=catalogue)
    return dataset


def outcome(case, workers=ALONE):
    """Losses of all steps, metrics of each epoch and final weights of a training run.

    Args:
        case: `config`, a path, `double`: whether all numbers are float64, and perhaps `kinds`:
            how tables that processes share out may be cut, and `shares_batch_norm`: whether its
            statistics are those of all processes, as on a GPU.
    """
    trainer_module.SHARES_BATCH_NORM = ("cpu",) if case.get("shares_batch_norm") else ("cuda",)
    if "kinds" in case:
        from deepfm.models.sharded.tables import ShardedTables

        STORAGES["torchrec"] = partial(ShardedTables, kinds=case["kinds"])
    config = load_config(case["config"])
    data = experiment.load_data(config)
    model = build_model(data.encoders.schema, config)
    train, valid = data.train, data.valid
    if case["double"]:
        model, train, valid = model.double(), doubled(train), doubled(valid)
    losses = []
    trainer = Trainer(config.training, config.evaluation, seed=config.seed, workers=workers)
    torch.set_default_dtype(torch.float64 if case["double"] else torch.float32)
    try:
        state = trainer.fit(
            model,
            train,
            valid,
            record=lambda step, figures: losses.append(figures.get("train/loss")),
        )
    finally:
        torch.set_default_dtype(torch.float32)
    whole = whole_state(state, model, workers)
    history = [{k: v for k, v in entry.items() if k != "seconds"} for entry in state.history]
    return {
        "losses": [loss for loss in losses if loss is not None],
        "history": history,
        "weights": {name: weight.clone() for name, weight in whole["model"].items()},
        "ema": dict(state.ema),
    }


def environments(count):
    """The variables of each of so many processes, which have a thread each."""
    return [one | {"OMP_NUM_THREADS": "1"} for one in processes.environments(count)]


def outcomes_of(count, cases, folder):
    """`outcome` of each case, by its key, run by so many processes."""
    (folder / "cases.json").write_text(json.dumps(list(cases.values())))
    command = [sys.executable, "-m", "tests.training.processes", str(folder)]
    started = [
        subprocess.Popen(command, env=one, stderr=subprocess.PIPE, text=True)
        for one in environments(count)
    ]
    errors = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0] * count, errors
    return {key: torch.load(folder / f"{number}.pt") for number, key in enumerate(cases)}


if __name__ == "__main__":
    tiny.register()
    torch.set_num_threads(1)
    here = Path(sys.argv[1])
    with workers_of_environment() as workers:
        for number, case in enumerate(json.loads((here / "cases.json").read_text())):
            found = outcome(case, workers)
            if workers.is_first:
                torch.save(found, here / f"{number}.pt")
    end_now(0)  # as `deepfm.cli.command` does
