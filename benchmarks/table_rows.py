"""What larger embedding tables cost: CPU time per training row, and memory.

    python benchmarks/table_rows.py --optimizers rowwise_adagrad lazy_adam --repeats 3

The model and the rows of `ours.py` on W1 (a million table rows) and on W1x50, which differs in
its cardinalities alone: 50 times as many ids per field, drawn by the same law, 50 million table
rows. One process per measurement, small and large in turns. `lazy_adam` keeps three numbers per
weight and needs 11 GB for 50 million rows, `rowwise_adagrad` 4.5 GB. Prints a line of JSON per
optimizer: microseconds of CPU time per training row, medians over the repeats, and how many
more the large tables take.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from ours import OPTIMIZERS
from process import start

SMALL, LARGE = "W1", "W1x50"


def compare(optimizer: str, *, repeats: int, rows: int, threads: int) -> dict[str, object]:
    """Microseconds per training row and peak memory on both, and the difference."""
    micros: dict[str, list[float]] = {SMALL: [], LARGE: []}
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
        **{
            f"{workload}_us_per_row": [round(value, 2) for value in sorted(found)]
            for workload, found in micros.items()
        },
        "us_more_per_row": round(median[LARGE] - median[SMALL], 2),
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
    arguments = parser.parse_args()
    for optimizer in arguments.optimizers:
        found = compare(
            optimizer,
            repeats=arguments.repeats,
            rows=arguments.rows,
            threads=arguments.threads,
        )
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
