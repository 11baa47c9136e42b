"""The floor: how fast this machine computes nothing but the DNN's matrix products.

    python benchmarks/floor.py --workload W1 --threads 1

A training step needs three products per linear layer: the output, the gradient of the weights
and the gradient of the input (of the first layer's too, since embeddings are trained). Scoring
needs the first. They are timed in the order of a step, at the workload's batch size, into
buffers that exist already. No engine that computes them in float32 by the same library is
faster, however cheap its embeddings, loading and optimizer are. The DNN is ours: dense fields
raw (429 inputs on W1).
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
import workloads
from workloads import BATCH_SIZE, EMBEDDING_DIM, Workload

WARM_UP_STEPS = 5
STEPS = 30


def layers(workload: Workload) -> list[tuple[int, int]]:
    """Inputs and outputs of each linear layer of the DNN, the logit's included."""
    fields = len(workload.cardinalities) + bool(workload.sequence_length)
    widths = [fields * EMBEDDING_DIM + workload.dense, *workload.hidden, 1]
    return list(pairwise(widths))


def flops_per_row(workload: Workload) -> int:
    """Operations of a forward pass, two per weight; a training step has three times as many."""
    return sum(2 * inputs * outputs for inputs, outputs in layers(workload))


def products(
    workload: Workload, *, rows: int = BATCH_SIZE
) -> tuple[list[Callable[[], object]], list[Callable[[], object]]]:
    """The matrix products of a forward pass and those of the backward pass, ready to be called."""
    forward, backward = [], []
    for inputs, outputs in layers(workload):
        x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
        y, y_gradient = torch.empty(rows, outputs), torch.randn(rows, outputs)
        x_gradient, weight_gradient = torch.empty_like(x), torch.empty_like(weight)
        forward.append(partial(torch.mm, x, weight.T, out=y))
        backward.insert(0, partial(torch.mm, y_gradient, weight, out=x_gradient))
        backward.insert(0, partial(torch.mm, y_gradient.T, x, out=weight_gradient))
    return forward, backward


def measure(calls: list[Callable[[], object]]) -> tuple[float, float]:
    """Median wall and CPU seconds of one pass over the calls."""
    wall, cpu = [], []
    for _ in range(WARM_UP_STEPS + STEPS):
        start = time.perf_counter(), time.process_time()
        for call in calls:
            call()
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    return statistics.median(wall[WARM_UP_STEPS:]), statistics.median(cpu[WARM_UP_STEPS:])


def main() -> None:
    """Prints the floor of a workload as a line of JSON, with the keys of an engine's driver."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=workloads.WORKLOADS, required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    workload = workloads.WORKLOADS[arguments.workload]
    forward, backward = products(workload)
    train_wall, train_cpu = measure(forward + backward)
    score_wall, score_cpu = measure(forward)
    result = {
        "peer": "floor",
        "torch": torch.__version__,
        "workload": workload.name,
        "threads": arguments.threads,
        "train_rows_per_s": round(BATCH_SIZE / train_wall),
        "train_cpu_rows_per_s": round(BATCH_SIZE / train_cpu),
        "score_rows_per_s": round(BATCH_SIZE / score_wall),
        "score_cpu_rows_per_s": round(BATCH_SIZE / score_cpu),
        "dnn_inputs": layers(workload)[0][0],
        "flops_per_row": flops_per_row(workload),
        "notes": "matrix products of the DNN only",
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
