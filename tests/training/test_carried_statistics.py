"""A run that starts from another one with the statistics of its optimizers."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import torch
import yaml

from deepfm import experiment
from deepfm.checkpoint import load_checkpoint
from deepfm.cli import main
from deepfm.errors import CheckpointError, ConfigError
from deepfm.models import build_model
from deepfm.training.optimizer_state import carry_statistics, optimizer_state
from deepfm.training.optimizers import assign_optimizers
from tests import clicks

ADAGRAD = {"name": "adagrad", "initial_accumulator_value": 0.3}


def write_more(folder) -> None:
    """Rows with users and a color that the first ones have not."""
    table = clicks.write_rows(folder, seed=1)
    color = np.where(np.arange(len(table)) % 7 == 0, "new", table["color"].to_numpy())
    columns = dict(zip(table.column_names, table.columns, strict=True))
    columns |= {"user": table["user"].to_numpy() + 20, "color": color}
    pyarrow.csv.write_csv(pa.table(columns), folder / "rows.csv")


def by_name(states):
    """What optimizers have for each parameter, by its name."""
    found = {}
    for state in states:
        for group in state["param_groups"]:
            for name, index in zip(group["param_names"], group["params"], strict=True):
                found[name] = state["state"].get(index, {})
    return found


@pytest.fixture
def trained(tmp_path):
    """A run with an optimizer of the tables; gives its `last.pt`, beside which other rows lie."""

    def make(sparse):
        clicks.trained(tmp_path, training__sparse_optimizer=sparse)
        write_more(tmp_path)
        return tmp_path / "run" / "last.pt"

    return make


@pytest.mark.parametrize("sparse", [ADAGRAD, "lazy_adam", "rowwise_adagrad", "lazy_sgd", None])
def test_known_rows_have_their_statistics_and_new_ones_begin(tmp_path, trained, sparse):
    base = load_checkpoint(trained(sparse))
    config = clicks.config(tmp_path, "warm", training__sparse_optimizer=sparse, training__lr=0.125)
    data = experiment.load_data(config, base=base.encoders)
    model = build_model(data.encoders.schema, config)
    assigned = assign_optimizers(model, config.training)
    for item, saved in zip(assigned, base.training["optimizers"], strict=True):
        carry_statistics(item.optimizer, model, saved)
    before = by_name(base.training["optimizers"])
    after = by_name([optimizer_state(item.optimizer, model) for item in assigned])
    assert before.keys() == after.keys()
    grown = 0
    for name, old in before.items():
        assert old.keys() == after[name].keys()
        for key, value in old.items():
            found = after[name][key]
            if value.dim() == 0 or value.shape == found.shape:
                assert torch.equal(found, value)
                continue
            grown += 1
            assert torch.equal(found[: len(value)], value)
            start = 0.3 if sparse is ADAGRAD else 0.0
            assert torch.equal(found[len(value) :], torch.full_like(found[len(value) :], start))
    columns = {"lazy_sgd": 0, "lazy_adam": 2, None: 2}.get(
        sparse if sparse is not ADAGRAD else "", 1
    )
    assert grown == 4 * columns  # of two fields, each with two tables
    assert all(group["lr"] == 0.125 for item in assigned for group in item.optimizer.param_groups)


def test_the_first_step_is_the_one_that_the_statistics_say(tmp_path, trained, capsys):
    """Adagrad's large sums make steps small; anew they would be larger."""
    last = trained({"name": "adagrad", "initial_accumulator_value": 0.0})
    path = "embedding.tables.user.weight"
    moved = {}
    for name, options in {"anew": (), "carried": ("--with-optimizer",)}.items():
        config = clicks.config(
            tmp_path, name, training__max_steps=1, training__keep="last",
            training__sparse_optimizer={"name": "adagrad", "initial_accumulator_value": 0.0},
        )  # fmt: skip
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(config.to_dict(), sort_keys=False))
        given = ["train", "--config", str(file), "--init-from", str(last), *options]
        assert main(given) == 0
        weight = load_checkpoint(tmp_path / name / "last.pt").model[path]
        before = load_checkpoint(last).model[path]
        moved[name] = (weight[: len(before)] - before).abs().mean()
        said = capsys.readouterr().out
        assert ("the statistics of its optimizers" in said) is bool(options)
    assert 0 < moved["carried"] < 0.5 * moved["anew"]


def test_what_has_no_statistics_is_refused(tmp_path, trained):
    last = trained(ADAGRAD)
    config = clicks.config(tmp_path, "warm", training__sparse_optimizer=ADAGRAD)
    with pytest.raises(ConfigError, match=r"needs the last\.pt of a run"):
        experiment.train(config, init_from=last.with_name("best_model.pt"), with_optimizer=True)
    with pytest.raises(ConfigError, match="starts --init-from a checkpoint"):
        experiment.train(config, with_optimizer=True)
    other = clicks.config(tmp_path, "warm", training__sparse_optimizer="lazy_adam")
    with pytest.raises(CheckpointError, match="LazyAdam has betas, eps, lr"):
        experiment.train(other, init_from=last, with_optimizer=True)
    fewer = clicks.config(tmp_path, "warm")
    with pytest.raises(CheckpointError, match="of 2 optimizers, and the run has 1"):
        experiment.train(fewer, init_from=last, with_optimizer=True)
