"""Training speed of our own engine, as a share of the machine's matrix-product rate.

    python benchmarks/engine.py --workload W1 [--sparse-optimizer lazy_adam] [--steps 60] [--parts]

Trains DeepFM on a workload of `workloads.py` through `Trainer.fit`, without clipping and L2,
times successive steps, and then scores rows: CPU time at one thread, wall clock at several. The
floor is the time of the matrix products alone, forward and both backward ones of every linear
layer, measured before and after in the same process; of scoring, the forward ones. `--parts`
prints where the time of a step goes instead.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import time
from collections.abc import Callable

import torch
import workloads  # beside this script
from torch.optim.optimizer import register_optimizer_step_post_hook

from deepfm.config import config_from_dict
from deepfm.data.dataset import TabularDataset
from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.evaluation.scoring import score
from deepfm.models import build_model
from deepfm.training.optimizers import SPARSE_OPTIMIZER_CLASSES
from deepfm.training.trainer import Trainer

WARM_UP = 6
SCORE_ROWS = 5 * workloads.BATCH_SIZE


def dataset(workload: workloads.Workload, split: workloads.Split) -> TabularDataset:
    """A split of a workload, dense fields raw."""
    fields, columns = [], {}
    for k in range(workload.dense):
        fields.append(FieldSchema(f"d{k}", "dense"))
        columns[f"d{k}"] = split.dense[:, k]
    for k, size in enumerate(workload.vocabulary_sizes):
        dim = workloads.EMBEDDING_DIM
        fields.append(FieldSchema(f"s{k}", "sparse", vocabulary_size=size, embedding_dim=dim))
        columns[f"s{k}"] = split.sparse[:, k]
    if workload.sequence_cardinality:
        fields.append(
            FieldSchema(
                "sequence",
                "sequence",
                vocabulary_size=workload.sequence_vocabulary_size,
                embedding_dim=workloads.EMBEDDING_DIM,
                max_length=workload.sequence_length,
            )
        )
        columns["sequence"] = (split.sequence, split.lengths)
    schema = DatasetSchema(fields={f.name: f for f in fields}, label_field="label")
    return TabularDataset.from_arrays(schema, columns, split.label)


def experiment(workload: workloads.Workload, sparse_optimizer: str | None):
    """The configuration that the peers are measured with."""
    return config_from_dict(
        {
            "feature": {"fm_embedding_dim": workloads.EMBEDDING_DIM, "embedding_l2_reg": 0.0},
            "dnn": {
                "hidden_units": list(workload.hidden),
                "use_batch_norm": workload.batch_norm,
                "dropout": workload.dropout,
            },
            "training": {
                "epochs": 1,
                "batch_size": workloads.BATCH_SIZE,
                "lr": workloads.LEARNING_RATE,
                "sparse_optimizer": sparse_optimizer,
                "gradient_clip_norm": None,
                "scheduler": "none",
            },
        }
    )


def floor_seconds(widths: list[int], clock: Callable[[], float], *, backward: bool) -> float:
    """Time of the matrix products of a step: output, weight gradient, input gradient."""
    rows = workloads.BATCH_SIZE
    activations = [torch.randn(rows, width) for width in widths]
    weights = [torch.randn(out, into) for into, out in itertools.pairwise(widths)]

    def products() -> None:
        for x, weight, gradient in zip(activations, weights, activations[1:], strict=False):
            x @ weight.t()
            if backward:
                gradient.t() @ x
                gradient @ weight

    return median_seconds(products, clock, repeats=9)


def median_seconds(call: Callable[[], object], clock: Callable[[], float], repeats: int) -> float:
    """Median time of a call, after one that does not count."""
    call()
    times = []
    for _ in range(repeats):
        start = clock()
        call()
        times.append(clock() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=workloads.WORKLOADS, default="W1")
    parser.add_argument(
        "--sparse-optimizer",
        choices=[*SPARSE_OPTIMIZER_CLASSES, "none"],
        default="lazy_adam",
        help="of the tables; none: dense Adam",
    )
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", action="store_true", help="profile the steps by operator")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    workload = workloads.WORKLOADS[arguments.workload]
    rows = (arguments.steps + WARM_UP) * workloads.BATCH_SIZE
    train, valid = workloads.load(workload.name, rows=rows, score_rows=SCORE_ROWS)
    train, valid = dataset(workload, train), dataset(workload, valid)
    name = arguments.sparse_optimizer
    config = experiment(workload, None if name == "none" else name)
    model = build_model(train.schema, config)
    widths = [model.embedding.total_dim, *workload.hidden, 1]

    before = floor_seconds(widths, clock, backward=True)
    ends: list[float] = []
    last = torch.optim.Adam if name == "none" else SPARSE_OPTIMIZER_CLASSES[name]

    def note_end(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        if isinstance(optimizer, last):  # the only optimizer of a step, or the second one
            ends.append(clock())

    register_optimizer_step_post_hook(note_end)
    trainer = Trainer(config.training)
    if arguments.parts:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            trainer.fit(model, train, valid)
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=40))
        return
    trainer.fit(model, train, valid)
    after = floor_seconds(widths, clock, backward=True)
    steps = [end - start for start, end in itertools.pairwise(ends[WARM_UP:])]
    quartiles = statistics.quantiles(steps, n=4)
    step, floor = quartiles[1], min(before, after)
    print(
        f"{workload.name} {name}: {workloads.BATCH_SIZE / step:,.0f} rows/s, "
        f"{step * 1e3:.1f} ms per step (quartiles {quartiles[0] * 1e3:.1f} and "
        f"{quartiles[2] * 1e3:.1f}); matrix products {before * 1e3:.1f} and {after * 1e3:.1f} ms, "
        f"{workloads.BATCH_SIZE / floor:,.0f} rows/s; share {floor / step:.1%}"
    )
    products = floor_seconds(widths, clock, backward=False) / workloads.BATCH_SIZE
    batch_size = trainer.eval_batch_size
    seconds = median_seconds(
        lambda: score(model, valid.inputs, batch_size=batch_size), clock, repeats=5
    )
    print(
        f"scoring: {SCORE_ROWS / seconds:,.0f} rows/s; matrix products {1 / products:,.0f} rows/s; "
        f"share {products * SCORE_ROWS / seconds:.1%}; peak memory of the process "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
    )


if __name__ == "__main__":
    main()
