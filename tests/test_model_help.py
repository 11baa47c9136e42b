"""What `deepfm models` prints: every model, from its docstrings."""

import subprocess
import sys

import pytest

from deepfm.cli import main
from deepfm.model_help import about
from deepfm.models import MODELS


def printed(capsys, *arguments) -> str:
    assert main(["models", *arguments]) == 0
    return capsys.readouterr().out


def test_each_model_is_listed_with_a_line_and_its_source(capsys):
    parts = printed(capsys).split("\n\n")
    assert [part.partition(":")[0] for part in parts] == list(MODELS)
    for name, part in zip(MODELS, parts, strict=True):
        line, *others = part.rstrip().splitlines()
        assert line.endswith("."), name
        assert about(name).source.split()[0] in " ".join(others)
        assert all(option.startswith("  ") for option in others)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_a_line_a_formula_and_a_source(name):
    found = about(name)
    assert found.line
    assert found.line in sys.modules[MODELS[name].load().__module__].__doc__
    assert "=" in found.text
    is_paper = any(str(year) in found.source for year in range(1950, 2030))
    assert is_paper or "TorchEasyRec" in found.source


def test_own_options_are_listed_with_their_defaults(capsys):
    text = printed(capsys)
    assert "\n  cin: {layer_sizes: [128, 128], split_half: true, " in text
    assert "\n  also global_bias, output_bias, dnn, final\n" in text


def test_one_model_in_full(capsys):
    text = printed(capsys, "xdeepfm")
    assert "NOTE[DIFF]: The CIN reads vectors projected to" in text
    assert "\n  layer_sizes: [128, 128]  # Feature maps of each layer.\n" in text
    assert "\nfeature:" not in text


def test_an_unknown_model_is_one_line_with_the_nearest(capsys):
    assert main(["models", "deepfn"]) == 2
    assert capsys.readouterr().err == (
        "error: models: unknown model 'deepfn'; did you mean 'deepfm'?\n"
    )


def test_the_list_needs_no_torch():
    code = (
        "import sys; from deepfm.model_help import listed; listed(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
