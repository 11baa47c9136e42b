"""A few raw rows of a declared table, for a form to begin with."""

from deepfm.config import ExperimentConfig
from deepfm.data.files.read import read_rows
from deepfm.data.sources import tabular
from deepfm.errors import DataError
from deepfm.explore.forms import as_typed
from deepfm.utils.places import path_of

COUNT = 50


def example_rows(config: ExperimentConfig) -> list[dict[str, str]]:
    """The first rows of the table's first file, as they would be typed; none where it is gone."""
    table = config.data.table
    if table is None or not table.files:
        return []
    try:
        path = tabular.find_files(path_of(config.data.data_dir), table.files)[0]
        for rows in read_rows([path], **tabular.text_options(table)):
            return [
                {name: as_typed(value) for name, value in row.items()}
                for row in rows.table.slice(0, COUNT).to_pylist()
            ]
    except DataError:
        pass
    return []
