"""Hosts that hold a part of the training rows each learn what one process with all of them does."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import torch
import yaml

from deepfm.checkpoint import load_checkpoint
from deepfm.cli import main
from tests.training.processes import environments

pytestmark = pytest.mark.slow

EPOCHS = 3


@pytest.fixture
def config(tmp_path):
    """6,000 rows of which the first ones are unlike the last ones; stores are relative paths."""
    rng = np.random.default_rng(5)
    user, item = np.sort(rng.integers(0, 60, 6000)), rng.integers(0, 80, 6000)
    tags = ["|".join(rng.choice(list("abcde"), n)) for n in rng.integers(0, 4, 6000)]
    like = ((user + item) % 3 == 0).astype(int)
    table = pa.table({"user": user, "item": item, "tags": tags, "like": like})
    pyarrow.csv.write_csv(table, tmp_path / "rows.csv")
    fields = {
        "user": {"type": "sparse"},
        "item": {"type": "sparse"},
        "tags": {"type": "sequence", "separator": "|"},
    }
    content = {
        "device": "cpu",
        "output_dir": str(tmp_path / "run"),
        "data": {
            "dataset_name": "tabular",
            "data_dir": str(tmp_path),
            "store_dir": "stores",
            "order": "sharded",
            "shards": 2,
            "split_strategy": "random",
            "table": {"files": "rows.csv", "label": "like", "fields": fields},
        },
        "feature": {"embedding_dim": 4, "fm_embedding_dim": 4},
        "dnn": {"hidden_units": [8], "norm": "none", "dropout": 0.0},
        "training": {
            "epochs": EPOCHS, "batch_size": 280, "precision": "fp32", "threads": 1,
            "optimizer": "sgd", "lr": 0.1, "keep": "last", "early_stopping_patience": None,
            "sparse_optimizer": {"name": "adagrad", "initial_accumulator_value": 0.1},
        },
    }  # fmt: skip
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def on_hosts(config, hosts, *arguments):
    """Exit codes and what is said, of a process in each of these folders."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "deepfm", "train", "--config", str(config), *arguments],
            cwd=host,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for host, variables in zip(hosts, environments(len(hosts)), strict=True)
    ]
    said = [process.communicate(timeout=240)[0] for process in started]
    return [process.returncode for process in started], said


def losses_of(run):
    lines = (run / "history.jsonl").read_text().splitlines()
    return [json.loads(line)["train_loss"] for line in lines]


def test_two_hosts_learn_what_one_with_all_rows_does(config, tmp_path, monkeypatch):
    (whole := tmp_path / "whole").mkdir()
    monkeypatch.chdir(whole)
    alone = tmp_path / "alone"
    assert main(["train", "--config", str(config), "--override", f"output_dir={alone}"]) == 0
    hosts = [tmp_path / f"host{number}" for number in range(2)]
    for number, host in enumerate(hosts):
        part = ["--part", f"{number}/2", "--into", str(host / "stores")]
        assert main(["prepare", "--config", str(config), *part]) == 0
    shorter = ("--override", "training.epochs=2")
    codes, said = on_hosts(config, hosts, *shorter)
    assert codes == [0, 0], said
    assert "no page: this host has a part of the training rows" in said[0]
    codes, said = on_hosts(config, [hosts[0], hosts[0], hosts[1], hosts[1]], "--resume")
    assert codes == [0, 0, 0, 0], said
    assert "resumed in epoch 3" in said[0]
    found, expected = losses_of(tmp_path / "run"), losses_of(alone)
    assert len(found) == EPOCHS
    assert found == pytest.approx(expected, abs=1e-6)
    one, other = (load_checkpoint(path / "last.pt").model for path in (alone, tmp_path / "run"))
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, rtol=0, atol=1e-5, msg=name)
    stores = [path.name for host in hosts for path in (host / "stores").iterdir() if path.is_dir()]
    assert [name[-8:] for name in stores] == ["part0of2", "part1of2"]  # and no whole one
    for exchanged in (hosts[::-1], hosts[:1]):
        codes, said = on_hosts(config, exchanged, "--overwrite")
        assert set(codes) == {2}, said
        text = "".join(said)
        assert text.count("error: ") == 1
        assert "Traceback" not in text
        expected_text = "trains on shard 0/2" if len(exchanged) == 2 else "found 1 in all"
        assert expected_text in text
