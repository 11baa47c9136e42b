"""Fixtures that more than one test module uses."""

from pathlib import Path

import pytest

from deepfm.data import movielens


@pytest.fixture(scope="session")
def movielens_dir() -> Path:
    """MovieLens-100K in the repository's data directory, downloaded there once.

    Without data and without a network the tests that ask for it fail; they are not skipped.
    """
    data_dir = Path(__file__).parents[1] / "data" / "ml-100k"
    movielens.download(data_dir)
    return data_dir
