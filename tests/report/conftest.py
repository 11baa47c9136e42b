"""Runs and pages that the tests of this folder share; each is made once."""

import re
from pathlib import Path

import pyarrow as pa
import pytest

from deepfm import experiment
from deepfm.config import load_config
from deepfm.report.make import make_report
from tests import clicks, tiny

INERT = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="session")
def click_runs(tmp_path_factory) -> list[Path]:
    """Two runs on the same rows of a declared table."""
    folder = tmp_path_factory.mktemp("clicks")
    clicks.write_rows(folder)
    for name, changes in (("one", {}), ("two", {"seed": 3, "training__lr": 0.001})):
        experiment.train(clicks.config(folder, name, **changes))
    return [folder / "one", folder / "two"]


@pytest.fixture(scope="session")
def click_page(click_runs) -> Path:
    """The page of the second of them, which has a run before it."""
    return make_report([click_runs[1]])


class _Titled:
    """The small ranking data set with titles that would be markup if they could."""

    schema = staticmethod(tiny.schema)

    @staticmethod
    def load(data_dir: Path, auto_download: bool) -> tiny.RawTables:
        found = tiny.load(data_dir, auto_download)
        place = found.items.column_names.index("title")
        titles = pa.array([f"{INERT} {k}" for k in range(tiny.NUM_ITEMS)])
        return found._replace(items=found.items.set_column(place, "title", titles))


@pytest.fixture(scope="session")
def ranking_page(tmp_path_factory) -> Path:
    """The page of a run that ranks items, in a folder whose name is markup, too."""
    folder = tmp_path_factory.mktemp("ranking")
    run = folder / "<img src=x onerror=alert(2)>"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepfm.data.ADAPTERS", {"tiny": _Titled})
        path = tiny.write_config(folder, model_name="attention_deepfm", output_dir=str(run))
        experiment.train(load_config(path))
        return make_report([run])


def texts(page: Path) -> str:
    """What a page says, without its tags."""
    return re.sub(r"<[^>]+>", " ", page.read_text())
