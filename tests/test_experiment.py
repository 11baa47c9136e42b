"""What the composition root checks, and warm starts."""

import pytest

from deepfm.config import config_from_dict
from deepfm.errors import ConfigError
from deepfm.experiment import check_settings


@pytest.mark.parametrize("strategy", ["predefined", "random", "time"])
def test_a_ranking_metric_needs_a_split_that_makes_a_ranking_task(strategy):
    table = {
        "files": "train.csv",
        "label": "click",
        "time_column": "time",
        "fields": {"city": {"type": "sparse"}},
    }
    if strategy == "predefined":
        table["valid_files"] = "valid.csv"
    raw = {
        "data": {"dataset_name": "tabular", "split_strategy": strategy, "table": table},
        "training": {"metric": "ndcg@10"},
    }
    with pytest.raises(ConfigError, match=r"training\.metric: ndcg@10 needs a ranking task"):
        check_settings(config_from_dict(raw))
    check_settings(config_from_dict(raw | {"training": {"metric": "auc"}}))
