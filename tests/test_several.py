"""Several checkpoints as one: the mean of their logits by hand, and which may be averaged."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from deepfm.checkpoint import load_checkpoint
from deepfm.cli import main
from deepfm.config import load_config
from deepfm.errors import CheckpointError
from deepfm.evaluation.measures import auc, log_loss
from deepfm.evaluation.scoring import score
from deepfm.experiment import load_data, train
from deepfm.held_out import evaluate_checkpoint
from deepfm.prediction import Predictor
from deepfm.several import expanded
from tests.clicks import trained, write_rows


@pytest.fixture
def pair(tmp_path):
    """Checkpoints of two kinds of model, with vectors of different sizes."""
    small = {"user": {"type": "sparse", "embedding_dim": 2}}
    fields = small | {"color": {"type": "sparse", "embedding_dim": 4}, "size": {"type": "dense"}}
    one = trained(tmp_path, "one")
    other = trained(
        tmp_path, "other", model_name="wide_and_deep", seed=7, data__table__fields=fields
    )
    return [one, other]


def logits_of(path, rows) -> list[float]:
    """Of one checkpoint alone."""
    return score(load_checkpoint(path).build_model(), rows.inputs, batch_size=64).tolist()


def test_what_is_averaged_are_logits(pair, tmp_path):
    config = load_checkpoint(pair[0]).config
    data = load_data(config, load_checkpoint(pair[0]).encoders)
    mean = [
        (float(a) + float(b)) / 2
        for a, b in zip(*(logits_of(path, data.test) for path in pair), strict=True)
    ]
    found = evaluate_checkpoint(pair)["test"]
    label = data.test.label.numpy()
    assert found["logloss"] == pytest.approx(log_loss(label, np.array(mean)), rel=1e-6)
    assert found["auc"] == pytest.approx(auc(label, np.array(mean)))
    alone = [evaluate_checkpoint(path)["test"]["logloss"] for path in pair]
    assert found["logloss"] < np.mean(alone)  # LogLoss is convex in the logit

    table = pa.csv.read_csv(tmp_path / "rows.csv").take(data.test.row)
    probability = Predictor(pair).predict(table)
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-np.array(mean))), rtol=1e-5)


def test_the_commands_take_several_and_patterns(pair, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["predict", "--input", "rows.csv", "--output", "out.csv", "--checkpoint"]
    assert main([*command, "o*/best_model.pt"]) == 0
    expected = Predictor(pair).predict(pa.csv.read_csv("rows.csv"))
    np.testing.assert_allclose(pa.csv.read_csv("out.csv")["probability"], expected, rtol=1e-9)
    capsys.readouterr()
    assert main(["evaluate", "--checkpoint", *map(str, pair)]) == 0
    printed = capsys.readouterr().out
    assert "the mean of the logits of 2 checkpoints" in printed
    assert f"{evaluate_checkpoint(pair)['test']['auc']:.4f}" in printed
    assert main(["evaluate", "--checkpoint", "x*/best_model.pt"]) == 2
    assert "x*/best_model.pt: no file has such a name" in capsys.readouterr().err


def test_a_name_with_brackets_that_is_there_is_no_pattern(tmp_path):
    path = tmp_path / "run[1].pt"
    path.write_bytes(b"")
    assert expanded([str(path)]) == [str(path)]


def test_classes_and_numbers_have_the_mean_of_logits_too(tmp_path):
    rows = write_rows(tmp_path)
    of_classes = {
        "num_class": 3, "training__losses": ["softmax_cross_entropy"],
        "training__metric": "accuracy", "evaluation__metrics": ["accuracy"],
        "data__table__label": "kind",
        "data__table__labels": {"kind": {"column": "kind", "kind": "class"}},
    }  # fmt: skip
    paths = [trained(tmp_path, f"c{k}", seed=k, **of_classes) for k in range(2)]
    each = [np.log(Predictor(path).predict(rows)) for path in paths]
    expected = np.exp(sum(each) / 2)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(Predictor(paths).predict(rows), expected, rtol=1e-4)
    of_numbers = {
        "training__losses": ["l2"], "training__metric": "rmse", "evaluation__metrics": ["rmse"],
        "data__table__label": "amount",
        "data__table__labels": {
            "amount": {"column": "amount", "kind": "number", "standardize": True}
        },
    }  # fmt: skip
    paths = [trained(tmp_path, f"n{k}", seed=k, **of_numbers) for k in range(2)]
    each = [Predictor(path).predict(rows) for path in paths]
    np.testing.assert_allclose(Predictor(paths).predict(rows), sum(each) / 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"data__history": {"max_length": 5}}])
def test_rankings_are_of_mean_logits(tiny_config, tmp_path, changes):
    for k, model in enumerate(("deepfm", "attention_deepfm")):
        of_run = {"output_dir": str(tmp_path / f"m{k}"), "seed": k} | changes
        path = tiny_config(f"m{k}", model_name=model, **of_run)
        train(load_config(path))
    paths = [tmp_path / f"m{k}" / "best_model.pt" for k in range(2)]
    found, each = Predictor(paths).recommend(3, top=60), []
    for path in paths:
        listed = Predictor(path).recommend(3, top=60)
        each.append({r.item: np.log(r.probability / (1 - r.probability)) for r in listed})
    mean = {item: (each[0][item] + each[1][item]) / 2 for item in each[0]}
    assert [r.item for r in found] == sorted(mean, key=mean.get, reverse=True)
    for item, _, probability in found:
        assert probability == pytest.approx(1 / (1 + np.exp(-mean[item])), rel=1e-4)
    metrics = evaluate_checkpoint(paths)["test"]
    assert 0 <= metrics["hr@10"] <= 1


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"data__split_seed": 5}, "field .* has learnt another|data.split_seed"),
        ({"data__table__fields": {"color": {"type": "sparse"}}}, "only one has the field user"),
        ({"data__table__label": "other"}, "label .'click' and 'other'"),
    ],
)
def test_checkpoints_that_disagree_are_named_with_their_difference(tmp_path, changes, problem):
    labels = {"click": {"column": "click"}, "other": {"column": "click"}}
    common = {"data__table__labels": labels, "training__epochs": 1}
    one = trained(tmp_path, "one", **common)
    other = trained(tmp_path, "other", **common | changes)
    message = rf"one/best.* and .*other/best.*averaged: ({problem})"
    with pytest.raises(CheckpointError, match=message):
        Predictor([one, other])


def test_other_rows_are_another_model(tmp_path):
    one = trained(tmp_path, "one", training__epochs=1)
    checkpoint = load_checkpoint(one)
    parts = {
        role: [part._replace(digest="0" * 32) for part in some]
        for role, some in checkpoint.fingerprint.parts.items()
    }
    other = one.with_name("other.pt")
    replace(checkpoint, fingerprint=type(checkpoint.fingerprint)(parts)).save(other)
    with pytest.raises(CheckpointError, match=r"rows\.csv had another content"):
        Predictor([one, other])
    older = one.with_name("older.pt")  # of a release that did not know its data
    replace(checkpoint, fingerprint=None).save(older)
    assert Predictor([one, older])
    with pytest.raises(CheckpointError, match="at least one"):
        Predictor([])
