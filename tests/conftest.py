"""Fixtures that more than one test module uses."""

from pathlib import Path

import hypothesis
import pytest
import torch

from deepfm.config import load_config
from deepfm.data.sources import movielens
from deepfm.experiment import load_data
from deepfm.utils.locks import exclusive_lock
from tests import buckets, tiny
from tests.faults import FaultProxy

torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings
# A busy machine must not fail a test: no example has a time limit.
hypothesis.settings.register_profile("deepfm", deadline=None)
hypothesis.settings.load_profile("deepfm")


@pytest.fixture(scope="session")
def movielens_dir() -> Path:
    """MovieLens-100K in the repository's data directory, downloaded there once.

    Without data and without a network the tests that ask for it fail; they are not skipped.
    """
    data_dir = Path(__file__).parents[1] / "data" / "ml-100k"
    data_dir.parent.mkdir(exist_ok=True)
    with exclusive_lock(data_dir.parent / ".lock"):  # of two test processes one downloads
        movielens.download(data_dir)
    return data_dir


@pytest.fixture
def tiny_config(tmp_path, monkeypatch):
    """Writes a config for the small data set of `tests.tiny`; dotted keys with `__` for the dot."""
    monkeypatch.setattr("deepfm.data.ADAPTERS", {"tiny": tiny})
    return lambda name="tiny", **changes: tiny.write_config(tmp_path, name, **changes)


@pytest.fixture
def tiny_data(tiny_config):
    """The encoded splits of the small data set."""
    return load_data(load_config(tiny_config()))


@pytest.fixture(scope="session")
def emulator():
    """The port of an emulator of S3."""
    with buckets.emulator() as port:
        yield port


@pytest.fixture
def proxy(emulator, monkeypatch):
    """A proxy before the emulator, which is the store of the environment; patience is short."""
    monkeypatch.setattr("deepfm.utils.object_store.REQUEST_TIMEOUT", 1.0)
    monkeypatch.setattr("deepfm.utils.object_store.ATTEMPTS", 3)
    with FaultProxy(emulator) as found:
        for name, value in buckets.environment(found.url).items():
            monkeypatch.setenv(name, value)
        for name in ("AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        yield found


@pytest.fixture
def bucket(proxy, emulator):
    """An empty bucket behind the proxy."""
    return buckets.Bucket(emulator)
