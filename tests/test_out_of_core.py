"""Runs on stores from the command line on: same results, exact resume, less memory than data."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml

from deepfm import experiment
from deepfm.checkpoint import load_checkpoint
from deepfm.cli import main
from deepfm.data import order
from deepfm.data.files.writer import TableWriter
from deepfm.prediction import Predictor
from deepfm.training.trainer import Interrupted
from tests.data.store import test_store
from tests.data.store.test_store import rows, write_table


def write_config(folder: Path, **changes: object) -> Path:
    path = folder / "table.yaml"
    path.write_text(yaml.safe_dump(test_store.config(folder, **changes).to_dict()))
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """2,000 rows in one file."""
    write_table(tmp_path / "rows.csv", rows(2000))
    return tmp_path


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_prepare_train_evaluate_predict(folder, capsys):
    path = write_config(folder)
    code, output, errors = run(capsys, "prepare", "--config", path)
    assert code == 0
    assert "encoding: 2,000 rows" in output
    assert errors.startswith("warning: bad values by column: age: ")
    store = next(p for p in (folder / "stores").iterdir() if p.is_dir())
    assert output.splitlines()[-1] == f"the data is in {store}"

    code, output, errors = run(capsys, "train", "--config", path)
    assert code == 0, errors  # the labels are noise: a model may be worse than the base rate
    assert output.splitlines()[0] == f"data prepared earlier, in {store}"
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    manifest = json.loads((store / "manifest.json").read_text())
    assert metrics["data"] == {key: manifest[key] for key in ("rows", "dropped", "bad_values")}
    assert sum(metrics["data"]["rows"].values()) + metrics["data"]["dropped"] == 2000

    best = folder / "run" / "best_model.pt"
    code, output, _ = run(capsys, "evaluate", "--checkpoint", best)
    assert code == 0
    assert f"{metrics['test']['logloss']:.4f}" in output
    assert len([p for p in (folder / "stores").iterdir() if p.is_dir()]) == 1

    saved = pyarrow.parquet.read_table(folder / "run" / "predictions.parquet")
    raw = test_store.read_table(folder / "rows.csv").take(saved["row"])
    found = Predictor(best).predict(raw)
    np.testing.assert_allclose(found, saved["probability"].to_numpy(), rtol=1e-5)
    assert saved["label"].to_pylist() == [float(label) for label in raw["label"].to_pylist()]
    assert load_checkpoint(best).items is None
    code, _, errors = run(capsys, "recommend", "--checkpoint", best, "--user", "1")
    assert code == 2
    assert "no items to rank" in errors


def test_data_without_a_test_split(folder, capsys):
    path = write_config(folder, data__split_fractions=[0.8, 0.2, 0.0])
    assert run(capsys, "train", "--config", path)[0] == 0
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    assert list(metrics) == ["valid", "data"]
    saved = pyarrow.parquet.read_table(folder / "run" / "predictions.parquet")
    assert len(saved) == metrics["data"]["rows"]["valid"]
    best = folder / "run" / "best_model.pt"
    code, _, errors = run(capsys, "evaluate", "--checkpoint", best, "--split", "test")
    assert code == 2
    assert "--split test: the data has no such split" in errors
    code, lines, _ = run(capsys, "evaluate", "--checkpoint", best)
    assert code == 0
    assert "valid" in lines.split()
    assert "test" not in lines.split()


def test_other_data_is_not_prepared(tmp_path, capsys):
    path = tmp_path / "movies.yaml"
    path.write_text("data: {dataset_name: movielens-100k}")
    code, _, errors = run(capsys, "prepare", "--config", path)
    assert code == 2
    assert errors.startswith("error: data.split_strategy: only declared tables split by")


def test_a_ranking_metric_needs_a_ranking_task(folder, capsys):
    path = write_config(folder, training__metric="ndcg@10")
    code, _, errors = run(capsys, "train", "--config", path)
    assert code == 2
    assert "needs a ranking task, which" in errors


def test_a_run_stopped_in_an_epoch_ends_as_an_uninterrupted_one(folder, monkeypatch):
    """With an order of several windows, as data of more than a million rows has."""
    for name, value in (("SMALL", 100), ("BLOCK", 8), ("WINDOW", 16)):
        monkeypatch.setattr(order, name, value)
    config = test_store.config(folder)
    expected = experiment.train(config)
    straight = load_checkpoint(folder / "run" / "last.pt")

    monkeypatch.setattr(experiment, "catch_signals", lambda: stop_after(9))
    with pytest.raises(Interrupted):
        experiment.train(config, overwrite=True)
    stopped = load_checkpoint(folder / "run" / "last.pt")
    assert (stopped.training["epoch"], stopped.training["step"]) == (0, 9)
    monkeypatch.undo()
    for name, value in (("SMALL", 100), ("BLOCK", 8), ("WINDOW", 16)):
        monkeypatch.setattr(order, name, value)
    assert experiment.train(config, resume=True) == expected
    resumed = load_checkpoint(folder / "run" / "last.pt")
    assert len([p for p in (folder / "stores").iterdir() if p.is_dir()]) == 1
    for name, weights in straight.model.items():
        assert (resumed.model[name] == weights).all(), name
    assert resumed.training["losses"] == straight.training["losses"]


class stop_after:
    """A stand-in for `catch_signals` that asks to stop after a number of steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __enter__(self):
        return self.ask

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self) -> int:
        self.left -= 1
        return 15 if self.left == 0 else 0


BUDGET = 64 << 20
# The limit counts what allocators keep for later, too: let them give it back.
GIVING_BACK = {
    "OMP_NUM_THREADS": "1",
    "GLIBC_TUNABLES": "glibc.pthread.stack_cache_size=0",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "MALLOC_TRIM_THRESHOLD_": "131072",
}
LIMITED = """
    import resource, sys
    from deepfm.config import load_config
    from deepfm.data.encoding import learning
    from deepfm.data import order
    from deepfm.data.store import external_sort, stream
    from deepfm.experiment import train

    small, large, budget = sys.argv[1], sys.argv[2], int(sys.argv[3])
    stream.BLOCK_SIZE, learning.FIT_ROWS = 1 << 20, 1 << 15  # less at once, by the same code
    order.SMALL, order.WINDOW, external_sort.RUN_BYTES = 1 << 16, 1 << 12, 1 << 20
    train(load_config(small))  # whatever is loaded or started once is there from now on
    used = next(int(line.split()[1]) << 10 for line in open("/proc/self/status")
                if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + budget, used + budget))
    try:
        held = bytearray(2 * budget)
        raise SystemExit("the limit does not hold")
    except MemoryError:
        pass
    metrics = train(load_config(large))
    print(metrics["data"]["rows"]["train"], metrics["valid"]["auc"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA covers private memory on Linux")
def test_training_needs_less_memory_than_the_file_is_long(tmp_path):
    """64 MiB beyond an idle process prepare, train and evaluate a file of three times that size.

    Rows have histories; the records that these are found by are sorted in about twenty runs.
    """
    fields = {f"c{k}": {"type": "sparse", "embedding_dim": 4, "min_count": 5} for k in range(10)}
    fields |= {f"d{k}": {"type": "dense", "scale": "standard"} for k in range(2)}
    paths = {}
    for name, count in (("small", 5_000), ("large", 750_000)):
        folder = tmp_path / name
        folder.mkdir()
        write_wide(folder / "rows.csv", count)
        paths[name] = write_config(
            folder,
            data__table__fields=fields,
            data__table__user_field="c1",
            data__table__item_field="c0",
            data__table__time_column="d1",
            data__table__history={"max_length": 5},
            training__metric="auc",
            training__epochs=1,
            training__batch_size=2048,
            evaluation__batch_size=2048,
            feature__fm_embedding_dim=4,
            training__sparse_optimizer="lazy_adam",
            data__split_fractions=[0.9, 0.05, 0.05],
        )
    assert (tmp_path / "large" / "rows.csv").stat().st_size > 3 * BUDGET
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(LIMITED),
            paths["small"],
            paths["large"],
            str(BUDGET),
        ],
        env=os.environ | GIVING_BACK,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    trained, auc = done.stdout.splitlines()[-1].split()
    assert int(trained) > 600_000
    assert float(auc) > 0.6  # it has learnt


def write_wide(path: Path, count: int) -> None:
    """Rows of about 290 bytes whose label depends on the first column."""
    rng = np.random.default_rng(count)
    with TableWriter(path) as writer:
        for start in range(0, count, 100_000):
            size = min(100_000, count - start)
            names = np.floor(50 ** rng.random((10, size))).astype(np.int64)
            likes = rng.random(size) < np.where(names[0] % 2, 0.3, 0.7)
            columns = {"label": likes.astype(int)}
            columns |= {
                f"c{k}": np.char.add("a-rather-long-name-", ids.astype(str))
                for k, ids in enumerate(names)
            }
            columns |= {f"d{k}": rng.random(size) for k in range(2)}
            writer.write(pa.table(columns))
