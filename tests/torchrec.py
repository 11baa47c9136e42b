"""Tests that need TorchRec, which is not installed everywhere."""

from importlib.util import find_spec

import pytest

needs_torchrec = pytest.mark.skipif(
    find_spec("torchrec") is None, reason="torchrec is not installed: make install-torchrec"
)
