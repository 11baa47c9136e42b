"""How much memory a process may use, by what the system's files say."""

import os

import pytest

from deepfm.utils import memory

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, MACHINE),
        ({"memory.max": "max"}, MACHINE),
        ({"memory.max": "1000"}, 1000),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, MACHINE),
        ({"own/job/memory.max": "3000", "own/memory.max": "2000"}, 2000),
        ({"memory/slurm/memory.limit_in_bytes": "5000"}, 5000),
        ({"other/memory.max": "7"}, MACHINE),
    ],
)
def test_the_least_limit_of_all_groups_counts(tmp_path, monkeypatch, limits, expected):
    for name, value in limits.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(value + "\n")
    groups = tmp_path / "self"
    groups.write_text("0::/own/job\n7:cpu,cpuacct:/other\n4:memory:/slurm\n")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "_OWN", groups)
    assert memory.total_memory() == expected


def test_without_such_files_it_is_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "none")
    monkeypatch.setattr(memory, "_OWN", tmp_path / "none")
    assert memory.total_memory() == MACHINE
