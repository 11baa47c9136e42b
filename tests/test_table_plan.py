"""`deepfm plan`: how processes would share tables out."""

import re
from pathlib import Path

import pytest

from deepfm.cli import main
from tests.torchrec import needs_torchrec

EXAMPLE = Path(__file__).parents[1] / "examples" / "deepfm_criteo.config"


def plan(*arguments, config=EXAMPLE):
    return main(["plan", "--config", str(config), *arguments])


@needs_torchrec
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_criteo_on_8_processes_of_8_gb(capsys):
    assert plan("--processes", "8", "--memory", "8GB") == 0
    said = capsys.readouterr().out
    rows = sum(map(int, re.findall(r"num_buckets: (\d+)", EXAMPLE.read_text())))
    weights = rows * (16 + 4)  # vectors and first-order weights
    assert 4.08e9 < weights < 4.09e9
    assert f"in all {weights:,} weights, 16.33 GB, 32.67 GB with a statistic for each" in said
    sizes = [float(size) for size in re.findall(r"process \d: .*, (\S+) GB with", said)]
    assert len(sizes) == 8
    assert max(sizes) <= 0.9 * 8
    assert sum(sizes) == pytest.approx(32.67, abs=0.05)


@needs_torchrec
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_criteo_on_8_processes_of_4_gb_is_refused_in_one_line(capsys):
    assert plan("--processes", "8", "--memory", "4GB") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the tables need 32.67 GB" in line
    assert "8 processes with 4.00 GB each have 28.80 GB for them" in line


@pytest.mark.parametrize("memory", ["8", "0GB", "8 tons", "-1GB", ""])
def test_a_memory_that_is_none(capsys, memory):
    assert plan("--processes", "8", f"--memory={memory}") == 2
    assert "--memory: expected a number with one of KB, MB, GB" in capsys.readouterr().err


@pytest.mark.parametrize("processes", ["0", "5000"])
def test_a_count_that_is_none(capsys, processes):
    assert plan("--processes", processes, "--memory", "8GB") == 2
    assert "--processes: expected 1 to 1024" in capsys.readouterr().err


def test_rows_that_depend_on_data(capsys):
    config = EXAMPLE.parents[1] / "configs" / "deepfm_criteo.yaml"
    assert plan("--processes", "2", "--memory", "8GB", config=config) == 2
    assert "its rows depend on the data" in capsys.readouterr().err
