"""The names that other parts of the program take from the format."""

import sys
from subprocess import run

import pytest

from deepfm.easyrec.names import dropout_file, dropout_loss, parameter_names


@pytest.mark.parametrize(
    ("model", "ours", "theirs"),
    [
        ("deepfm", "dnn.0.layers.0.0.weight", "deep_mlp.mlp.0.perceptron.0.weight"),
        ("deepfm", "final.0.layers.12.1.bias", "final_mlp.mlp.12.perceptron.1.bias"),
        ("wide_and_deep", "final.1.weight", "output_mlp.weight"),
        ("deepfm", "dnn.1.bias", "output_mlp.bias"),
        ("xdeepfm", "cin.layers.1.weight", "cin.cin_layers.1.weight"),
        ("xdeepfm", "dnn.0.layers.1.0.weight", "deep.mlp.1.perceptron.0.weight"),
        ("xdeepfm", "final.0.layers.0.0.weight", "final.mlp.0.perceptron.0.weight"),
        ("deepfm", "embedding.dropouts.fm.weight", "group_variational_dropouts.fm.feature_p"),
        ("multi_tower", "towers.1.layers.0.0.bias", "towers.item.mlp.0.perceptron.0.bias"),
        ("mmoe", "towers.1.layers.0.0.bias", "_task_tower.1.tower_mlp.mlp.0.perceptron.0.bias"),
        ("dbmtl", "towers.1.layers.0.0.bias", "task_mlps.item.mlp.0.perceptron.0.bias"),
        ("ple", "levels.0.own.1.2.layers.3.0.bias",
         "_extraction_nets.0._task_layers.1.2.mlp.3.perceptron.0.bias"),
        ("dlrm", "dnn.0.layers.1.0.weight", "final_mlp.mlp.1.perceptron.0.weight"),
    ],
)  # fmt: skip
def test_a_parameter_has_their_name_with_and_without_model(model, ours, theirs):
    assert parameter_names(ours, model, ["user", "item"])[:2] == [f"model.{theirs}", theirs]


def test_a_parameter_of_ours_alone_has_none():
    assert parameter_names("embedding.projections.16.weight", "deepfm") == []
    assert parameter_names("dnn.0.layers.0.0.weight", "fcn") == []


def test_names_of_what_variational_dropout_writes():
    assert dropout_loss("fm") == "fm_feature_p_loss"
    assert dropout_file("fm") == "feature_dropout_ratio_fm.csv"


def test_names_and_endings_need_no_torch_and_no_protobuf():
    code = (
        "import sys, types; package = types.ModuleType('deepfm'); package.__path__ = [sys.argv[1]];"
        "sys.modules['deepfm'] = package; import deepfm.easyrec.names, deepfm.easyrec;"
        "assert deepfm.easyrec.is_pipeline('a.config');"
        "assert not {'torch', 'google.protobuf', 'yaml'} & set(sys.modules)"
    )
    import deepfm

    run([sys.executable, "-c", code, deepfm.__path__[0]], check=True)
