"""Losses of branches against loops in float64, and what is refused."""

import math

import pytest
import torch

from deepfm.config import config_from_dict
from deepfm.errors import ConfigError
from deepfm.objectives import LOSSES, Targets
from deepfm.preflight import check_settings

LABEL = (0.0, 1.0, 1.0, 0.0)
LOGITS = (-1.5, 0.25, 3.0, 0.5)
EASY = (-2.0, 0.5, 2.0, 1.0)
HARD = (0.5, -1.0, 4.0, -3.0)
WEIGHT = (1.0, 0.5, 2.0, 0.0)


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def cross_entropy(z, y):
    return -y * math.log(sigmoid(z)) - (1 - y) * math.log(1 - sigmoid(z))


def tensor(values, **options):
    return torch.tensor(values, dtype=torch.float64, **options)


def named(**branches):
    own = tensor(LOGITS, requires_grad=True)
    return {"": own, **{name: tensor(z, requires_grad=True) for name, z in branches.items()}}


def test_distillation_equals_loops():
    logits = named(first=EASY, second=HARD)
    loss = LOSSES["branch_distillation"]()
    found = loss.row_losses(logits, Targets(tensor(LABEL)))
    expected = [
        cross_entropy(a, sigmoid(z)) + cross_entropy(b, sigmoid(z))
        for z, a, b in zip(LOGITS, EASY, HARD, strict=True)
    ]
    assert found.tolist() == pytest.approx(expected)
    of_mean, of_first = torch.autograd.grad(
        found.sum(), (logits[""], logits["first"]), allow_unused=True
    )
    assert of_mean is None  # the branches learn from their mean, and not it from them
    taught = [sigmoid(a) - sigmoid(z) for z, a in zip(LOGITS, EASY, strict=True)]
    assert of_first.tolist() == pytest.approx(taught)


@pytest.mark.parametrize("gamma", [0.0, 2.0, 1.5])
@pytest.mark.parametrize(("alpha", "c"), [(0.2, 0.8), (0.75, 0.0), (1.0, 1.0)])
def test_twin_focus_equals_loops(gamma, alpha, c):
    loss = LOSSES["twin_focus"](gamma=gamma, alpha=alpha, c=c)
    targets = Targets(tensor(LABEL), tensor(WEIGHT))
    expected = []
    for easy, hard, y in zip(EASY, HARD, LABEL, strict=True):
        p_easy, p_hard = (sigmoid(z) if y else 1 - sigmoid(z) for z in (easy, hard))
        of_easy = (c + p_easy) ** gamma * cross_entropy(easy, y)
        of_hard = (2 - c - p_hard) ** gamma * cross_entropy(hard, y)
        expected.append(alpha * of_easy + (1 - alpha) * of_hard)
    logits = named(easy=EASY, hard=HARD)
    assert loss.row_losses(logits, targets).tolist() == pytest.approx(expected)
    mean = sum(w * value for w, value in zip(WEIGHT, expected, strict=True)) / sum(WEIGHT)
    assert loss.loss(logits, targets).item() == pytest.approx(mean)


def test_twin_focus_is_differentiated_through_its_factors():
    loss, targets = LOSSES["twin_focus"](gamma=2.0), Targets(tensor(LABEL))

    def of(easy, hard):
        return loss.row_losses({"": tensor(LOGITS), "easy": easy, "hard": hard}, targets)

    inputs = tensor(EASY, requires_grad=True), tensor(HARD, requires_grad=True)
    assert torch.autograd.gradcheck(of, inputs)


def test_large_logits_stay_finite():
    huge = (300.0, -300.0, 300.0, -300.0)
    for loss in (LOSSES["twin_focus"](), LOSSES["branch_distillation"]()):
        logits = named(easy=huge, hard=huge)
        found = loss.loss(logits, Targets(tensor(LABEL)))
        (gradient,) = torch.autograd.grad(found, logits["easy"])
        assert found.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["branch_distillation", "twin_focus"])
def test_a_model_without_branches_is_refused(name):
    config = config_from_dict({"training": {"losses": ["binary_cross_entropy", name]}})
    expected = rf"^training\.losses: {name} reads .*found none; .*finalnet, tf4ctr"
    with pytest.raises(ConfigError, match=expected):
        check_settings(config)


def test_a_loss_of_branches_does_not_stand_alone():
    config = config_from_dict({"model_name": "tf4ctr", "training": {"losses": ["twin_focus"]}})
    expected = r"^training\.losses: twin_focus trains the branches alone, .*binary_cross_entropy$"
    with pytest.raises(ConfigError, match=expected):
        check_settings(config)


@pytest.mark.parametrize(("option", "value"), [("alpha", 1.5), ("alpha", -0.1), ("c", 2)])
def test_options_have_limits(option, value):
    losses = ["binary_cross_entropy", {"name": "twin_focus", option: value}]
    with pytest.raises(ConfigError, match=rf"^training\.losses\.{option}: "):
        check_settings(config_from_dict({"model_name": "tf4ctr", "training": {"losses": losses}}))
