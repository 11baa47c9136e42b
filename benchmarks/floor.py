"""The floor: how fast this machine computes nothing but the DNN's matrix products.

    python benchmarks/floor.py --workload W1 --threads 1 --precision bf16
    python benchmarks/floor.py --workload W1 --model dcn_v2

A training step needs three products per linear layer: the output, the gradient of the weights
and the gradient of the input (of the first layer's too, since embeddings are trained). Scoring
needs the first. They are timed in the order of a step, at the workload's batch size, into
buffers that exist already. No engine that computes them by torch in the same precision is faster,
however cheap its embeddings, loading and optimizer are. The DNN is ours: dense fields raw (429
inputs on W1).

On a CPU torch has two libraries for products in float32, MKL by default and oneDNN. Both are
measured, pass by pass in turns, and the floor is the faster one, of training and of scoring each.

With `--model` it is the floor of all products of one of our models, as `products.py` finds them.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import ours
import torch
import workloads
from peers.measure import check_device
from peers.variants import medium_is_float32
from products import Product, of_scoring, of_training_step
from workloads import BATCH_SIZE, EMBEDDING_DIM, Workload, generate

from deepfm.models import build_model

WARM_UP_STEPS = 5
STEPS = 30
PASSES_ON_CUDA = 20  # that are timed together, since starting them takes longer than some of them
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def layers(workload: Workload) -> list[tuple[int, int]]:
    """Inputs and outputs of each linear layer of the DNN, the logit's included."""
    fields = len(workload.cardinalities) + bool(workload.sequence_length)
    widths = [fields * EMBEDDING_DIM + workload.dense, *workload.hidden, 1]
    return list(pairwise(widths))


def flops_per_row(workload: Workload) -> int:
    """Operations of a forward pass, two per weight; a training step has three times as many."""
    return sum(2 * inputs * outputs for inputs, outputs in layers(workload))


def products(
    workload: Workload, *, rows: int = BATCH_SIZE, precision: str = "fp32", device: str = "cpu"
) -> tuple[list[Callable[[], object]], list[Callable[[], object]]]:
    """The matrix products of a forward pass and those of the backward pass, ready to be called."""
    forward, backward = [], []
    draw = partial(torch.randn, dtype=DTYPES[precision], device=device)
    for inputs, outputs in layers(workload):
        x, weight, y_gradient = draw(rows, inputs), draw(outputs, inputs), draw(rows, outputs)
        y = torch.empty_like(y_gradient)
        x_gradient, weight_gradient = torch.empty_like(x), torch.empty_like(weight)
        forward.append(partial(torch.mm, x, weight.T, out=y))
        backward.insert(0, partial(torch.mm, y_gradient, weight, out=x_gradient))
        backward.insert(0, partial(torch.mm, y_gradient.T, x, out=weight_gradient))
    return forward, backward


def products_of(
    name: str, workload: Workload, dense: str = "raw", rows: int = BATCH_SIZE
) -> tuple[list[Product], list[Product], list[Product]]:
    """The products of one of our models: forward and backward in training, and of scoring."""
    schema = ours.schema_of(workload, dense)
    data = ours.dataset_of(schema, generate(workload, rows))
    model = build_model(schema, ours.config_of(workload, "lazy_adam", model=name))
    (batch,) = data.epoch(rows, seed=0, epoch=0).batches()
    forward, backward = of_training_step(model, batch.inputs, batch.label)
    return forward, backward, of_scoring(model.eval(), batch.inputs)


def libraries(precision: str, device: str) -> dict[str, str]:
    """What computes the products: libraries by name, with torch's setting that chooses each."""
    if device == "cuda":
        return {"cuBLAS": "highest"}
    if precision == "bf16":
        return {"oneDNN": "highest"}
    return {"MKL": "highest"} | ({"oneDNN": "medium"} if medium_is_float32() else {})


def measure(
    calls: list[Callable[[], object]], settings: dict[str, str], device: str
) -> dict[str, tuple[float, float]]:
    """Median wall and CPU seconds of one pass over the calls, by the name of the library."""
    passes = PASSES_ON_CUDA if device == "cuda" else 1
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in settings}
    for _ in range(WARM_UP_STEPS + STEPS):
        for name, setting in settings.items():
            torch.set_float32_matmul_precision(setting)
            _wait(device)
            start = time.perf_counter(), time.process_time()
            for _ in range(passes):
                for call in calls:
                    call()
            _wait(device)
            taken[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    medians = {}
    for name, times in taken.items():
        wall, cpu = (statistics.median(clock) for clock in zip(*times[WARM_UP_STEPS:], strict=True))
        medians[name] = (wall / passes, cpu / passes)
    return medians


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def figures(
    what: str, calls: list[Callable[[], object]], settings: dict[str, str], device: str
) -> tuple[dict[str, int], str]:
    """Rows per second by both clocks under the keys of a driver, and the libraries' in words."""
    found = measure(calls, settings, device)
    wall, cpu = (min(times) for times in zip(*found.values(), strict=True))
    words = ", ".join(f"{name} {BATCH_SIZE / times[1]:,.0f}" for name, times in found.items())
    return {
        f"{what}_rows_per_s": round(BATCH_SIZE / wall),
        f"{what}_cpu_rows_per_s": round(BATCH_SIZE / cpu),
    }, f"{what}: {words}"


def main() -> None:
    """Prints the floor of a workload as a line of JSON, with the keys of an engine's driver."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=workloads.WORKLOADS, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    ours.add_model(parser, default=None)
    arguments = parser.parse_args()
    check_device(arguments.device, ("cpu", "cuda"), "the floor")
    torch.set_num_threads(arguments.threads)
    workload = workloads.WORKLOADS[arguments.workload]
    size, what = flops_per_row(workload), "the DNN"
    forward, backward = products(workload, precision=arguments.precision, device=arguments.device)
    scoring = forward
    if arguments.model is not None:
        found = products_of(arguments.model, workload, arguments.dense)
        size, what = sum(product.flops for product in found[0]) // BATCH_SIZE, arguments.model
        dtype = DTYPES[arguments.precision]
        forward, backward, scoring = (
            [product.call(dtype, arguments.device) for product in part] for part in found
        )
    settings = libraries(arguments.precision, arguments.device)
    train, trained_by = figures("train", forward + backward, settings, arguments.device)
    score, scored_by = figures("score", scoring, settings, arguments.device)
    result = {
        "peer": "floor",
        "torch": torch.__version__,
        "workload": workload.name,
        "threads": arguments.threads,
        "device": arguments.device,
        "precision": arguments.precision,
        **train,
        **score,
        "dnn_inputs": layers(workload)[0][0],
        "flops_per_row": size,
        "notes": f"matrix products of {what} only; rows/s of CPU time, {trained_by}; {scored_by}",
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
