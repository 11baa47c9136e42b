import numpy as np
import pytest
import torch
from torch import nn

from deepfm.errors import ArgumentError
from deepfm.models.layers import encoders
from deepfm.models.layers.dnn import Dice
from deepfm.models.layers.encoders import (
    DIN,
    MultiWindowDIN,
    Pooling,
    SelfAttention,
    SimpleAttention,
)
from deepfm.models.layers.positions import normalized
from tests import reference
from tests.models.oracle import array, mlp_layers

NETWORK = {
    "hidden_units": (5, 3),
    "activation": "Dice",
    "norm": None,
    "dropout": 0.0,
    "bias": True,
    "init": "xavier_uniform",
    "statistics": "valid",
}
NETWORKS = {
    "Dice": {},
    "batch norm": {"norm": "batch", "activation": "relu"},
    "layer norm": {"norm": "layer", "activation": "tanh"},
    "Dice and batch norm": {"norm": "batch"},
    "padded": {"norm": "batch", "statistics": "padded"},
    "one layer": {"hidden_units": (4,), "activation": "relu", "bias": False},
}
ENCODERS = {
    "din": lambda: DIN(3, 4, softmax=False, **NETWORK),
    "din, softmax": lambda: DIN(3, 4, softmax=True, **NETWORK),
    "simple_attention": lambda: SimpleAttention(3, 4),
    "mean": lambda: Pooling(4, combiner="mean"),
    "sum": lambda: Pooling(4, combiner="sum"),
    "multi_window_din": lambda: MultiWindowDIN(3, 4, windows=(2, 3), newest="last", **NETWORK),
    "self_attention": lambda: SelfAttention(4, attention_dim=6, num_heads=2, dropout=0.0),
}


def rows(query_dim=3, holes=True):
    """Rows of lengths 0 to 6 of 7 positions; elsewhere stands what must not count."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.arange(7)
    mask = torch.arange(7) < lengths.unsqueeze(1)
    if holes:
        mask &= torch.rand(7, 7, generator=generator) > 0.3
    query = torch.randn(7, query_dim, generator=generator)
    return query, torch.randn(7, 7, 4, generator=generator), mask


def with_other_weights(layer):
    """Weights, statistics and slopes that are not those before training."""
    torch.manual_seed(5)
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 0.1, 0.6)
    return layer


def expected_of(layer, query, sequence, mask):
    """What the loops give, row by row."""
    found = []
    for q, s, counts in zip(array(query), array(sequence), mask.tolist(), strict=True):
        if isinstance(layer, DIN | MultiWindowDIN):
            weights = array(layer.linear.weight)[0], layer.linear.bias.item()
            kind = {nn.Tanh: "tanh"}.get(type(layer.mlp.layers[0][-2]), "relu")
            network = mlp_layers(layer.mlp), kind, *weights
        if isinstance(layer, DIN):
            found.append(reference.din(q, s, counts, *network, layer.softmax))
        elif isinstance(layer, MultiWindowDIN):
            slope, windows = layer.active.weight.item(), layer._sizes.tolist()
            newest = "last" if layer._is_last else "first"
            found.append(reference.multi_window_din(q, s, counts, *network, slope, windows, newest))
        elif isinstance(layer, SimpleAttention):
            found.append(reference.simple_attention(q, s, counts))
        elif isinstance(layer, Pooling):
            events = [event for event, counted in zip(s, counts, strict=True) if counted]
            found.append(reference.pooled(events, layer.combiner, len(s[0])))
        else:
            maps = {
                name: (array(part.weight), array(part.bias))
                for name in ("query", "key", "value")
                for part in [getattr(layer, name)]
            }
            inner = layer.multihead_attn
            for name, weight, bias in zip(
                ("query", "key", "value"),
                np.split(array(inner.in_proj_weight), 3),
                np.split(array(inner.in_proj_bias), 3),
                strict=True,
            ):
                maps[f"inner {name}"] = weight, bias
            maps["output"] = array(inner.out_proj.weight), array(inner.out_proj.bias)
            found.append(reference.mean_self_attention(s, counts, maps, layer.num_heads))
    return np.stack(found)


@pytest.fixture(params=["left out", "carried along"])
def positions(request, monkeypatch):
    """Both ways to treat positions that do not count: those of the CPU, and of other devices."""
    if request.param == "carried along":
        monkeypatch.setattr(encoders, "counted_positions", lambda mask: None)
    return request.param


@pytest.mark.parametrize("name", ENCODERS)
def test_equals_loops(name, positions):
    layer = with_other_weights(ENCODERS[name]()).eval()
    query, sequence, mask = rows()
    found = layer(query, sequence, mask)
    assert found.shape == (7, layer.output_dim)
    np.testing.assert_allclose(found.detach(), expected_of(layer, query, sequence, mask), atol=2e-5)
    elsewhere = sequence.masked_fill(~mask.unsqueeze(2), 3.0)
    torch.testing.assert_close(layer(query, elsewhere, mask), found)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("newest", ["first", "last", None])
def test_networks_equal_loops(name, newest, positions):
    options = NETWORK | NETWORKS[name]
    if newest is None:
        layer = DIN(4, 4, softmax=False, **options)
    else:
        layer = MultiWindowDIN(4, 4, windows=(1, 2, 2), newest=newest, **options)
    layer = with_other_weights(layer).eval()
    query, sequence, mask = rows(query_dim=4)
    expected = expected_of(layer, query, sequence, mask)
    np.testing.assert_allclose(layer(query, sequence, mask).detach(), expected, atol=2e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_no_events_give_zeros_and_finite_gradients(name, positions):
    layer = with_other_weights(ENCODERS[name]())
    query, sequence, mask = rows()
    none = torch.zeros_like(mask)
    leaves = query.requires_grad_(), sequence.requires_grad_()
    found = layer(query, sequence, none)
    if name == "multi_window_din":  # which ends with the query
        found, own = found.split([8, 4], dim=1)
        assert torch.equal(own[:, :3], query)
        assert not own[:, 3:].any()
    assert not found.any()
    layer(query, sequence, mask).square().sum().backward()
    for tensor in (*leaves, *layer.parameters()):
        assert tensor.grad is None or tensor.grad.isfinite().all()
    assert not sequence.grad[~mask].any()


@pytest.mark.parametrize("statistics", ["valid", "padded"])
def test_statistics_in_training(statistics, positions):
    torch.manual_seed(0)
    layer = DIN(4, 4, softmax=False, **NETWORK | {"statistics": statistics, "norm": "batch"})
    query, sequence, mask = rows(query_dim=4, holes=False)
    sequence = sequence * mask.unsqueeze(2)  # padding is zeros
    counts = mask if statistics == "valid" else torch.ones_like(mask)
    q = query.unsqueeze(1).expand(-1, 7, -1)
    z = torch.cat([q, sequence, q - sequence, q * sequence], 2)[counts]
    hidden = z @ layer.mlp.layers[0][0].weight.T
    found = layer.train()(query, sequence, mask)
    norm = layer.mlp.layers[0][1]
    torch.testing.assert_close(norm.running_mean, 0.1 * hidden.mean(0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * hidden.var(0))
    plain = nn.Sequential(*layer.mlp.layers, layer.linear)
    scores = torch.zeros(7, 7).masked_scatter(counts, plain(z)) * mask
    torch.testing.assert_close(found, (scores.unsqueeze(1) @ sequence).squeeze(1))
    found.sum().backward()
    assert all(parameter.grad.any() for parameter in layer.mlp.parameters())


@pytest.mark.parametrize("events", [0, 1])
def test_statistics_of_too_few_positions_stay(events, positions):
    layer = with_other_weights(DIN(3, 4, softmax=False, **NETWORK))
    query, sequence, mask = rows()
    mask = torch.zeros_like(mask)
    mask[2, :events] = True
    dice = next(module for module in layer.modules() if isinstance(module, Dice))
    before = dice.norm.running_mean.clone(), dice.norm.running_var.clone()
    found = layer.train()(query, sequence, mask)
    assert torch.equal(dice.norm.running_mean, before[0])
    assert torch.equal(dice.norm.running_var, before[1])
    torch.testing.assert_close(found, layer.eval()(query, sequence, mask))


def test_a_norm_of_all_rows_is_torch_s():
    torch.manual_seed(0)
    ours, theirs = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    x, counts = torch.randn(9, 3), torch.tensor([True] * 6 + [False] * 3)
    for _ in range(3):
        found, expected = normalized(ours, x, counts), theirs(x[:6])
        torch.testing.assert_close(found[:6], expected)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_self_attention_is_torch_s():
    layer = with_other_weights(SelfAttention(4, attention_dim=6, num_heads=3, dropout=0.0)).eval()
    _, sequence, mask = rows()
    sequence, mask = sequence[3:], mask[3:]
    mask[:, 0] = True  # of no position torch's gives NaN
    mapped = [part(sequence) for part in (layer.query, layer.key, layer.value)]
    found, _ = layer.multihead_attn(*mapped, key_padding_mask=~mask)
    mean = (found * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(layer(None, sequence, mask), mean)


@pytest.mark.parametrize("name", ENCODERS)
def test_exports_with_any_number_of_rows_and_positions(name):
    layer = with_other_weights(ENCODERS[name]()).eval()
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    shapes = {"query": {0: batch}, "sequence": {0: batch, 1: length}, "mask": {0: batch, 1: length}}
    program = torch.export.export(layer, rows(), dynamic_shapes=shapes, strict=False)
    query, sequence, mask = rows()
    part = query[:5], sequence[:5, :4], mask[:5, :4]
    torch.testing.assert_close(program.module()(*part), layer(*part))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DIN(5, 4, softmax=True, **NETWORK), "query: 5 wide, and the sequence 4"),
        (lambda: SimpleAttention(5, 4), "query: 5 wide"),
        (
            lambda: DIN(4, 4, softmax=True, **NETWORK | {"statistics": "all"}),
            "statistics: 'all' is none of valid, padded",
        ),
        (
            lambda: MultiWindowDIN(4, 4, windows=(), newest="last", **NETWORK),
            r"windows: expected lengths from 1 on, got \[\]",
        ),
        (
            lambda: MultiWindowDIN(4, 4, windows=(2,), newest="end", **NETWORK),
            "newest: expected first or last, got 'end'",
        ),
        (lambda: Pooling(4, combiner="max"), "combiner: expected mean or sum, got 'max'"),
        (
            lambda: SelfAttention(4, attention_dim=6, num_heads=4, dropout=0.0),
            "num_heads: 4 does not divide attention_dim 6",
        ),
    ],
)
def test_unusable_arguments_are_errors(build, message):
    with pytest.raises(ArgumentError, match=message):
        build()
