"""A model for evaluation only, beside the model that goes on training."""

import pytest
import torch
from torch import nn

from deepfm.models import build_model
from deepfm.models.base import evaluation_mode
from deepfm.models.frozen import frozen
from deepfm.models.layers.dnn import MLP, Dropout, ReLUDropout
from tests.models.conftest import OF_ONE_TASK, changed, random_inputs, replaced


def double(inputs):
    return inputs._replace(dense=inputs.dense.double())


@pytest.fixture(params=OF_ONE_TASK)
def model(request, schema, config):
    """In training mode and float64, with statistics of batch norm other than 0 and 1."""
    config = replaced(config, model_name=request.param)
    if request.param != "fm":
        config = changed(config, "dnn", dropout=0.4, use_batch_norm=True)
    model = build_model(schema, config).double()
    with torch.no_grad():
        for _ in range(3):
            model(double(random_inputs(schema, 9)))
    return model


@pytest.fixture
def rows(schema):
    return double(random_inputs(schema, 7, seed=4))


def test_logits_are_those_in_evaluation_mode(model, rows):
    with evaluation_mode(model):
        expected = model(rows).detach()
    found = frozen(model)(rows).detach()
    assert len(found.unique()) > 1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_model_itself_trains_on(model, rows):
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        frozen(model)(rows)
    assert all(modes)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_nothing_is_left_to_switch_off(model):
    found = frozen(model)
    assert not any(module.training for module in found.modules())
    networks = [module for module in found.modules() if isinstance(module, MLP)]
    assert len(networks) == sum(isinstance(module, MLP) for module in model.modules())
    for module in networks:
        kinds = {type(inner) for inner in module.modules()}
        assert not kinds & {nn.BatchNorm1d, Dropout, ReLUDropout}


def test_tables_are_the_very_same(model):
    found = frozen(model)
    own, of_model = (dict(one.embedding.named_parameters()) for one in (found, model))
    assert list(own) == list(of_model)
    assert all(own[name] is of_model[name] for name in own)


def test_a_frozen_model_is_its_own(model):
    found = frozen(model)
    assert found is not model
    assert type(found) is type(model)
    assert frozen(found) is found
    assert not model.is_frozen


def test_hooks_are_called(model, rows):
    seen = []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].num_rows))
    frozen(model)(rows)
    assert seen == [7]


def test_a_module_in_two_places_has_one_twin(schema, config):
    model = build_model(schema, config)
    model.other = model.embedding
    found = frozen(model)
    assert found.other is found.embedding
    assert found.embedding is not model.embedding
