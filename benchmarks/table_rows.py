"""What larger embedding tables cost: CPU time per training row, and memory.

    python benchmarks/table_rows.py --optimizers rowwise_adagrad lazy_adam --repeats 3

The model and the rows of `ours.py` on W1, a million table rows, and with 50 million: `W1-spread`
has the same rows, ids spread over tables 50 times as large, so that nothing differs but the
size; with `--drawn` also on `W1x50`, 50 times as many ids by the same law, of which a batch has
almost twice as many distinct ones. One process per measurement, in turns. `lazy_adam` keeps three
numbers per weight and needs 11 GB for 50 million rows, `rowwise_adagrad` 4.3 GB. Prints a line of
JSON per optimizer: microseconds of CPU time per training row and how many more than W1's, medians
over the repeats, and peak memory.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from ours import OPTIMIZERS
from process import start

SMALL, SPREAD, DRAWN = "W1", "W1-spread", "W1x50"


def compare(
    optimizer: str, larger: list[str], *, repeats: int, rows: int, threads: int
) -> dict[str, object]:
    """Microseconds per training row and peak memory of each workload, and what more than W1."""
    micros: dict[str, list[float]] = {workload: [] for workload in (SMALL, *larger)}
    memory = dict.fromkeys(micros, 0)
    for _ in range(repeats):
        for workload, found in micros.items():
            sizes = ["--workload", workload, "--rows", str(rows), "--score-rows", "4096"]
            script = str(Path(__file__).with_name("ours.py"))
            (line,) = start([sys.executable, script, "--optimizer", optimizer, *sizes], threads)
            found.append(1e6 / line["train_cpu_rows_per_s"])
            memory[workload] = max(memory[workload], line["peak_memory_mb"])
    median = {workload: statistics.median(found) for workload, found in micros.items()}
    return {
        "optimizer": optimizer,
        "repeats": repeats,
        "rows": rows,
        "threads": threads,
        "us_per_row": {workload: round(value, 2) for workload, value in median.items()},
        "us_more_per_row": {
            workload: round(median[workload] - median[SMALL], 2) for workload in larger
        },
        "peak_memory_mb": memory,
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--optimizers",
        nargs="+",
        choices=OPTIMIZERS,
        default=["rowwise_adagrad", "lazy_adam"],
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=102_400)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--drawn", action="store_true", help="W1x50 too")
    arguments = parser.parse_args()
    for optimizer in arguments.optimizers:
        found = compare(
            optimizer,
            [SPREAD, *([DRAWN] * arguments.drawn)],
            repeats=arguments.repeats,
            rows=arguments.rows,
            threads=arguments.threads,
        )
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
