"""A step: goldens of the format, clipping against its definition, the moving average."""

import copy
import math

import pytest
import torch
from torch import nn

from deepfm.config import ExperimentConfig, TrainingConfig, config_from_dict
from deepfm.data.batch import Batch, Inputs
from deepfm.errors import ConfigError
from deepfm.models import build_model
from deepfm.models.layers.storage import PackedTables
from deepfm.objectives import LOSSES, Task
from deepfm.training.optimizers import assign_optimizers
from deepfm.training.schedules import Schedule
from deepfm.training.steps import MovingAverage, TrainingStep
from tests.models.conftest import random_inputs
from tests.models.plain import PlainEmbedding


class Tables(nn.Module):
    is_compact = False
    capabilities = PackedTables.capabilities


class Line(nn.Module):
    """y = w · x, with what a step asks a model for."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.embedding = nn.Module()
        self.embedding.tables = Tables()
        self.schema = type("Schema", (), {"group_columns": ()})
        self.tasks = (Task(objectives=(LOSSES["l2"](),)),)
        self.config, self.tower_names = ExperimentConfig().model, ()

    def forward(self, inputs):
        return inputs.dense @ self.weight

    def training_logits(self, inputs):
        return {"": self(inputs)}

    def regularization_losses(self, batch_size):
        return {"size": self.weight.sum() * 0.0 + batch_size}

    def get_l2_reg_loss(self, inputs):
        return self.weight.new_zeros(())


def line_and_step(**training):
    model = Line()
    config = TrainingConfig(optimizer="sgd", lr=0.001, gradient_clip_norm=None, **training)
    assigned = assign_optimizers(model, config)
    return model, TrainingStep(model, config, assigned, [Schedule(assigned[0].optimizer)])


def row(gradient: float) -> Batch:
    """A row whose loss has the gradient `gradient` * [1, 2] at w = [1, 2]."""
    inputs = Inputs(torch.zeros(1, 0, dtype=torch.int64), torch.tensor([[1.0, 2.0]]), (), ())
    return Batch(inputs, torch.tensor([5.0 - gradient / 2]))


def test_a_step_of_sgd_and_one_of_two_batches():
    """The numbers of TorchEasyRec's tests, whose gradients are those of loss / 2 already."""
    model, step = line_and_step()
    step.add(row(1.0))
    step.update()
    torch.testing.assert_close(model.weight.detach(), torch.tensor([0.999, 1.998]))
    model, step = line_and_step(gradient_accumulation_steps=2)
    step.add(row(2.0))
    assert model.weight.tolist() == [1.0, 2.0]
    step.add(row(2.0))
    step.update()
    torch.testing.assert_close(model.weight.detach(), torch.tensor([0.998, 1.996]))


def test_the_loss_is_the_sum_of_what_is_configured_and_what_the_model_adds():
    _, step = line_and_step()
    by_task, losses, _ = step.add(row(2.0))
    logits = by_task[""]
    assert logits.tolist() == [5.0]
    assert {name: value.item() for name, value in losses.items()} == {
        "loss": 2.0,
        "l2": 1.0,
        "size": 1.0,
    }
    assert not any(value.requires_grad for value in (logits, *losses.values()))


def test_the_average_of_the_format():
    weight = nn.Parameter(torch.tensor([2.0]))
    average = MovingAverage({"weight": weight}, decay=0.5)
    with average.in_place():
        assert weight.item() == 2
    average.update()
    weight.data.fill_(4.0)
    average.update()
    with average.in_place():
        assert weight.item() == 3
        assert average.state_dict()["weight"].item() == 4
    assert weight.item() == 4
    fresh = MovingAverage({"weight": weight}, decay=0.5)
    fresh.load_state_dict(average.state_dict())
    fresh.update()
    assert fresh.state_dict()["weight"].item() == 3.5
    assert average.state_dict()["weight"].item() == 3


def clipped_step(schema, *, sparse, seed=0, **training):
    """Change of the parameters, per logical name, that one step of SGD at rate 1 makes.

    Beside it, the gradients of the same batch by a plain embedding, with the L2 penalty.
    """
    config = config_from_dict(
        {
            "feature": {"fm_embedding_dim": 4, "embedding_l2_reg": 0.05},
            "dnn": {"hidden_units": [8], "dropout": 0.0},
            "training": {
                "optimizer": "sgd", "sparse_optimizer": sparse, "lr": 1.0,
                "gradient_clip_norm": None, **training,
            },
        }
    )  # fmt: skip
    torch.manual_seed(seed)
    model = build_model(schema, config).double()
    inputs = random_inputs(schema, 24, seed)
    inputs = inputs._replace(dense=inputs.dense.double())
    label = (torch.arange(24) % 3 == 0).double()
    plain = copy.deepcopy(model)
    plain.embedding = PlainEmbedding(plain.embedding)
    logits = plain(inputs)
    loss = nn.functional.binary_cross_entropy_with_logits(logits, label)
    (loss + plain.embedding.l2_reg(*inputs, rate=0.05)).backward()
    weights = plain.state_dict(keep_vars=True)
    before = copy.deepcopy(model.state_dict())
    assigned = assign_optimizers(model, config.training)
    step = TrainingStep(
        model, config.training, assigned, [Schedule(item.optimizer) for item in assigned]
    )
    with step.gradient_mode():
        step.add(Batch(inputs, label))
        step.update()
    after = model.state_dict()
    trained = [name for name, weight in weights.items() if isinstance(weight, nn.Parameter)]
    changes = {name: before[name] - after[name] for name in trained}
    gradients = {name: weights[name].grad for name in trained}
    tables = {name for name in trained if name.startswith("embedding.tables.")}
    assert len(tables) == len(model.embedding.tables.places)
    return changes, gradients, tables


@pytest.mark.parametrize("sparse", [None, "lazy_sgd"])
@pytest.mark.parametrize("scope", ["all", "dense"])
@pytest.mark.parametrize(
    ("value", "norm", "kind"),
    [
        (None, 0.3, 2.0), (None, 0.3, 1.0), (None, 0.1, 3.5), (None, 0.01, math.inf),
        (0.01, None, 2.0), (0.01, 0.05, 2.0),
    ],
)  # fmt: skip
def test_what_is_clipped(schema, sparse, scope, value, norm, kind):
    """First each number, then the norm; of all gradients, or without those of the tables."""
    changes, expected, tables = clipped_step(
        schema,
        sparse=sparse,
        gradient_clip_scope=scope,
        gradient_clip_value=value,
        gradient_clip_norm=norm,
        gradient_clip_norm_type=kind,
    )
    clipped = {n for n in expected if scope == "all" or n not in tables}
    if value is not None:
        expected |= {n: expected[n].clamp(-value, value) for n in clipped}
    if norm is not None:
        if math.isinf(kind):
            total = max(expected[n].abs().max().item() for n in clipped)
        else:
            total = sum(expected[n].abs().pow(kind).sum().item() for n in clipped) ** (1 / kind)
        assert total > norm  # else nothing is seen
        expected |= {n: expected[n] * norm / (total + 1e-6) for n in clipped}
    for name, change in changes.items():
        torch.testing.assert_close(change, expected[name], msg=name)


def test_clipping_all_gradients_needs_them_all(schema):
    training = {
        "sparse": {"name": "lazy_sgd"},
        "sparse_update": "backward",
        "gradient_clip_value": 0.1,
    }
    clipped_step(schema, **training)  # one batch per step: they are all there
    with pytest.raises(ConfigError, match=r"sparse_update: backward .*clip_scope: dense"):
        clipped_step(schema, **training, gradient_accumulation_steps=2)
    for sparse, message in ((None, "needs a training.sparse_optimizer"), ("sgd", "needs one of")):
        with pytest.raises(ConfigError, match=rf"training\.sparse_update: backward {message}"):
            clipped_step(schema, sparse=sparse, sparse_update="backward")
