"""Data that is larger than it should be in memory: preparing it, counting it, training from it.

    python benchmarks/out_of_core.py --rows 10000000

The file is generated once: a label, 13 counts and 26 categories of 8 hexadecimal digits as in the
Criteo challenge, tab-separated, without a header; cardinalities are those of Criteo's columns, ids
follow a power law with exponent 1.05, and a few percent of the cells are empty. Each step is a
process of its own, alone, so that its peak memory is its own:

- parse: polars reads the file into memory once, with all threads. The measure of the others.
- prepare: `deepfm.data.store.prepare` with the declaration of `configs/deepfm_criteo.yaml`: two
  times through the file, fitting, encoding, writing, until the store is on disk.
- count: the 26 vocabularies counted by polars, and by duckdb if it is installed (extra `bench`).
- train: steps of a DeepFM of W1's size from the memory-mapped store and from copies of the same
  arrays in memory, in the same order, taking turns; rows/s of the median step.

Only quotients within one run mean something. `--clock cpu` compares CPU seconds where the machine
is not idle.
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
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import torch
from peers.measure import StepClock

from deepfm.config import ExperimentConfig, load_config
from deepfm.data.batch import Inputs
from deepfm.data.dataset import TabularDataset
from deepfm.data.sources import tabular
from deepfm.data.store import prepare as store
from deepfm.data.store.opening import open_store
from deepfm.models import build_model
from deepfm.training.trainer import Interrupted, Trainer

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "outputs" / "benchmarks" / "out_of_core"
CONFIG = ROOT / "configs" / "deepfm_criteo.yaml"
# fmt: off
CARDINALITIES = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992,
    5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)
# fmt: on
COUNTS = 13
EXPONENT = 1.05
CHUNK = 500_000
STEPS = 40  # timed at once, after which the other side has its turn
TURNS = 3
TARGETS = {"prepare / parse": 5.0, "peak GiB": 3.0, "store / memory": 0.9}


def generate(path: Path, rows: int, separator: str = "\t") -> None:
    """Write the file; the same for the same number of rows."""
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    random = np.random.default_rng(20261122)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            columns = {"label": (random.random(count) < 0.25).astype(np.int8)}
            for k in range(COUNTS):
                numbers = np.floor(random.lognormal(1 + k % 4, 1.5, count)).astype(np.int64) - 1
                columns[f"I{k + 1}"] = _with_gaps(pl.Series(numbers), random, 0.15)
            for k, cardinality in enumerate(CARDINALITIES):
                power = 1 - EXPONENT  # the inverse of the distribution function of k^-1.05
                uniform = random.random(count)
                rank = ((1 - uniform * (1 - cardinality**power)) ** (1 / power)).astype(np.int64)
                value = ((rank * 2654435761 + k * 40503) & 0xFFFFFFFF).astype(">u4")
                bytes_of = value.view(np.uint8)
                text = np.stack([digits[bytes_of >> 4], digits[bytes_of & 15]], axis=1)
                names = pl.Series(text.reshape(-1).view("S8").astype("U8"))
                columns[f"C{k + 1}"] = _with_gaps(names, random, 0.05 if k % 3 else 0.0)
            pl.DataFrame(columns).write_csv(file, include_header=False, separator=separator)
    partial.rename(path)


def _with_gaps(values: pl.Series, random: np.random.Generator, share: float) -> pl.Series:
    return values.set(pl.Series(random.random(len(values)) < share), None)


def config_of(path: Path) -> ExperimentConfig:
    """Criteo's declaration with the file in the place of its own, and a store beside it."""
    return load_config(
        CONFIG,
        [
            f"data.data_dir={path.parent}",
            f"data.table.files={path.name}",
            f"data.store_dir={path.parent / 'stores'}",
            "dnn.dropout=0",
            "training.epochs=1",
            "training.metric=logloss",
        ],
    )


def parse(path: Path) -> dict:
    """polars reads everything."""
    return {"rows": pl.read_csv(path, separator="\t", has_header=False).height}


def prepare(path: Path) -> dict:
    """The store is made anew; whatever was there is removed before the clock starts."""
    config = config_of(path)
    made = store.prepare(config.data, tabular.schema(config.data.table))
    size = sum(file.stat().st_size for file in made.rglob("*") if file.is_file())
    return {"store_gb": round(size / 1e9, 2)}


def count_by_polars(path: Path) -> dict:
    """Distinct values of the 26 columns with their counts, from a table in memory."""
    columns = _categories(path)
    return _timed(lambda: sum(len(column.value_counts()) for column in columns))


def count_by_duckdb(path: Path) -> dict:
    """The same by a GROUP BY per column."""
    try:
        import duckdb
    except ImportError:
        return {"skipped": "duckdb is not installed"}
    table = pl.DataFrame(_categories(path)).to_arrow()
    connection = duckdb.connect()
    connection.register("data", table)

    def count() -> int:
        queries = [f'SELECT "{name}", count(*) FROM data GROUP BY 1' for name in table.column_names]
        return sum(len(connection.sql(query).to_arrow_table()) for query in queries)

    return _timed(count)


def _categories(path: Path) -> list[pl.Series]:
    frame = pl.read_csv(path, separator="\t", has_header=False)
    return frame.get_columns()[1 + COUNTS :]


def _timed(work: Callable[[], int]) -> dict:
    start = time.perf_counter(), time.process_time()
    distinct = work()
    wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    return {"distinct": distinct, "wall_s": round(wall, 2), "cpu_s": round(cpu, 2)}


def train(path: Path, threads: int) -> dict:
    """Median seconds of a training step from the store and from memory, by turns."""
    torch.set_num_threads(threads)
    config = config_of(path)
    schema = tabular.schema(config.data.table)
    opened = open_store(store.prepare(config.data, schema), config.data, schema)
    mapped = opened.parts["train"]
    sides = {"store": mapped, "memory": in_memory(mapped)}
    steps: dict[str, list[np.ndarray]] = {side: [] for side in sides}
    for turn in range(TURNS):
        for side, rows in sides.items():
            steps[side].append(step_seconds(config, rows, opened.parts["valid"], seed=turn))
    medians = {side: np.median(np.concatenate(found), axis=0) for side, found in steps.items()}
    batch = config.training.batch_size
    return {
        f"{side}_{clock}rows_per_s": round(batch / seconds)
        for side, both in medians.items()
        for clock, seconds in zip(("", "cpu_"), both.tolist(), strict=True)
    }


def in_memory(rows: TabularDataset) -> TabularDataset:
    """The same rows as arrays in memory, with the int64 ids of encoded inputs."""
    inputs = rows.inputs
    copied = Inputs(inputs.sparse.long(), inputs.dense.clone(), (), ())
    return TabularDataset(rows.schema, copied, rows.label.clone())


def step_seconds(
    config: ExperimentConfig, rows: TabularDataset, valid: TabularDataset, *, seed: int
) -> np.ndarray:
    """Wall and CPU seconds of each of `STEPS` steps after five of warm-up, (STEPS, 2)."""
    torch.manual_seed(seed)
    model = build_model(rows.schema, config)
    done = 0

    def should_stop() -> int:
        nonlocal done
        done += 1
        return int(done > STEPS + 5)

    with StepClock() as clock:
        try:
            Trainer(config.training, seed=seed).fit(model, rows, valid, should_stop=should_stop)
        except Interrupted:
            pass
        else:
            raise SystemExit("too few rows: an epoch ended before the steps were timed")
    return np.diff(np.array(clock.times), axis=0)[5:]


STEPS_BY_NAME: dict[str, Callable[[Path], dict]] = {
    "parse": parse,
    "prepare": prepare,
    "count_polars": count_by_polars,
    "count_duckdb": count_by_duckdb,
}


def measured(name: str, path: Path, threads: int) -> dict:
    """A step in this process, with its seconds and its peak memory."""
    start = time.perf_counter(), time.process_time()
    found = train(path, threads) if name == "train" else STEPS_BY_NAME[name](path)
    wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux
    whole = {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2), "peak_gib": round(peak / 2**20, 2)}
    return whole | found


def in_process(name: str, path: Path, threads: int) -> dict:
    """A step in a process of its own."""
    command = [sys.executable, __file__, "--step", name, "--file", path, "--threads", threads]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[:1]])}
    output = subprocess.run(
        list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True, env=environment
    ).stdout
    return json.loads(output.splitlines()[-1])


def report(results: dict[str, list[dict]], clock: str) -> list[str]:
    """The lines for people: medians, quotients and targets."""

    def median(step: str, key: str) -> float:
        return statistics.median(result[key] for result in results[step])

    lines = []
    for step, found in results.items():
        if "skipped" in found[0]:
            lines.append(f"{step}: {found[0]['skipped']}")
            continue
        figures = {key: median(step, key) for key in found[0]}
        lines.append(f"{step}: " + ", ".join(f"{key} {value:g}" for key, value in figures.items()))
    quotients = {
        "prepare / parse": median("prepare", clock) / median("parse", clock),
        "peak GiB": max(result["peak_gib"] for result in results["prepare"]),
    }
    if "train" in results:
        prefix = "cpu_" if clock == "cpu_s" else ""
        stored, held = (median("train", f"{s}_{prefix}rows_per_s") for s in ("store", "memory"))
        quotients["store / memory"] = stored / held
    for name, value in quotients.items():
        sign = ">=" if name == "store / memory" else "<="
        lines.append(f"{name}: {value:.2f} (target {sign} {TARGETS[name]:g})")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of training")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--no-train", action="store_true")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(measured(arguments.step, arguments.file, arguments.threads)))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path = (arguments.folder / f"criteo-{arguments.rows}.tsv").resolve()
    if not path.exists():
        print(f"writing {path.name}", flush=True)
        generate(path, arguments.rows)
    results: dict[str, list[dict]] = {}
    for _ in range(arguments.repeats):
        for step in [*STEPS_BY_NAME, *([] if arguments.no_train else ["train"])]:
            if step == "prepare":
                _remove_stores(path)
            found = in_process(step, path, arguments.threads)
            results.setdefault(step, []).append(found)
            print(f"{step}: {json.dumps(found)}", flush=True)
    lines = report(results, f"{arguments.clock}_s")
    print("\n".join(["", f"{arguments.rows:,} rows, {path.stat().st_size / 1e9:.2f} GB", *lines]))
    (arguments.folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")


def _remove_stores(path: Path) -> None:
    shutil.rmtree(path.parent / "stores", ignore_errors=True)


if __name__ == "__main__":
    main()
