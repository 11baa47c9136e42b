"""Functions in other processes: what they give, raise, and leave behind."""

import multiprocessing
import os
import signal
from multiprocessing.context import SpawnProcess

import pytest

from deepfm.errors import DeepFMError
from deepfm.utils.processes import Processes


def times(factor, number, report):
    report(number, 1)
    return factor * number


def fail_from_two_on(shared, number, report):
    if number >= 2:
        raise ValueError(f"no {number}")
    while True:  # until somebody else fails
        report(0, 0)


@pytest.mark.parametrize("count", [1, 2])
def test_results_are_in_the_order_of_the_tasks(count):
    told = []
    with Processes(count, 3) as processes:
        assert processes.map(times, range(5), lambda done, rows: told.append(rows)) == [
            0, 3, 6, 9, 12,
        ]  # fmt: skip
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_is_that_of_the_function(count):
    with pytest.raises(ValueError, match="no 2"), Processes(count, None) as processes:
        processes.map(fail_from_two_on, [2, 3])
    assert multiprocessing.active_children() == []


def test_the_first_error_stops_the_others():
    with pytest.raises(ValueError, match="no 2"), Processes(3, None) as processes:
        processes.map(fail_from_two_on, [2, 1, 3])
    assert multiprocessing.active_children() == []


def end(shared, number, report):
    os._exit(number)


@pytest.mark.parametrize("tasks", [[0], [0, 1, 2]])
def test_one_that_dies_at_work_ends_all(tasks):
    with (
        pytest.raises(DeepFMError, match="a process that worked for this one has died"),
        Processes(2, None) as processes,
    ):
        processes.map(end, tasks)
    assert multiprocessing.active_children() == []


def test_one_that_dies_while_another_starts_ends_all(monkeypatch):
    start = SpawnProcess.start

    def start_late(process):
        for other in multiprocessing.active_children():
            os.kill(other.pid, signal.SIGKILL)
            other.join()
        start(process)

    monkeypatch.setattr(SpawnProcess, "start", start_late)
    with (
        pytest.raises(DeepFMError, match="a process that worked for this one has died"),
        Processes(2, None) as processes,
    ):
        processes.map(times, range(2))
    assert multiprocessing.active_children() == []


def test_an_error_of_the_code_tells_where_it_was():
    with pytest.raises(ValueError, match="no 2") as caught, Processes(2, None) as processes:
        processes.map(fail_from_two_on, [2])
    assert "fail_from_two_on" in "".join(caught.value.__notes__)
