"""The notebook of `examples/` was run from top to bottom, and runs again."""

import base64
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")

PATH = Path(__file__).parents[1] / "examples" / "recommend_from_csv.ipynb"
CELLS = [cell for cell in nbformat.read(PATH, as_version=4).cells if cell.cell_type == "code"]


def kinds(cells) -> list[list[str]]:
    """What each cell shows: texts, tables, pictures; errors would be among them."""
    return [[output.output_type for output in cell.outputs] for cell in cells]


def test_the_notebook_was_run_in_order_and_shows_tables_and_pictures():
    assert [cell.execution_count for cell in CELLS] == list(range(1, len(CELLS) + 1))
    shown = [output for cell in CELLS for output in cell.outputs]
    assert not [output for output in shown if output.output_type == "error"]
    data = [output.data for output in shown if "data" in output]
    assert sum("text/html" in one for one in data) >= 3
    pictures = [base64.b64decode(one["image/png"]) for one in data if "image/png" in one]
    assert len(pictures) == 2
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert PATH.stat().st_size < 200_000
    assert "/tmp" not in PATH.read_text()


def test_its_cells_run_one_after_the_other(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib import pyplot

    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for cell in CELLS:
        exec(cell.source, names)
    pyplot.close("all")
    assert names["auc"] > 0.7
    assert len(names["model"].recommend("u4", top=5)) == 5
    assert (tmp_path / "model.pt").exists()


@pytest.mark.slow  # a kernel of its own; what the cells do is tested above
def test_the_notebook_runs_again(tmp_path):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("matplotlib")
    again = nbformat.read(PATH, as_version=4)
    client = nbclient.NotebookClient(
        again, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    found = [cell for cell in again.cells if cell.cell_type == "code"]
    assert kinds(found) == kinds(CELLS)
    assert (tmp_path / "model.pt").exists()
