"""One store folder for tasks in two orders: each config gets the labels of its own order."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from deepfm import experiment
from deepfm.config import config_from_dict


def test_tasks_in_another_order_are_not_given_each_others_labels(tmp_path):
    rng = np.random.default_rng(0)
    rows = {name: rng.integers(0, 2, 400) for name in ("bought", "clicked")}
    rows["city"] = rng.integers(0, 9, 400)
    pa.parquet.write_table(pa.table(rows), tmp_path / "rows.parquet")

    def check(tasks):
        """Both in the order of the tasks, row by row as the file has them."""
        config = config_from_dict(
            {
                "model_name": "shared_bottom",
                "training": {"metric": "clicked.auc"},
                "tasks": {name: {"label": name} for name in tasks},
                "data": {
                    "dataset_name": "tabular",
                    "data_dir": str(tmp_path),
                    "store_dir": str(tmp_path / "stores"),
                    "split_strategy": "random",
                    "table": {
                        "files": "rows.parquet",
                        "labels": {name: {"column": name} for name in tasks},
                        "fields": {"city": {"type": "sparse"}},
                    },
                },
            }
        )
        train = experiment.load_data(config).train
        of_file = np.stack([rows[name] for name in tasks], axis=1)[np.asarray(train.row)]
        np.testing.assert_array_equal(np.asarray(train.label), of_file)

    check(("bought", "clicked"))
    check(("clicked", "bought"))
