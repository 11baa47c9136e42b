"""What `deepfm prepare` costs on one core and on several, beside a bare parse of the same file.

    python benchmarks/prepare.py --rows 10000000 --workers 2

The file is that of `out_of_core.py` with commas: a label, 13 numbers, which are standardised, and
26 categories, of which those that 10 training rows have get an id. Everything is counted in CPU
seconds, each step in processes of its own, in turns:

- parse: `pyarrow.csv` reads the file block by block on one core, and keeps nothing.
- prepare with one worker, which is one process, held on one core.
- prepare with `--workers`, held on as many cores. `serial` is what the first process spends, and
  `longest` the worker that spends most; the time that no number of cores shortens further is
  their sum.

Digests of files are not kept between the steps: each reads the file for its checksum, too.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.csv
from out_of_core import COUNTS, generate

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "outputs" / "benchmarks" / "prepare"
TARGETS = {"longest + serial": 0.55, "all processes": 1.10, "one worker / parse": 4.0}
_POLL_S = 0.05
CONFIG = """\
data:
  dataset_name: tabular
  data_dir: {folder}
  store_dir: {folder}/stores
  split_strategy: random
  table:
    files: {file}
    columns: [label, I1..I13, C1..C26]
    label: label
    fields:
      I1..I13: {{type: dense, scale: standard, missing: mean}}
      C1..C26: {{type: sparse, min_count: 10}}
"""


def parse(path: Path) -> dict[str, float]:
    """Read the file and keep nothing."""
    names = ["label", *(f"I{k}" for k in range(1, COUNTS + 1)), *(f"C{k}" for k in range(1, 27))]
    start = time.process_time()
    reader = pyarrow.csv.open_csv(
        path, read_options=pyarrow.csv.ReadOptions(column_names=names, use_threads=False)
    )
    rows = sum(batch.num_rows for batch in reader)
    return {"cpu_s": time.process_time() - start, "rows": rows}


def in_process(path: Path) -> dict[str, float]:
    """`parse` in a process on one core."""
    command = [sys.executable, __file__, "--parse", str(path)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, preexec_fn=_held_on(1)
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def prepare(config: Path, workers: int) -> dict[str, float]:
    """CPU seconds of the first process and of its workers, on as many cores."""
    shutil.rmtree(config.parent / "stores", ignore_errors=True)
    command = [sys.executable, "-m", "deepfm", "prepare", "--config", str(config)]
    command += ["--workers", str(workers)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(
        command, env=environment, preexec_fn=_held_on(workers), stdout=subprocess.DEVNULL
    ) as process:
        spent: dict[int, float] = {}
        while process.poll() is None:
            for child in _children(process.pid):
                spent[child] = max(spent.get(child, 0.0), _cpu(child))
            time.sleep(_POLL_S)
    if process.returncode:
        raise SystemExit(f"prepare failed: {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    serial = total - sum(spent.values())
    return {"total_cpu_s": total, "serial_s": serial, "longest_s": max(spent.values(), default=0.0)}


def _held_on(cores: int):
    """What keeps a process and all that it starts on some cores."""
    chosen = sorted(os.sched_getaffinity(0))[:cores]
    return lambda: os.sched_setaffinity(0, chosen)


def _children(process: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if (
            entry.name.isdigit()
            and (fields := _stat(int(entry.name)))
            and int(fields[1]) == process
        ):
            found.append(int(entry.name))
    return found


def _cpu(process: int) -> float:
    fields = _stat(process)
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _stat(process: int) -> list[str]:
    """What Linux counts of a process, from its state on; nothing if it has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def report(results: dict[str, list[dict[str, float]]], workers: int) -> list[str]:
    """The lines for people: medians, quotients and targets."""

    def median(step: str, key: str) -> float:
        return statistics.median(result[key] for result in results[step])

    lines = []
    for step, found in results.items():
        figures = ", ".join(f"{key} {median(step, key):.2f}" for key in found[0])
        lines.append(f"{step}: {figures}")
    one = median("one", "total_cpu_s")
    together = [result["longest_s"] + result["serial_s"] for result in results["several"]]
    quotients = {
        "longest + serial": statistics.median(together) / one,
        "all processes": median("several", "total_cpu_s") / one,
        "one worker / parse": one / median("parse", "cpu_s"),
    }
    for name, value in quotients.items():
        target = f" (target <= {TARGETS[name]:g})" if workers == 2 else ""
        lines.append(f"{name}: {value:.3f}{target}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--parse", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.parse:
        print(json.dumps(parse(arguments.parse)))
        return
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"criteo-{arguments.rows}.csv"
    if not path.exists():
        print(f"writing {path.name}", flush=True)
        generate(path, arguments.rows, ",")
    config = folder / "prepare.yaml"
    config.write_text(CONFIG.format(folder=folder, file=path.name))
    results: dict[str, list[dict[str, float]]] = {"parse": [], "one": [], "several": []}
    for _ in range(arguments.repeats):
        results["parse"].append(in_process(path))
        results["one"].append(prepare(config, 1))
        results["several"].append(prepare(config, arguments.workers))
        print(json.dumps({step: found[-1] for step, found in results.items()}), flush=True)
    size = path.stat().st_size / 1e9
    print(f"{arguments.rows:,} rows, {size:.2f} GB, {arguments.workers} workers")
    print("\n".join(report(results, arguments.workers)))


if __name__ == "__main__":
    main()
