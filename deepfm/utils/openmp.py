"""How the threads of OpenMP, which torch's kernels run on, behave while they wait."""

import os
import sys

_SAID_BY_USER = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")


def wait_passively() -> None:
    """Let threads that wait sleep, not spin, unless the environment says otherwise.

    A thread that spins keeps a core from whoever has work for it: on a machine that others use
    too, two threads were several times slower than one. OpenMP reads this once, when torch is
    loaded, so nothing is done after that.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in _SAID_BY_USER):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
