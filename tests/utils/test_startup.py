"""What a process that predicts does not import."""

import json
import subprocess
import sys

import pytest

from deepfm import experiment
from deepfm.checkpoint import RunDirectory
from deepfm.config import load_config

SCRIPT = """
import json, sys
from deepfm.cli import main
code = main(sys.argv[1:])
unwanted = ("pandas", "sympy", "torch._dynamo")
print(json.dumps([code, [name for name in unwanted if name in sys.modules]]))
"""


@pytest.mark.parametrize("command", ["predict", "recommend"])
def test_neither_pandas_nor_torchs_compiler(tiny_config, tmp_path, command):
    config = load_config(tiny_config(training__epochs=1, feature__init="normal(0.1)"))
    experiment.train(config)
    rows = tmp_path / "rows.csv"
    rows.write_text("user,item\n5,3\n")
    arguments = {
        "predict": ["--input", str(rows), "--output", str(tmp_path / "scores.csv")],
        "recommend": ["--user", "5"],
    }
    checkpoint = ["--checkpoint", str(RunDirectory(config.output_dir).best)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, command, *checkpoint, *arguments[command]],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []], done.stderr


def test_pandas_can_be_imported_afterwards():
    pytest.importorskip("pandas")
    script = """
from deepfm.utils.startup import leave_pandas_out
leave_pandas_out()
import sys
assert "pandas" not in sys.modules
import pandas, pyarrow
frame = pyarrow.table({"a": [1, 2]}).to_pandas()
assert frame["a"].tolist() == [1, 2]
assert pyarrow.Table.from_pandas(frame).column_names == ["a"]
leave_pandas_out()
assert "pandas" in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_counting_the_weights_of_any_model_imports_no_compiler():
    script = """
import sys
from deepfm.config import config_from_dict
from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.models import MODELS, count_parameters
fields = [FieldSchema(name=n, feature_type="sparse", vocabulary_size=9) for n in ("a", "b")]
schema = DatasetSchema(fields={f.name: f for f in fields}, label_field="y")
for name in set(MODELS) - {"esmm"}:  # which has several tasks
    count_parameters(schema, config_from_dict({"model_name": name}))
    assert "torch._dynamo" not in sys.modules, name
"""
    subprocess.run([sys.executable, "-c", script], check=True)
