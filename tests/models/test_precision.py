"""What `auto` becomes, and that every model computes in bf16 with weights and logits in float32."""

import logging

import pytest
import torch

from deepfm.errors import ConfigError
from deepfm.models import build_model
from deepfm.models import precision as module
from deepfm.models.layers.precision import products_in
from deepfm.models.precision import resolve_precision
from tests.models.conftest import OF_ONE_TASK, random_inputs, replaced

CPU = torch.device("cpu")


@pytest.fixture
def units(monkeypatch):
    """Says whether the device has units for bf16; warnings begin anew."""
    module._warn_of_slow.cache_clear()
    return lambda has: monkeypatch.setattr(module, "has_bf16_products", lambda device: has)


@pytest.mark.parametrize(
    ("name", "has", "expected"),
    [
        ("auto", True, "bf16"),
        ("auto", False, "fp32"),
        ("fp32", True, "fp32"),
        ("bf16", True, "bf16"),
    ],
)
def test_auto_is_bf16_where_there_are_units(units, caplog, name, has, expected):
    units(has)
    assert resolve_precision(name, CPU, key="training.precision") == expected
    assert not caplog.records


def test_bf16_without_units_is_warned_of_once(units, caplog):
    units(False)
    with caplog.at_level(logging.WARNING, logger="deepfm"):
        for _ in range(3):
            assert resolve_precision("bf16", CPU, key="training.precision") == "bf16"
    (record,) = caplog.records
    assert record.getMessage() == (
        "training.precision: this processor has no units for bf16, which is slower here than fp32"
    )


def test_a_device_without_bf16_is_an_error_that_names_the_key():
    with pytest.raises(ConfigError, match=r"^evaluation\.precision: bf16 needs cpu or cuda, found"):
        resolve_precision("bf16", torch.device("mps"), key="evaluation.precision")
    assert resolve_precision("auto", torch.device("mps"), key="evaluation.precision") == "fp32"


@pytest.mark.parametrize("name", OF_ONE_TASK)
def test_every_model_has_float32_logits_and_gradients_in_bf16(schema, config, name):
    model = build_model(schema, replaced(config, model_name=name))
    inputs = random_inputs(schema, 64)
    expected = model(inputs).detach()
    with products_in("bf16"):
        logits = model(inputs)
        logits.square().sum().backward()
    assert logits.dtype is torch.float32
    assert (logits - expected).abs().max() < 0.05 * (1 + expected.abs().max())
    assert torch.equal(logits, expected) == (name in ("lr", "fm"))  # without products
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.dtype is torch.float32, key
