"""Every real pipeline that is at hand: converted, trained, killed and resumed, and used."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from deepfm.checkpoint import load_checkpoint
from deepfm.cli import main
from deepfm.easyrec import reading
from deepfm.easyrec.convert_tasks import SEVERAL_TASKS
from tests.easyrec.rows import capped, write_rows

ROOT = Path(__file__).parents[2]
REAL = sorted((ROOT.parent / "shared" / "data" / "easyrec").glob("*.config"))
STEPS, BATCH, VALID = 20, 16, 48
pytestmark = pytest.mark.skipif(not REAL, reason="the shared data is not here")
each = pytest.mark.parametrize("path", REAL, ids=[path.stem for path in REAL])


def changes_for(path: Path, folder: Path) -> list[str]:
    """Changes that make a pipeline train 20 steps on the rows in a folder."""
    found = [*capped(path), f"data_config.batch_size={BATCH}"]
    found += ["train_config.save_checkpoints_epochs=0", "train_config.save_checkpoints_steps=5"]
    found += ["eval_config.num_steps=1", "train_config.log_step_count_steps=5"]
    if (folder / "train.parquet").exists():
        paths = [f"{side}_input_path={folder}/{name}.parquet"
                 for side, name in (("train", "train"), ("eval", "valid"))]  # fmt: skip
        return found + paths
    return found + write_rows(path, found, folder, STEPS * BATCH, VALID)


def overrides(changes: list[str], run_dir: Path) -> list[str]:
    return [word for c in [*changes, f"model_dir={run_dir}"] for word in ("--override", c)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[Path, Path]:
    return {path: tmp_path_factory.mktemp(path.stem) for path in REAL}


@pytest.fixture(scope="module")
def killed(folders) -> dict[Path, int]:
    """How the training of each pipeline ended that was killed after 12 of its steps."""
    jobs = []
    for path, folder in folders.items():
        changes = changes_for(path, folder)
        jobs.append((["train", "--config", str(path), *overrides(changes, folder / "killed")], 12))
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "killed.py"), json.dumps(jobs)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(zip(folders, json.loads(done.stdout.splitlines()[-1]), strict=True))


@each
def test_it_converts_as_it_stands(path, tmp_path, capsys):
    output = tmp_path / "x.yaml"
    assert main(["convert", "--config", str(path), "--output", str(output)]) == 0
    assert capsys.readouterr().err == ""
    assert output.exists()


@each
def test_it_trains_dies_resumes_and_predicts(path, folders, killed, tmp_path, capsys):
    folder = folders[path]
    changes = changes_for(path, folder)
    assert main(["train", "--config", str(path), *overrides(changes, folder / "whole")]) == 0
    assert "error" not in capsys.readouterr().err
    assert load_checkpoint(folder / "whole" / "last.pt").training["total_steps"] == STEPS

    assert killed[path] == -signal.SIGKILL
    assert not (folder / "killed" / "metrics.json").exists()
    arguments = overrides(changes, folder / "killed")
    assert main(["train", "--config", str(path), *arguments, "--resume"]) == 0
    assert "resumed in epoch 1" in capsys.readouterr().out
    for name in ("metrics.json", "predictions.parquet"):
        whole, resumed = (folder / run / name for run in ("whole", "killed"))
        assert whole.read_bytes() == resumed.read_bytes(), name
    one, other = (load_checkpoint(folder / run / "last.pt").model for run in ("whole", "killed"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)

    best = ["--checkpoint", str(folder / "whole" / "best_model.pt")]
    assert main(["evaluate", *best]) == 0
    assert "auc" in capsys.readouterr().out
    rows, scored = folder / "valid.parquet", tmp_path / "scored.parquet"
    message = reading.read(path).message
    label = message.data_config.label_fields[0]
    arguments = ["--input", str(rows), "--output", str(scored), "--columns", label]
    assert main(["predict", *best, *arguments]) == 0
    table = pa.parquet.read_table(scored)
    assert len(table) == VALID
    model = message.model_config
    name = model.WhichOneof("model")
    several = name in SEVERAL_TASKS
    ends = [f"_{t.tower_name}" for t in getattr(model, name).task_towers] if several else [""]
    columns = [name for name in table.column_names if name != label]
    for end in ends:
        own = [name for name in columns if name.startswith("prob") and name.endswith(end)]
        assert own, columns
        for column in own:
            probability = table[column].to_numpy()
            assert ((probability > 0) & (probability < 1)).all()
