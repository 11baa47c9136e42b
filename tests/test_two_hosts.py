"""A run on two hosts, 1 ms and 100 Mbit/s apart, one of which is cut off."""

import os
import subprocess
import sys
import time

import pytest

from tests.slow_network import two_hosts, why_not
from tests.test_processes import LASTING, assert_as_alone, wait_for, write_config

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=why_not() or ""),
]


def started(network, *arguments):
    """The command on both hosts, the first one's process first."""
    common = os.environ | {
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "10.9.0.1",
        "MASTER_PORT": "29500", "GLOO_SOCKET_IFNAME": "slow0", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return [
        subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, "-m", "deepfm", *map(str, arguments)],
            env=common | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, name in enumerate(network.names)
    ]


def test_a_host_that_is_cut_off_ends_the_run_and_the_next_one_goes_on(tmp_path):
    config = write_config(
        tmp_path, training__epochs=8, training__checkpoint_every_steps=4,
        distributed__timeout=20.0, **LASTING,
    )  # fmt: skip
    run = tmp_path / "run"
    with two_hosts(delay=0.001, rate=12.5e6) as network:
        processes = started(network, "train", "--config", config)
        wait_for(run / "last.pt")
        network.cut()
        begun = time.monotonic()
        said = [process.communicate(timeout=120)[0] for process in processes]
        assert time.monotonic() - begun < 60
    assert [process.returncode for process in processes] == [1, 1], said
    for lines in said:
        assert lines.count("error:") == 1
        assert "Traceback" not in lines
        assert "--resume" in lines
    assert not (run / "metrics.json").exists()
    with two_hosts(delay=0.001, rate=12.5e6) as network:
        processes = started(network, "train", "--config", config, "--resume")
        said = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "resumed in epoch" in said[0]
    assert_as_alone(run / "last.pt", tmp_path / "alone", 8, 1e-4)
