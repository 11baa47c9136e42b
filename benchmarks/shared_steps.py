"""Several processes that train one model, beside one process with as many threads.

    python benchmarks/shared_steps.py --workload W2 --processes 2 --rows 122880
    python benchmarks/shared_steps.py --workload W2 --simulate 8 16 32 64

Both train the same batches, one after the other in turns; the cores have to be free for as many
processes. A line of JSON per kind: rows per second of the clock, medians over the steps and the
repeats; of several processes also what a step exchanges, in bytes that one process sends and in
seconds that it waits for others or for their messages.

`--simulate` computes what a step of as many ranks would take, each with a whole batch of its own,
on networks of published rates. Measured in one process of one thread are a step, the rows that it
would send with their gradients, and an update by the rows of as many batches, which each rank adds
up and applies. A rank receives what all others send to all and its share of a ring that adds up
dense gradients, and every exchange costs a latency. Nothing is overlapped: real ones can be faster.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import workloads
from ours import OPTIMIZERS, config_of, dataset_of, schema_of
from peers.measure import StepClock

from deepfm.commands.processes import environments
from deepfm.models import build_model
from deepfm.training.steps import TrainingStep
from deepfm.training.trainer import Trainer
from deepfm.utils.workers import Workers, workers_of_environment

HERE = Path(__file__).resolve()
EXCHANGES = 5  # of a step: the rows' number, these, the losses' inputs and their number, the rest
UPDATES, WARM_UP = 7, 2
# Bytes per second, and seconds of one exchange between hosts.
NETWORKS = {
    "10 Gbit/s": (1.25e9, 50e-6),
    "25 Gbit/s": (3.1e9, 30e-6),
    "100 Gbit/s": (12.5e9, 15e-6),
}


class Counted(Workers):
    """Processes that count what they exchange."""

    seconds = sent = exchanges = 0.0

    def _exchanged(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        begun = time.perf_counter()
        found = super()._exchanged(tensor)
        self.seconds += time.perf_counter() - begun
        self.sent += tensor.nbytes
        self.exchanges += 1
        return found


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """One training of this process, or of all that it is one of."""
    workload = workloads.WORKLOADS[arguments.workload]
    train, score = workloads.load(arguments.workload, rows=arguments.rows, score_rows=8192)
    config = config_of(workload, arguments.optimizer)
    schema = schema_of(workload)
    model = build_model(schema, config)
    with workers_of_environment() as found:
        workers = Counted(found.rank, found.world)
        trainer = Trainer(config.training, config.evaluation, seed=0, workers=workers)
        rows, valid = dataset_of(schema, train), dataset_of(schema, score)
        with StepClock() as clock:
            trainer.fit(model, rows, valid)
    steps = len(clock.times)
    tables = {id(p) for p in model.embedding.tables.parameters()}
    dense = sum(p.numel() for p in model.parameters() if id(p) not in tables)
    return {
        "rows_per_s": round(workloads.BATCH_SIZE / clock.medians()[0]),
        "step_ms": round(1000 * clock.medians()[0], 1),
        "exchanges_per_step": round(workers.exchanges / steps, 1),
        "gathered_mb_per_step": round(workers.sent / steps / 1e6, 3),
        "waiting_ms_per_step": round(1000 * workers.seconds / steps, 1),
        "dense_mb": round(4 * dense / 1e6, 3),
    }


def of_processes(
    arguments: argparse.Namespace, count: int, threads: int, *, batches: int = 0
) -> dict[str, Any]:
    """What the first of so many processes measures."""
    command = [
        sys.executable, str(HERE), "--measure", "--workload", arguments.workload,
        "--rows", str(arguments.rows), "--optimizer", arguments.optimizer,
        "--batches", str(batches),
    ]  # fmt: skip
    started = [
        subprocess.Popen(
            command,
            env=variables | {"OMP_NUM_THREADS": str(threads)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for variables in environments(count)
    ]
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit("a process failed")
    found: dict[str, Any] = json.loads(outputs[0].splitlines()[-1])
    return found


def medians(lines: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: statistics.median(line[key] for line in lines) for key in lines[0]}


def compare(arguments: argparse.Namespace) -> None:
    count = arguments.processes
    kinds = {f"1 process, {count} threads": (1, count), f"{count} processes": (count, 1)}
    lines: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for _ in range(arguments.repeats):
        for kind, (processes, threads) in kinds.items():
            lines[kind].append(of_processes(arguments, processes, threads))
    one, several = (medians(found) for found in lines.values())
    for kind, line in zip(kinds, (one, several), strict=True):
        print(json.dumps({"workload": arguments.workload, "kind": kind} | line))
    print(json.dumps({"ratio": round(several["rows_per_s"] / one["rows_per_s"], 3)}))


def measured_updates(arguments: argparse.Namespace) -> dict[str, Any]:
    """One training of this process whose steps are of several batches; of one, what it sends."""
    workload, batches = workloads.WORKLOADS[arguments.workload], arguments.batches
    rows = batches * UPDATES * workloads.BATCH_SIZE
    train, score = workloads.load(arguments.workload, rows=rows, score_rows=8192)
    config = config_of(workload, arguments.optimizer)
    training = replace(config.training, gradient_accumulation_steps=batches)
    schema = schema_of(workload)
    model = build_model(schema, config)
    steps, updates, sent, starts = [], [], [], [time.perf_counter()]
    update = TrainingStep.update

    def timed(step: TrainingStep) -> None:
        if batches == 1:  # of several, adding them up is a part of the update
            touched = model.embedding.tables.touched()
            sent.append(sum(one.rows.nbytes + one.gradient.nbytes for one in touched))
        start = time.perf_counter()
        update(step)
        end = time.perf_counter()
        updates.append(end - start)
        steps.append(end - starts[-1])
        starts.append(end)

    TrainingStep.update = timed  # type: ignore[method-assign]
    trainer = Trainer(training, config.evaluation, seed=0)
    trainer.fit(model, dataset_of(schema, train), dataset_of(schema, score))
    tables = {id(p) for p in model.embedding.tables.parameters()}
    return {
        "step_ms": 1000 * statistics.median(steps[WARM_UP:]),
        "update_ms": 1000 * statistics.median(updates[WARM_UP:]),
        "sent": statistics.median(sent) if sent else 0,
        "dense": sum(p.nbytes for p in model.parameters() if id(p) not in tables),
    }


def simulate(arguments: argparse.Namespace) -> None:
    """Prints a line of JSON and a table in Markdown."""
    one = of_processes(arguments, 1, 1, batches=1)
    print(json.dumps({"workload": arguments.workload} | one))
    print(f"| ranks | update | {' | '.join(NETWORKS)} |\n|---|---:|{'---:|' * len(NETWORKS)}")
    for ranks in arguments.simulate:
        update = of_processes(arguments, 1, 1, batches=ranks)["update_ms"]
        cells = [f"{update:.0f} ms"]
        for rate, latency in NETWORKS.values():
            received = (ranks - 1) * one["sent"] + 2 * (ranks - 1) / ranks * one["dense"]
            seconds = received / rate + EXCHANGES * latency
            whole = (one["step_ms"] - one["update_ms"] + update) / 1000 + seconds
            share = one["step_ms"] / 1000 / whole
            cells.append(f"{ranks * workloads.BATCH_SIZE / whole:,.0f} rows/s, {share:.0%}")
        print(f"| {ranks} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=workloads.WORKLOADS, default="W2")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rows", type=int, default=122_880)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="lazy_adam")
    parser.add_argument("--simulate", type=int, nargs="+", metavar="RANKS")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--batches", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps((measured_updates if arguments.batches else measured)(arguments)))
    elif arguments.simulate:
        simulate(arguments)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
