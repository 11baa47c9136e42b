"""An export of a model that ranks, beside the predictor of its checkpoint."""

import json

import numpy as np
import pyarrow as pa
import pytest

from deepfm import runtime
from deepfm.cli import main
from deepfm.errors import CheckpointError, DataError
from deepfm.exported.files import file_digest
from deepfm.prediction import Predictor
from tests import tiny, untrained

# By halves; by whole rows, of the mean of two; by halves without a network, of the mean of two.
MODELS = [("deepfm", 1), ("dcn", 2), pytest.param(("fm", 2), marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=MODELS, ids=lambda param: param[0])
def engines(request, tmp_path_factory):
    """The predictor and the runtime of one model, or of the mean of two."""
    name, count = request.param
    folder = tmp_path_factory.mktemp(name)
    options = {"model_name": name} | ({"dnn": None} if name == "fm" else {})
    paths = [untrained.of_ranking(folder / f"{k}.pt", k, **options) for k in range(count)]
    output = folder / "exported"
    assert main(["export", "--checkpoint", *map(str, paths), "--output", str(output)]) == 0
    return Predictor(paths), runtime.load(output, threads=1), output


@pytest.mark.parametrize("count", [1, 2])
def test_programs_of_torch_have_the_halves_too(tmp_path, count):
    paths = [untrained.of_ranking(tmp_path / f"{k}.pt", k) for k in range(count)]
    given = ["export", "--checkpoint", *map(str, paths), "--output", str(tmp_path / "out")]
    assert main([*given, "--format", "pt2"]) == 0
    graphs = json.loads((tmp_path / "out" / "signature.json").read_text())["graphs"]
    assert sorted(one["file"] for one in graphs.values()) == [
        "item.pt2", "model.pt2", "pair.pt2", "user.pt2",
    ]  # fmt: skip
    entries = json.loads((tmp_path / "out" / "parity.json").read_text())["lists"]
    assert [one["items"] for one in entries] == [1, 7, 4096]
    assert max(one["logit"] for one in entries) < 1e-5


def rows(count: int, seed: int = 0) -> pa.Table:
    """Users and items."""
    rng = np.random.default_rng(seed)
    users = rng.integers(0, tiny.NUM_USERS, count)
    items = rng.integers(0, tiny.NUM_ITEMS, count)
    return pa.table({"user": users, "item": items})


def members(predictor: Predictor):
    """The models of which the mean is taken."""
    return getattr(predictor.model, "models", [predictor.model])


@pytest.mark.parametrize("count", [0, 1, 7, 5000])
def test_the_probabilities_are_those_of_the_predictor(engines, count):
    predictor, served, _ = engines
    found = served.predict(rows(count))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, predictor.predict(rows(count)), rtol=0, atol=1e-6)


def test_rows_of_python_are_read_too(engines):
    predictor, served, _ = engines
    given = [{"user": 3, "item": 5, "price": 0.25}, {"user": 4, "item": 99, "price": 0.5}]
    np.testing.assert_allclose(served.predict(given), predictor.predict(given), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "request_of",
    [
        {"user": 3},
        {"user": 7, "top": 100},
        {"user": 999, "context": {"age": 30, "income": 0.5}},
        {"user": 3, "candidates": [5, 2, 9, 11]},
        {"user": 3, "exclude": list(range(30)), "top": 5},
    ],
)
def test_the_lists_are_those_of_the_predictor(engines, request_of):
    predictor, served, _ = engines
    expected, found = (engine.recommend(**request_of) for engine in (predictor, served))
    assert [one.item for one in found] == [one.item for one in expected]
    assert [one.title for one in found] == [one.title for one in expected]
    values = [[one.probability for one in listed] for listed in (found, expected)]
    np.testing.assert_allclose(*values, rtol=0, atol=1e-6)


def test_requests_are_refused_as_the_predictor_refuses_them(engines):
    for engine in engines[:2]:
        with pytest.raises(DataError, match="reads no history"):
            engine.recommend(3, history=[1])
        with pytest.raises(DataError, match="identifies the user"):
            engine.predict({"item": [1]})
        assert engine.knows_user(3)
        assert not engine.knows_user(tiny.NUM_USERS)


def test_the_files_say_what_they_are(engines):
    predictor, _, output = engines
    parity = json.loads((output / "parity.json").read_text())
    assert [entry["rows"] for entry in parity["rows"]] == [1, 7, 4096]
    assert all(entry["logit"] <= parity["tolerance"] == 1e-5 for entry in parity["rows"])
    assert {"torch", "onnxruntime", "deepfm"} <= parity["versions"].keys()
    has_halves = members(predictor)[0].pair_branches() is not None
    assert ("lists" in parity) == has_halves
    signature = json.loads((output / "signature.json").read_text())
    assert ("pair" in signature["graphs"]) == has_halves
    inputs = {one["name"]: one for one in signature["graphs"]["model"]["inputs"]}
    assert inputs["sparse"]["fields"] == ["user", "age", "item"]
    assert inputs["ids_0"]["fields"] == ["tags"]
    manifest = json.loads((output / "manifest.json").read_text())
    names = {path.name for path in output.iterdir()} - {"manifest.json"}
    assert manifest["files"].keys() == names
    for name, known in manifest["files"].items():
        assert file_digest(output / name) == known["sha256"]


def test_the_weights_of_all_graphs_stand_in_one_file_once(engines):
    """The tables alone would be larger, if each graph had its own."""
    predictor, _, output = engines
    weights = [w for model in members(predictor) for w in model.state_dict().values()]
    numbers = sum(weight.numel() for weight in weights)
    graphs = [path.stat().st_size for path in output.glob("*.onnx")]
    assert (output / "weights.bin").stat().st_size < 4 * numbers + 4096 * 60
    assert len(graphs) in (1, 4)


def test_a_damaged_directory_is_refused(engines, tmp_path):
    _, _, output = engines
    for file in output.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    changed = tmp_path / "encoders.json"
    text = changed.read_text()
    changed.write_text(text.replace("0", "1", 1))
    with pytest.raises(CheckpointError, match=r"encoders\.json: damaged: .*checksum"):
        runtime.load(tmp_path)
    changed.write_text(text[1:])
    with pytest.raises(CheckpointError, match=r"encoders\.json: damaged: .* bytes, not"):
        runtime.load(tmp_path)
    changed.unlink()
    with pytest.raises(CheckpointError, match=r"encoders\.json: cannot be read"):
        runtime.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"manifest\.json: cannot be read"):
        runtime.load(tmp_path / "nowhere")
