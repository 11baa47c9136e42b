"""What negatives cost: an epoch of MovieLens-100K with a loss of rows and with a loss by pairs.

    python benchmarks/negatives.py --data-dir data/ml-100k --threads 1

The same model, `fm` with dims of 64, is trained for one epoch in each of `WAYS`, each in a process
of its own, in turn, `REPEATS` times. A line of JSON per way has the medians: CPU seconds of the
steps (batches drawn, forward and backward pass, update; no evaluation), those of the first way
times how many, MiB that the process has at its peak, and how many of them came with the steps.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import torch

from deepfm.config import ExperimentConfig, config_from_dict
from deepfm.experiment import load_data
from deepfm.models import build_model
from deepfm.training.optimizers import assign_optimizers
from deepfm.training.schedules import build_schedules
from deepfm.training.steps import TrainingStep

REPEATS = 3
WAYS: dict[str, dict[str, Any]] = {
    "BCE, 4 negatives per positive": {
        "data": {"num_neg_train": 4},
        "training": {"batch_size": 2048},
    },
    "BCE, 16 negatives per positive": {
        "data": {"num_neg_train": 16},
        "training": {"batch_size": 2048},
    },
    "sampled softmax, 1,024 negatives shared by 1,024 positives": {
        "data": {"num_neg_train": 1024, "negatives_shared": True},
        "training": {"batch_size": 1024, "losses": "sampled_softmax"},
    },
    "the same, with the last 20 events of each user": {
        "data": {
            "num_neg_train": 1024,
            "negatives_shared": True,
            "history": {"max_length": 20, "ties": "order"},
        },
        "training": {"batch_size": 1024, "losses": "sampled_softmax"},
    },
}


class Measured(NamedTuple):
    """What an epoch cost.

    Attributes:
        cpu_seconds: Of its steps.
        peak_mib: MiB that the process had at its peak.
        mib_of_steps: How many of these came with the steps.
    """

    cpu_seconds: float
    peak_mib: float
    mib_of_steps: float


def config_of(way: str, data_dir: str) -> ExperimentConfig:
    """The config of a way."""
    settings = WAYS[way]
    return config_from_dict(
        {
            "model_name": "fm",
            "feature": {"fm_embedding_dim": 64, "embedding_dim": 64, "init": "normal(0.03)"},
            "data": {"data_dir": data_dir} | settings["data"],
            "training": {"gradient_clip_norm": None} | settings["training"],
        }
    )


def epoch_of(config: ExperimentConfig) -> Measured:
    """Train for an epoch, and say what it cost."""
    data = load_data(config)
    model = build_model(data.encoders.schema, config).train()
    assigned = assign_optimizers(model, config.training)
    schedules = build_schedules(assigned, config.training, maximize=True)
    step = TrainingStep(model, config.training, assigned, schedules)
    before, start = _peak_mib(), time.process_time()
    for batch in data.train.epoch(config.training.batch_size, seed=1, epoch=0).batches():
        step.add(batch)
        step.update()
    seconds = time.process_time() - start
    return Measured(seconds, _peak_mib(), _peak_mib() - before)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _run(way: str, data_dir: str, threads: int) -> Measured:
    torch.set_num_threads(threads)
    return epoch_of(config_of(way, data_dir))


def main() -> None:
    """Measure all ways, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", default="data/ml-100k")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    found: dict[str, list[Measured]] = {way: [] for way in WAYS}
    context = multiprocessing.get_context("spawn")  # a peak of its own for each epoch
    for _ in range(REPEATS):
        for way, runs in found.items():
            with ProcessPoolExecutor(1, context) as pool:
                measured = pool.submit(_run, way, arguments.data_dir, arguments.threads)
                runs.append(measured.result())
    first = None
    for way, runs in found.items():
        median = Measured(*map(statistics.median, zip(*runs, strict=True)))
        first = first or median.cpu_seconds
        figures = {"of_first": median.cpu_seconds / first} | median._asdict()
        print(json.dumps({"way": way} | {key: round(value, 2) for key, value in figures.items()}))


if __name__ == "__main__":
    main()
