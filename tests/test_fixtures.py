"""What earlier releases wrote still loads, predicts, and goes on training.

Each folder of `tests/fixtures` holds what one release left (`make.py` says how). Figures agree to
1e-6, not bit by bit, because bits belong to a processor; those of a run that goes on training to
1e-5, because its steps carry the difference on (2.5e-6 was seen between two processors, with the
code that made the fixture on both). `tests/fixtures/<release>/declared/stores`
is a store; the other runs prepare theirs anew.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from deepfm import experiment
from deepfm.checkpoint import load_checkpoint
from deepfm.config import load_config
from deepfm.data.store.opening import open_store
from deepfm.prediction import Predictor

RELEASES = sorted(path for path in (Path(__file__).parent / "fixtures").iterdir() if path.is_dir())
RUNS = sorted(path.parent for release in RELEASES for path in release.glob("*/best_model.pt"))
VERSION_1 = "format_version=1"  # which their short configs do not say
OVERRIDES = ["training.epochs=2", "output_dir=run", "device=cpu", VERSION_1]


@pytest.fixture(params=RUNS, ids=lambda path: f"{path.parent.name}-{path.name}")
def run(request, tmp_path, monkeypatch) -> Path:
    """A copy of a run's folder, in which the test stands; one thread, as when it was made."""
    folder = tmp_path / "copy"
    shutil.copytree(request.param, folder)
    monkeypatch.chdir(folder)
    torch.set_num_threads(1)
    return folder


def close(found: object, expected: object, tolerance: float = 1e-6) -> bool:
    """Whether nested numbers agree."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(
            close(found[k], expected[k], tolerance) for k in found
        )
    if isinstance(expected, list):
        pairs = zip(found, expected, strict=False)
        return len(found) == len(expected) and all(close(*pair, tolerance) for pair in pairs)
    if isinstance(expected, float):
        return found == pytest.approx(expected, rel=tolerance, abs=tolerance)
    return found == expected


def expected(run: Path) -> dict:
    return json.loads((run / "expected.json").read_text())


def test_fixtures_are_there():
    assert len(RUNS) >= 4


def test_an_old_checkpoint_predicts(run):
    predictor = Predictor(run / "best_model.pt")
    parts = [part[1] for part in predictor.predict_file("new.csv")]
    found = {name: np.concatenate([part[name] for part in parts]).tolist() for name in parts[0]}
    assert close(found, expected(run)["predictions"])
    if "recommended" in expected(run):
        recommended = [list(row) for row in predictor.recommend("1", top=5)]
        assert close(recommended, expected(run)["recommended"])


def test_an_old_run_is_resumed(run):
    (run / "run").mkdir()
    for name in ("best_model.pt", "last.pt", "config.yaml"):
        shutil.copy(run / name, run / "run" / name)
    metrics = experiment.train(load_config("experiment.yaml", OVERRIDES), resume=True)
    found, then = json.loads(json.dumps(metrics)), expected(run)["metrics"]
    assert found.keys() - {"protocol"} == then.keys()  # which newer releases name
    for split in ("valid", "test"):
        if split in then:
            assert close(*as_then(found[split], then[split]), tolerance=1e-5)


def as_then(found: dict, then: dict) -> tuple[dict, dict]:
    """Without the figures that a release did not have, and those that mean something else today.

    LogLoss was read from probabilities, which near 1 have fewer digits than 1e-6 asks for.
    """
    if "prior_correction" in found:
        then = {name: value for name, value in then.items() if name != "logloss"}
    found = {name: found[name] for name in then}
    if "logloss" in then:
        assert found["logloss"] == pytest.approx(then["logloss"], rel=1e-5)
        found["logloss"] = then["logloss"]
    return found, then


def test_an_old_config_reads_the_same_experiment(run):
    spelled_out, short = load_config("config.yaml"), load_config("experiment.yaml", [VERSION_1])
    assert spelled_out.training == short.training
    assert spelled_out.data == short.data
    assert spelled_out == load_checkpoint("best_model.pt").config


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_an_old_store_opens_with_the_rows_of_a_new_one(release, tmp_path, monkeypatch):
    shutil.copytree(release / "declared", tmp_path / "declared")
    monkeypatch.chdir(tmp_path / "declared")
    config = load_config("experiment.yaml", [VERSION_1])
    schema = load_checkpoint("best_model.pt").encoders.schema
    (path,) = Path("stores").iterdir()
    old = open_store(path, config.data, schema)
    new = experiment.load_data(load_config("experiment.yaml", ["data.store_dir=fresh", VERSION_1]))
    assert old.encoders.schema == new.encoders.schema
    for name in ("train", "valid", "test"):
        before, now = old.parts[name][:], getattr(new, name)[:]
        for left, right in zip(before.inputs[:4], now.inputs[:4], strict=True):
            pairs = zip(left, right, strict=True) if isinstance(left, tuple) else [(left, right)]
            for one, other in pairs:
                torch.testing.assert_close(one[:], other[:], rtol=1e-6, atol=1e-6)
        for one, other in ((before.label, now.label), (before.weight, now.weight)):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
        assert torch.equal(before.group, now.group)
