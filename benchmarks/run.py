"""Ours, the floor and the peers side by side, alternating in one run.

    python benchmarks/run.py --peers deepctr-torch recbole --workloads W1 W3 --threads 1 2
    python benchmarks/run.py --peers fbgemm --device cuda

Every measurement is a process of its own, one at a time: the floor, ours and each peer in turn,
then the next repeat. A peer is measured as shipped, at its best and in bfloat16
(`peers/variants.py`), as shipped in the first repeat only. The first repeat trains on enough rows
to learn something and gives the AUCs; the others train on as many as a median of steps needs.
Before that the engine must have learned what the textbook implementation learns (`textbook.py`,
where W1 is asked for), else nothing is timed. Environments of the peers asked for are built first.
Writes results.json, results.md and results.png into outputs/benchmarks/<date>, also when it is
interrupted or terminated: then of what was measured until then.
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chart
import figures
import numpy as np
import report
import torch
from drivers import SCORE_ROWS, drivers, measure
from ours import OPTIMIZERS, PRECISIONS
from peers.environments import REQUIREMENTS, create_all
from process import reason, start
from workloads import WORKLOADS

HERE = Path(__file__).resolve().parent
# of the first repeat, in which AUCs are well off chance on W1 and W3; a peer needs a minute for
# those of W2, where no AUC means much
ROWS = {"W1": 300_000, "W2": 61_440, "W3": 200_000}
LATER_ROWS = 61_440  # of the other repeats: ten steps after warm-up


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


def learning(rows: int, precisions: list[str]) -> dict[str, Any]:
    """The AUC of ours and of the textbook; stops the run where ours is worse.

    Raises:
        SystemExit: It is, or the check could not be made.
    """
    command = [sys.executable, str(HERE / "textbook.py"), "--rows", str(rows)]
    command += ["--score-rows", str(SCORE_ROWS), "--precisions", *precisions]
    try:
        (found,) = start(command, threads=1)
    except (ValueError, subprocess.SubprocessError) as error:
        raise SystemExit(f"the check against the textbook failed: {reason(error)}") from None
    for optimizer, auc in found["auc"].items():
        print(f"AUC with {optimizer}: {auc}", flush=True)
    if not found["as_good"]:
        raise SystemExit("ours learns less than it should: nothing is timed")
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
    chosen = drivers(arguments.peers, arguments.optimizers, arguments.precisions, arguments.device)
    for repeat in range(arguments.repeats):
        for workload in arguments.workloads:
            if repeat and workload in arguments.once:
                continue
            rows = arguments.rows or ROWS[workload]
            rows = min(rows, LATER_ROWS) if repeat else rows
            for threads in arguments.threads:
                for driver in chosen:
                    if repeat and driver.once:
                        continue
                    record = measure(
                        driver, workload, threads=threads, rows=rows, device=arguments.device
                    )
                    record |= {"repeat": repeat}
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
        + (f", AUC {record['auc']}" if record.get("auc") is not None else "")
    )


def write(results: dict[str, Any], folder: Path) -> None:
    """results.json, results.md and results.png, the last at the first number of threads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "results.md").write_text(report.markdown(results))
    panels = figures.panels(results["records"], clock=results["clock"])
    caption = f"{results['machine']['CPU']}, {results['machine']['versions']}; {results['date']}"
    chart.draw(
        [panel for panel in panels if panel.threads == panels[0].threads],
        folder / "results.png",
        caption=caption,
    )


def arguments_of_run() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--peers", nargs="+", default=["none"], help=f"all, none, or of {', '.join(REQUIREMENTS)}"
    )
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(ROWS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--once", nargs="*", choices=WORKLOADS, default=[], help="workloads without a repeat"
    )
    parser.add_argument(
        "--rows", type=int, help=f"rows to train on (default: {ROWS}, then {LATER_ROWS})"
    )
    parser.add_argument(
        "--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS), help="of ours"
    )
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
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
    if unknown := sorted(set(arguments.workloads) - set(ROWS)) if arguments.rows is None else None:
        parser.error(f"{unknown} have no number of rows of their own; give --rows")
    if arguments.clock == "cpu" and arguments.threads != [1]:
        parser.error("--clock cpu adds up the time of all threads; give --threads 1")
    if arguments.device == "cuda":
        if not torch.cuda.is_available():
            parser.error(f"--device cuda: torch {torch.__version__} finds no CUDA device here")
        if arguments.clock == "cpu":
            parser.error("--clock cpu says nothing about a CUDA device; leave it out")
    return arguments


def main() -> None:
    """Measures, prints and writes."""
    arguments = arguments_of_run()
    create_all(
        arguments.peers, arguments.device
    )  # one without an environment is a row that says so
    date = datetime.date.today().isoformat()
    results = {
        "date": date,
        "command": shlex.join(["python", "benchmarks/run.py", *sys.argv[1:]]),
        "machine": machine(),
        "device": arguments.device,
        "clock": arguments.clock,
        "repeats": arguments.repeats,
        "learning": None,
    }
    if "W1" in arguments.workloads:
        results["learning"] = learning(arguments.rows or ROWS["W1"], arguments.precisions)
    results |= {"records": [], "micro": []}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for record in in_turn(arguments):
            results["records"].append(record)
        for threads in arguments.threads:
            results["micro"] += micro(threads)
    except KeyboardInterrupt:
        print("stopped: what was measured until now is written", flush=True)
    folder = arguments.output or HERE.parent / "outputs" / "benchmarks" / date
    write(results, folder)
    print((folder / "results.md").read_text())
    print(f"written to {folder}")


if __name__ == "__main__":
    main()
