"""Experts and gates against loops in float64."""

import numpy as np
import pytest
import torch

from deepfm.errors import ArgumentError
from deepfm.models.layers.dnn import MLP
from deepfm.models.layers.experts import ExtractionLevel, Gate, MultiGateExperts, mixed
from tests import reference
from tests.models.oracle import array, mlp_layers


def maker(*hidden_units):
    return lambda width: MLP(width, hidden_units, norm="batch")


def of(network):
    return lambda x: reference.mlp(x, mlp_layers(network), "relu")


def shares_of(gate):
    def shares(x):
        x = x if gate.network is None else of(gate.network)(x)
        return reference.gate(x, array(gate.linear.weight), array(gate.linear.bias))

    return shares


def trained(layer, *inputs):
    """In evaluation mode, with statistics of batch norm that are not the initial ones."""
    with torch.no_grad():
        for _ in range(3):
            layer.train()(*inputs)
    return layer.eval()


@pytest.mark.parametrize("network", [None, maker(4)])
def test_a_gate_is_a_softmax(network):
    torch.manual_seed(0)
    x = torch.randn(6, 5)
    gate = trained(Gate(5, 3, network), x)
    expected = [shares_of(gate)(row) for row in array(x)]
    np.testing.assert_allclose(gate(x).detach(), expected, atol=1e-6)


@pytest.mark.parametrize("experts", [1, 4])
def test_mixed_is_the_weighted_sum(experts):
    torch.manual_seed(0)
    shares, outputs = torch.rand(5, experts), [torch.randn(5, 3) for _ in range(experts)]
    expected = [
        reference.mixture(array(shares)[b], [array(output)[b] for output in outputs])
        for b in range(5)
    ]
    np.testing.assert_allclose(mixed(shares, outputs), expected, atol=1e-6)


@pytest.mark.parametrize("gate", [None, maker(4)])
def test_multi_gate_experts(gate):
    torch.manual_seed(0)
    x = torch.randn(16, 5)
    layer = MultiGateExperts(5, num_tasks=3, num_experts=2, expert=maker(6, 4), gate=gate)
    found = trained(layer, x)(x)
    assert layer.output_dim == 4
    for task, own in enumerate(found):
        expected = [
            reference.mixture(
                shares_of(layer.gates[task])(row), [of(e)(row) for e in layer.experts]
            )
            for row in array(x)
        ]
        np.testing.assert_allclose(own.detach(), expected, atol=1e-5)


@pytest.mark.parametrize("is_last", [False, True])
def test_an_extraction_level(is_last):
    torch.manual_seed(0)
    tasks, shared = [torch.randn(16, 5), torch.randn(16, 6)], torch.randn(16, 7)
    layer = ExtractionLevel(
        [5, 6],
        7,
        task_experts=2,
        shared_experts=3,
        task_expert=maker(4),
        shared_expert=maker(8, 4),
        is_last=is_last,
    )
    own, both = trained(layer, tasks, shared)(tasks, shared)
    assert (layer.shared_gate is None) == is_last
    for row in range(16):
        expected, expected_both = reference.extraction_level(
            [array(x)[row] for x in tasks],
            array(shared)[row],
            [[of(expert) for expert in experts] for experts in layer.own],
            [of(expert) for expert in layer.shared],
            [shares_of(gate) for gate in layer.gates],
            None if is_last else shares_of(layer.shared_gate),
        )
        for one, other in zip(own, expected, strict=True):
            np.testing.assert_allclose(one[row].detach(), other, atol=1e-5)
        np.testing.assert_allclose(both[row].detach(), expected_both, atol=1e-5)


def test_experts_that_are_mixed_have_one_width():
    with pytest.raises(ArgumentError, match=r"one width, found \[4, 5\]"):
        ExtractionLevel(
            [3],
            3,
            task_experts=1,
            shared_experts=1,
            task_expert=maker(4),
            shared_expert=maker(5),
            is_last=True,
        )
