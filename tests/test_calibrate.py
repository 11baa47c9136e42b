"""`calibrate`: halves, what is stored and applied, what training drops, what is refused."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from deepfm import experiment
from deepfm.calibrate import Halves, calibrate
from deepfm.checkpoint import RunDirectory, load_checkpoint
from deepfm.cli import main
from deepfm.config import load_config
from deepfm.errors import ConfigError, DataError, DeepFMError
from deepfm.evaluation.calibration import Isotonic, Temperature
from deepfm.evaluation.scoring import score
from deepfm.experiment import load_data
from deepfm.held_out import evaluate_checkpoint
from deepfm.prediction import Predictor
from tests.clicks import config, trained, write_rows


def valid_rows(path):
    checkpoint = load_checkpoint(path)
    rows = load_data(checkpoint.config, checkpoint.encoders).valid
    logit = score(checkpoint.build_model(), rows.inputs, batch_size=64)
    return rows, rows.label.numpy(), logit.astype(np.float64)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_the_map_is_of_one_half_and_the_figures_are_of_the_other(tmp_path, method):
    path = trained(tmp_path)
    rows, label, logit = valid_rows(path)
    halves = Halves(rows)
    assert 0.4 < halves.fitted.mean() < 0.6
    found = calibrate(path, method=method)[""]
    kind = {"temperature": Temperature, "isotonic": Isotonic}[method]
    fitted = kind.fit(label[halves.fitted], logit[halves.fitted], split="valid")
    stored = load_checkpoint(path).calibration[""]
    assert stored.to_plain() == fitted.to_plain()
    for figures, values in zip(found, (logit, fitted.apply(logit)), strict=True):
        z, y = values[halves.reported], label[halves.reported]
        losses = [math.log1p(math.exp(-a if b else a)) for a, b in zip(z, y, strict=True)]
        assert figures["logloss"] == pytest.approx(sum(losses) / len(losses))
        low, high = figures["logloss_interval"]
        assert low < figures["logloss"] < high
        p = [1 / (1 + math.exp(-a)) for a in z]
        assert figures["calibration_ratio"] == pytest.approx(sum(p) / y.sum())


def test_what_is_stored_is_applied_last_by_all_that_read_the_checkpoint(tmp_path, caplog):
    path = trained(tmp_path)
    before = evaluate_checkpoint(path)["test"]
    table = pyarrow.csv.read_csv(tmp_path / "rows.csv")
    plain = Predictor(path).predict(table)
    calibrate(path, method="isotonic")
    stored = load_checkpoint(path).calibration[""]
    expected = 1 / (1 + np.exp(-stored.apply(np.log(plain / (1 - plain)))))
    np.testing.assert_allclose(Predictor(path).predict(table), expected, rtol=1e-4)
    with caplog.at_level("INFO"):
        after = evaluate_checkpoint(path)["test"]
    assert "calibrated (isotonic, " in caplog.text
    assert "figures of test after that" in caplog.text
    assert after["logloss"] != before["logloss"]
    assert set(after) == set(before)


def test_calibrating_twice_is_calibrating_once(tmp_path, caplog):
    path = trained(tmp_path)
    calibrate(path)
    once = load_checkpoint(path).calibration[""]
    with caplog.at_level("INFO"):
        calibrate(path)
    assert load_checkpoint(path).calibration[""] == once
    assert f"replaces {once.described()}" in caplog.text


def test_halves_are_by_user_where_there_are_users(tmp_path):
    path = trained(tmp_path, data__table__user_field="user")
    rows, _, _ = valid_rows(path)
    halves = Halves(rows)
    assert halves.by == "users"
    users = rows.inputs.sparse[:, 0].numpy()
    known = users > 0
    shared = set(users[known & halves.fitted]) & set(users[known & halves.reported])
    assert not shared
    assert 0.2 < halves.fitted.mean() < 0.8


def test_a_map_that_does_not_help_is_stored_and_said(tmp_path, caplog):
    path = trained(tmp_path)
    found = calibrate(path, method="isotonic")[""]
    worse = [found[1][name] >= found[0][name] for name in ("ece", "logloss")]
    assert any(worse) == ("does not help" in caplog.text)
    assert load_checkpoint(path).calibration


def test_a_write_that_fails_leaves_the_checkpoint_as_it_was(tmp_path, monkeypatch):
    path = trained(tmp_path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(DeepFMError, match="No space left"):
        calibrate(path)
    assert path.read_bytes() == before
    assert {file.name for file in path.parent.iterdir() if file.suffix == ".tmp"} == set()


def test_training_drops_a_calibration_and_says_so(tmp_path, caplog):
    path = trained(tmp_path)
    plain = path.read_bytes()
    calibrate(path)
    calibrate(path.with_name("last.pt"))
    experiment.train(config(tmp_path, training__epochs=3), resume=True)
    for name in ("last.pt", "best_model.pt"):
        assert f"the calibration of {path.with_name(name)} is dropped" in caplog.text
        assert not load_checkpoint(path.with_name(name)).calibration
    caplog.clear()
    calibrated = tmp_path / "calibrated.pt"
    path.write_bytes(plain)
    calibrate(path, output=calibrated)
    assert path.read_bytes() == plain
    experiment.train(config(tmp_path, "warm", training__epochs=1), init_from=calibrated)
    assert f"the calibration of {calibrated} is dropped" in caplog.text
    assert not load_checkpoint(tmp_path / "warm" / "best_model.pt").calibration


def test_of_several_checkpoints_no_calibration_is_applied(tmp_path, caplog):
    paths = [trained(tmp_path, f"r{k}", seed=k) for k in range(2)]
    before = evaluate_checkpoint(paths)
    calibrate(paths[0])
    assert evaluate_checkpoint(paths) == before
    assert "1 of 2 checkpoints are calibrated" in caplog.text


def test_rankings_are_refused(tiny_config):
    used = load_config(tiny_config(training__epochs=1))
    experiment.train(used)
    with pytest.raises(
        ConfigError, match=r"a ranking model is not calibrated: .* drawn candidates"
    ):
        calibrate(RunDirectory(used.output_dir).best)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"num_class": 3, "losses": "softmax_cross_entropy", "kind": "class"},
            "cannot be calibrated: it has 3 classes",
        ),
        ({"losses": "l2", "kind": "number"}, "cannot be calibrated: its logit stands for a number"),
    ],
)
def test_classes_and_numbers_are_refused(tmp_path, changes, problem):
    metric = "rmse" if changes["losses"] == "l2" else "accuracy"
    path = trained(
        tmp_path,
        num_class=changes.get("num_class", 1),
        training__losses=[changes["losses"]],
        training__metric=metric,
        training__epochs=1,
        evaluation__metrics=[metric],
        data__table__label="kind",
        data__table__labels={"kind": {"column": "kind", "kind": changes["kind"]}},
    )
    with pytest.raises(ConfigError, match=problem):
        calibrate(path)


def test_two_classes_with_a_logit_each_are_calibrated(tmp_path):
    path = trained(tmp_path, num_class=2, training__losses=["softmax_cross_entropy"])
    table = pyarrow.csv.read_csv(tmp_path / "rows.csv")
    plain = Predictor(path).predict(table)
    calibrate(path)
    factor = 1 / load_checkpoint(path).calibration[""].temperature
    expected = 1 / (1 + (1 / plain - 1) ** factor)
    np.testing.assert_allclose(Predictor(path).predict(table), expected, rtol=1e-4)


def test_the_command(tmp_path, capsys):
    path = trained(tmp_path)
    capsys.readouterr()
    command = ["calibrate", "--checkpoint", str(path)]
    assert main([*command, "--output", str(tmp_path / "new.pt")]) == 0
    printed = capsys.readouterr().out.splitlines()
    titles = ["ECE", "ECE of noise alone", "LogLoss", "normalized entropy"]
    titles += ["predicted / positives", "AUC"]
    assert [line[:22].strip() for line in printed[-7:-1]] == titles
    assert printed[-1] == f"stored in {tmp_path / 'new.pt'}; predict and evaluate apply it"
    assert not load_checkpoint(path).calibration
    assert main([*command, "--task", "buy"]) == 2
    assert "the model has one task, which has no name" in capsys.readouterr().err
    assert main(["calibrate", "--checkpoint", str(tmp_path / "none.pt")]) == 2


def test_a_half_of_one_class_is_refused(tmp_path):
    write_rows(tmp_path, count=60)
    path = trained(tmp_path, training__epochs=1, training__batch_size=16)
    table = pyarrow.csv.read_csv(tmp_path / "rows.csv")
    none = pa.array([0] * len(table))
    place = table.column_names.index("click")
    pyarrow.csv.write_csv(table.set_column(place, "click", none), tmp_path / "rows.csv")
    with pytest.raises(DataError, match=r"half of the .* rows of valid"):
        calibrate(path)
