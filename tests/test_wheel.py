"""What `make build` makes can be installed and trains, without the source tree or a network."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from deepfm.config import load_config
from tests.test_configs import generate

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    """What a command prints; it does not see the source tree."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the source archive and the wheel made of it, as `make build` makes them."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """The `bin` of a new environment: the wheel, and the dependencies of this environment."""
    home = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    run(python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=home)
    # A folder that a .pth file names is searched after the environment's own, and its own .pth
    # files are not read: the editable install of the source tree stays out of sight.
    (packages,) = home.glob("lib/python*/site-packages")
    lines = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "dependencies.pth").write_text("\n".join(lines) + "\n")
    return home / "bin"


def test_the_wheel_holds_the_package_and_its_configs(built):
    (wheel,) = built.glob("*.whl")
    names = {name.removeprefix("deepfm/") for name in zipfile.ZipFile(wheel).namelist()}
    assert names >= {"py.typed", "easyrec/pipeline.proto", "configs/deepfm_adult.yaml"}
    expected = {f"configs/{path.name}" for path in (ROOT / "configs").glob("*")}
    assert {name for name in names if name.startswith("configs/")} == expected
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]
    (archive,) = built.glob("*.tar.gz")
    assert archive.name.removesuffix(".tar.gz") == "-".join(wheel.name.split("-")[:2])


def test_the_version_stands_in_one_place(built, installed, tmp_path):
    (version,) = re.findall(
        r'^__version__ = "(.+)"$', (ROOT / "deepfm" / "__init__.py").read_text(), re.MULTILINE
    )
    assert [path.name for path in built.glob("*.whl")] == [f"deepfm-{version}-py3-none-any.whl"]
    assert not re.search("^version", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    code = "import importlib.metadata, deepfm; print(importlib.metadata.version('deepfm'), "
    code += "deepfm.__version__, deepfm.__file__)"
    *versions, file = run(installed / "python", "-c", code, cwd=tmp_path).split()
    assert versions == [version, version]
    assert Path(file).is_relative_to(installed.parent)


def test_a_packaged_config_trains_in_another_environment(installed, tmp_path):
    generate(load_config(ROOT / "configs" / "deepfm_adult.yaml").data.table, tmp_path)
    changes = {
        "data.data_dir": tmp_path, "data.store_dir": tmp_path / "stores",
        "training.max_steps": 4, "training.batch_size": 128,
    }  # fmt: skip
    overrides = [f"--override={key}={value}" for key, value in changes.items()]
    command = [installed / "deepfm", "train", "--config", "deepfm_adult", *overrides]
    printed = run(*command, cwd=tmp_path)
    assert re.search(r"^auc +0\.\d+", printed, re.MULTILINE)
    assert (tmp_path / "outputs" / "deepfm_adult" / "best_model.pt").exists()
