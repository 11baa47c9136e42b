"""A table that is larger than the memory that may be used: prepare, train, evaluate, predict.

    sudo python benchmarks/limited_memory.py --rows 40000000

The file is that of `out_of_core.py`. Each phase is a command, `deepfm prepare` and so on, in a
memory cgroup that is held to `--gib` and, where there is a model, to its tables with Adam's
statistics beyond that; pages of files count there, and all files are dropped from the system's
cache before each phase. The model is a small DeepFM, since what it computes is not the question.

A line of JSON per phase: rows per second of the clock, and the most that its processes held
without files (RssAnon), which the limit cannot shrink. Making a cgroup takes root.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from out_of_core import CONFIG, generate

from deepfm.config import load_config
from deepfm.data.sources import tabular
from deepfm.data.store.opening import open_store
from deepfm.data.store.prepare import prepare

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "outputs" / "benchmarks" / "limited_memory"
DIM = 8
PHASES = ("prepare", "train", "evaluate", "predict")  # each needs what those before have made
GIB = 2**30
_POLL_S = 0.1


def overrides_of(path: Path) -> list[str]:
    """What the phases change of Criteo's config."""
    folder = path.parent
    return [
        f"output_dir={folder / 'run'}", f"data.data_dir={folder}", f"data.table.files={path.name}",
        f"data.store_dir={folder / 'stores'}", f"feature.fm_embedding_dim={DIM}",
        "dnn.hidden_units=[64,32]", "dnn.dropout=0", "training.epochs=1", "training.report=never",
        "training.metric=logloss",
    ]  # fmt: skip


@contextlib.contextmanager
def limited(limit: int) -> Iterator[Path]:
    """A cgroup of so many bytes; gives the file that takes its processes."""
    v1 = Path("/sys/fs/cgroup/memory")
    group = (v1 if v1.is_dir() else Path("/sys/fs/cgroup")) / f"deepfm-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if v1.is_dir() else "memory.max")).write_text(str(limit))
    except OSError as error:
        raise SystemExit(f"a memory cgroup cannot be made: {error}") from None
    try:
        yield group / "cgroup.procs"
    finally:
        for _ in range(50):  # it is busy until its processes are gone
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)


def evict(folder: Path) -> None:
    """Drop all files of a folder from the system's cache."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def anonymous(procs: Path) -> int:
    """Bytes that the processes of a cgroup hold without files."""
    found = 0
    for process in procs.read_text().split():
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    found += 1024 * int(line.split()[1])
    return found


def phase(folder: Path, arguments: list[str], limit: int) -> dict[str, float]:
    """Run a command of deepfm within a limit, in bytes."""
    evict(folder)
    command = [sys.executable, "-m", "deepfm", *arguments]
    start, most = time.monotonic(), 0
    with limited(limit) as procs, (folder / f"{arguments[0]}.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": str(ROOT)},
            preexec_fn=lambda: procs.write_text(str(os.getpid())),
        )  # fmt: skip
        while process.poll() is None:
            most = max(most, anonymous(procs))
            time.sleep(_POLL_S)
    if process.returncode:
        raise SystemExit(f"{arguments[0]} failed: {process.returncode}; see {folder}")
    return {
        "seconds": round(time.monotonic() - start, 1),
        "limit_gib": round(limit / GIB, 2),
        "rss_anon_gib": round(most / GIB, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=40_000_000)
    parser.add_argument("--gib", type=float, default=4.0)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"criteo-{arguments.rows}.tsv"
    if not path.exists():
        print(f"writing {path.name}", flush=True)
        generate(path, arguments.rows)
    limit = round(arguments.gib * GIB)
    given = ["--config", str(CONFIG), "--override", *overrides_of(path)]

    def run(name: str, *options: str, rows: int, more: int = 0) -> None:
        if name not in arguments.phases:
            return
        found = phase(folder, [name, *options], limit + more)
        speed = {"rows": rows, "rows_per_s": round(rows / found["seconds"])}
        print(json.dumps({"phase": name} | found | speed), flush=True)

    print(json.dumps({"rows": arguments.rows, "file_gb": round(path.stat().st_size / 1e9, 2)}))
    if "prepare" in arguments.phases:
        shutil.rmtree(folder / "stores", ignore_errors=True)
    run("prepare", *given, rows=arguments.rows)
    config = load_config(CONFIG, overrides_of(path))
    declared = tabular.schema(config.data.table)
    opened = open_store(prepare(config.data, declared), config.data, declared)
    schema, parts = opened.encoders.schema, opened.parts
    table_rows = sum(field.vocabulary_size for field in schema.sparse_fields)
    tables = 3 * 4 * (DIM + 1) * table_rows  # weights, and two statistics of Adam
    print(json.dumps({"table_rows": table_rows, "tables_gib": round(tables / GIB, 2)}))
    run("train", *given, "--overwrite", rows=len(parts["train"]), more=tables)
    checkpoint = ["--checkpoint", str(folder / "run" / "best_model.pt")]
    run("evaluate", *checkpoint, rows=len(parts["valid"]) + len(parts["test"]), more=tables)
    output = ["--input", str(path), "--output", str(folder / "predicted.parquet"), "--overwrite"]
    run("predict", *checkpoint, *output, "--columns", "label", rows=arguments.rows, more=tables)


if __name__ == "__main__":
    main()
