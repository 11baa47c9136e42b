"""The attacks in their short form; `make attack` tries each far more often."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attacks.__main__ import ATTACKS

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="calls are preloaded on Linux"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler"),
]


def test_nothing_gives_way(tmp_path):
    """All attacks in one process, which imports for them all."""
    command = [sys.executable, "-m", "attacks", "--short", "--output", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("ATTACK_CALLS", None)
    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    report = (tmp_path / "report.md").read_text()
    found = re.findall(r"^\| (\w+) \| \w+ \| (\d+) \| (\d+) \|$", report, re.MULTILINE)
    assert {attack for attack, _, _ in found} == set(ATTACKS)
    assert all(held == tried for _, held, tried in found)
    assert sum(int(tried) for _, _, tried in found) > 60


def test_an_attack_that_succeeds_is_told(tmp_path):
    """A case that goes wrong is a line of the report, and is not tried again by a later run."""
    from attacks.state import Case, State

    tried = []

    def case(problem: str):
        def run() -> str:
            tried.append(problem)
            return problem

        return Case(f"kind {problem or 'none'}", run)

    for _ in range(2):
        state = State(tmp_path, float("inf"))
        state.run("kills", [case(""), case("differs: last.pt")])
        assert state.failures() == ["kills: kind differs: last.pt: differs: last.pt"]
        assert "| kills | kind | 1 | 2 |" in state.report()
    assert tried == ["", "differs: last.pt"]
    late = State(tmp_path, float("-inf"))
    late.run("kills", [case("never")])
    assert "never" not in tried


def test_a_difference_of_one_bit_is_a_difference():
    import torch

    from attacks.workloads import digest

    weights = torch.zeros(3)
    other = weights.clone()
    other.view(torch.int32)[1] = 1  # the smallest number there is
    assert digest({"a": [weights], "seconds": 1.0}) == digest({"a": [weights], "seconds": 2.0})
    assert digest({"a": [weights]}) != digest({"a": [other]})
    assert digest(-0.0) != digest(0.0)
