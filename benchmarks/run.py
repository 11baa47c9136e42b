"""Ours, the floor and the peers side by side, alternating in one run.

    python benchmarks/run.py --peers all --workloads W1 W3 --threads 1 2

Every measurement is a process of its own, one at a time: the floor, ours and each peer in turn,
then the next repeat. Before that the engine must have learned what the textbook implementation
learns (`textbook.py`, where W1 is asked for), else nothing is timed. Writes results.json,
results.md and results.png into outputs/benchmarks/<date>.
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import chart
import numpy as np
import report
import torch
from ours import OPTIMIZERS
from peers.environments import REQUIREMENTS, driver_of, python_of
from workloads import WORKLOADS

HERE = Path(__file__).resolve().parent
REFERENCES = ("fbgemm",)  # shown beside the peers, never the best of them
ROWS = {"W1": 200_000, "W2": 61_440, "W3": 200_000}  # a peer needs a minute for those of W2
SCORE_ROWS = 100_000
TIME_LIMIT_S = 3600


class Driver(NamedTuple):
    """What is started to measure one engine."""

    name: str
    role: str
    command: tuple[str, ...]
    scores: bool  # whether it has rows to read, and a split to score


def drivers(peers: list[str], optimizers: list[str]) -> list[Driver]:
    """The floor, ours with each optimizer, the peers."""
    own = sys.executable
    found = [Driver("floor", report.FLOOR, (own, str(HERE / "floor.py")), False)]
    for optimizer in optimizers:
        command = (own, str(HERE / "ours.py"), "--optimizer", optimizer)
        found.append(Driver(f"deepfm {optimizer}", report.OURS, command, True))
    for peer in peers:
        role = report.REFERENCE if peer in REFERENCES else report.PEER
        command = (str(python_of(peer)), str(driver_of(peer)))
        found.append(Driver(peer, role, command, True))
    return found


def measure(driver: Driver, workload: str, threads: int, rows: int) -> dict[str, Any]:
    """One process's figures, or why there are none."""
    command = [*driver.command, "--workload", workload, "--threads", str(threads)]
    if driver.scores:
        command += ["--rows", str(rows), "--score-rows", str(SCORE_ROWS), "--score"]
    place = {"peer": driver.name, "workload": workload, "threads": threads, "role": driver.role}
    try:
        (line,) = start(command, threads)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return place | {"error": reason(error)}
    return line | {"role": driver.role}


def start(command: list[str], threads: int) -> list[dict[str, Any]]:
    """Runs a script to its end and reads the lines of JSON that it printed.

    Raises:
        subprocess.SubprocessError: It failed, or took longer than `TIME_LIMIT_S`.
        OSError: There is no such interpreter.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if command[0] != sys.executable:
        environment.pop("PYTHONPATH", None)  # a peer's own packages only
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=TIME_LIMIT_S, env=environment
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def reason(error: Exception) -> str:
    """One line about a process that failed: the last that it wrote."""
    if isinstance(error, FileNotFoundError):
        return f"{error.filename} is not there; run benchmarks/peers/environments.py"
    if isinstance(error, subprocess.CalledProcessError) and error.stderr.strip():
        return error.stderr.strip().splitlines()[-1][:200]
    return str(error)[:200]


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "CPU": _cpu_model(),
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load before the run": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"numpy {np.__version__}",
        "commit": _commit(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _commit() -> str | None:
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=HERE,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def learning(rows: int) -> dict[str, Any]:
    """The AUC of ours and of the textbook; stops the run where ours is worse.

    Raises:
        SystemExit: It is, or the check could not be made.
    """
    command = [sys.executable, str(HERE / "textbook.py"), "--rows", str(rows)]
    try:
        (found,) = start([*command, "--score-rows", str(SCORE_ROWS)], threads=1)
    except (ValueError, subprocess.SubprocessError) as error:
        raise SystemExit(f"the check against the textbook failed: {reason(error)}") from None
    for optimizer, auc in found["auc"].items():
        print(f"AUC with {optimizer}: ours {auc['ours']}, textbook {auc['textbook']}", flush=True)
    if not found["as_good"]:
        raise SystemExit("ours learns less than the textbook implementation: nothing is timed")
    return found


def micro(threads: int) -> list[dict[str, Any]]:
    """The tasks around a training step."""
    command = [sys.executable, str(HERE / "micro.py"), "--threads", str(threads)]
    try:
        return start(command, threads)
    except (ValueError, subprocess.SubprocessError) as error:
        return [{"task": "all", "threads": threads, "error": reason(error)}]


def in_turn(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The records of all repeats, as they are measured."""
    chosen = drivers(arguments.peers, arguments.optimizers)
    for repeat in range(arguments.repeats):
        for workload in arguments.workloads:
            for threads in arguments.threads:
                for driver in chosen:
                    rows = arguments.rows or ROWS[workload]
                    record = measure(driver, workload, threads, rows) | {"repeat": repeat}
                    print(_progress(record, arguments.repeats), flush=True)
                    yield record


def _progress(record: dict[str, Any], repeats: int) -> str:
    where = f"{record['workload']} {record['threads']}t {record['repeat'] + 1}/{repeats}"
    if "error" in record:
        return f"{where} {record['peer']}: failed: {record['error']}"
    score = record.get("score_rows_per_s")
    return (
        f"{where} {record['peer']}: train {record['train_rows_per_s']:,} rows/s"
        f" ({record['train_cpu_rows_per_s']:,} by CPU time)"
        + (f", score {score:,} ({record['score_cpu_rows_per_s']:,})" if score else "")
    )


def write(results: dict[str, Any], folder: Path) -> None:
    """results.json, results.md and results.png, the last at the first number of threads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "results.md").write_text(report.markdown(results))
    panels = report.panels(results["records"], clock=results["clock"])
    caption = f"{results['machine']['CPU']}, {results['machine']['versions']}; {results['date']}"
    chart.draw(
        [panel for panel in panels if panel.threads == panels[0].threads],
        folder / "results.png",
        caption=caption,
    )


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--peers", nargs="+", default=["none"], help=f"all, none, or of {', '.join(REQUIREMENTS)}"
    )
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, help=f"rows to train on (default: {ROWS})")
    parser.add_argument(
        "--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS), help="of ours"
    )
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu on a machine that others use too; at one thread only",
    )
    parser.add_argument("--output", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    arguments.peers = {"all": list(REQUIREMENTS), "none": []}.get(
        arguments.peers[0], arguments.peers
    )
    if unknown := sorted(set(arguments.peers) - set(REQUIREMENTS)):
        parser.error(f"unknown peers {unknown}; known are {list(REQUIREMENTS)}")
    if arguments.clock == "cpu" and arguments.threads != [1]:
        parser.error("--clock cpu adds up the time of all threads; give --threads 1")
    date = datetime.date.today().isoformat()
    results = {
        "date": date,
        "command": shlex.join(["python", "benchmarks/run.py", *sys.argv[1:]]),
        "machine": machine(),
        "clock": arguments.clock,
        "repeats": arguments.repeats,
        "learning": None,
    }
    if "W1" in arguments.workloads:
        results["learning"] = learning(arguments.rows or ROWS["W1"])
    results["records"] = list(in_turn(arguments))
    results["micro"] = [line for threads in arguments.threads for line in micro(threads)]
    folder = arguments.output or HERE.parent / "outputs" / "benchmarks" / date
    write(results, folder)
    print((folder / "results.md").read_text())
    print(f"written to {folder}")


if __name__ == "__main__":
    main()
