"""The loss of branches that are worse than the model, against its formula in float64."""

import numpy as np
import pytest
import torch

from deepfm.config import config_from_dict
from deepfm.errors import ConfigError
from deepfm.objectives.base import Targets
from deepfm.objectives.branches import TriBCE
from deepfm.preflight import check_settings
from tests import reference

LABEL = [0.0, 1.0, 1.0, 0.0]
LOGITS = {"": [-1.0, 1.0, 0.5, -0.5], "one": [1.0, -1.0, 0.2, 0.3], "two": [-2.0, 2.0, 3.0, -3.0]}


def bce(logits):
    return [reference.softplus(z) - y * z for z, y in zip(logits, LABEL, strict=True)]


@pytest.mark.parametrize("weight", [None, [1.0, 0.0, 2.0, 0.5]])
def test_equals_its_formula(weight):
    given = np.ones(4) if weight is None else np.array(weight)
    mean = {name: reference.weighted_mean(bce(z), given) for name, z in LOGITS.items()}
    assert mean["two"] < mean[""] < mean["one"]  # of two branches one counts
    expected = (mean["one"] - mean[""]) * mean["one"]
    logits = {name: torch.tensor(z, dtype=torch.float64) for name, z in LOGITS.items()}
    targets = Targets(torch.tensor(LABEL), None if weight is None else torch.tensor(weight))
    assert TriBCE().loss(logits, targets).item() == pytest.approx(expected, rel=1e-6)


def test_gradients_flow_to_the_worse_branch_alone():
    logits = {name: torch.tensor(z, requires_grad=True) for name, z in LOGITS.items()}
    TriBCE().loss(logits, Targets(torch.tensor(LABEL))).backward()
    assert not logits[""].grad.any()
    assert not logits["two"].grad.any()
    factor = np.mean(bce(LOGITS["one"])) - np.mean(bce(LOGITS[""]))
    slope = (torch.tensor(LOGITS["one"]).sigmoid() - torch.tensor(LABEL)) / 4
    torch.testing.assert_close(logits["one"].grad, (factor * slope).float())


def test_it_needs_a_model_with_branches():
    losses = {"losses": ["binary_cross_entropy", "tri_bce"]}
    check_settings(config_from_dict({"model_name": "fcn", "training": losses}))
    with pytest.raises(ConfigError, match=r"tri_bce reads the logits of 2 branches .* found none"):
        check_settings(config_from_dict({"model_name": "deepfm", "training": losses}))
