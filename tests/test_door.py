"""What is imported at the door: nothing heavy before a command needs it."""

import re
import subprocess
import sys

import pytest

import deepfm

HEAVY = ("torch", "pandas", "sklearn", "scipy")
WATCHED = """
import sys
from deepfm.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
print(code, [name for name in {heavy} if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["train", "--help"], 0),
        (["train", "--nonsense"], 2),
        (["nonsense"], 2),
        (["config", "--model", "xdeepfm"], 0),
        (["config", "--model", "xdeepmf"], 2),
        (["config", "--json-schema"], 0),
    ],
)
def test_a_light_command_imports_nothing_heavy(arguments, code):
    found = subprocess.run(
        [sys.executable, "-c", WATCHED.format(heavy=HEAVY), *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.splitlines()[-1] == f"{code} []"


def test_the_version_is_that_of_the_package(capsys):
    from deepfm.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"deepfm {deepfm.__version__}\n"
    assert re.fullmatch(r"\d+\.\d+\.\d+", deepfm.__version__)


def test_a_config_is_read_without_torch():
    code = (
        "import sys, deepfm; deepfm.load_config('configs/deepfm_criteo.yaml'); "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    root = deepfm.__file__.rpartition("/deepfm/")[0]
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert found.stdout == "[]\n"


def test_public_names_come_from_where_they_are_declared():
    for name in deepfm.__all__:
        value = getattr(deepfm, name)
        assert value.__module__.startswith("deepfm.")
        assert value.__name__ == name
    assert set(deepfm.__all__) <= set(dir(deepfm))
    with pytest.raises(AttributeError, match="has no attribute 'DeepFMM'"):
        deepfm.DeepFMM  # noqa: B018
