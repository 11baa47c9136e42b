import copy
import threading

import pytest
import torch
from torch import nn

from deepfm.models.layers.batch_norm import SharedBatchNorm, sharing_batch_norm
from deepfm.models.layers.dnn import MLP, Dice
from deepfm.models.layers.dropout import ReLUDropout, norm_relu_dropout
from deepfm.models.layers.positions import normalized


def drawn_norm(width=3):
    norm = nn.BatchNorm1d(width).double()
    for tensor in (*norm.parameters(), norm.running_mean, norm.running_var):
        nn.init.uniform_(tensor, 0.5, 1.5, generator=torch.Generator().manual_seed(len(tensor)))
    return norm


def alone(own):
    """What a process gathers that has no others."""
    return own.unsqueeze(0)


def together(norm, parts, compute):
    """What `compute` gives of each part, on a thread each, with norms that share their rows."""
    sent, barrier = [None] * len(parts), threading.Barrier(len(parts), timeout=60)
    found, norms = [None] * len(parts), []

    def work(rank):
        found[rank] = compute(norms[rank], parts[rank])

    for rank in range(len(parts)):

        def gather(own, rank=rank):
            sent[rank] = own
            barrier.wait()
            return torch.stack(sent)

        norms.append(SharedBatchNorm(copy.deepcopy(norm), gather))
    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found, norms


def assert_same(norms, norm, found, expected, weights):
    """Outputs, statistics, and the gradients of a sum of squares, added up over all norms."""
    torch.testing.assert_close(found, expected)
    (found.square() * weights).sum().backward()
    (expected.square() * weights).sum().backward()
    for name in ("weight", "bias"):
        gradients = [getattr(one, name).grad for one in norms]
        added_up = torch.stack([g for g in gradients if g is not None]).sum(0)
        torch.testing.assert_close(added_up, getattr(norm, name).grad)
    for one in norms:
        for name, value in norm.state_dict().items():
            if name.startswith("running"):
                torch.testing.assert_close(one.state_dict()[name], value)


@pytest.mark.parametrize("sizes", [[8], [5, 3], [1, 6, 1], [0, 8]])
def test_rows_of_several_processes_are_those_of_one_batch(sizes):
    torch.manual_seed(0)
    norm, rows = drawn_norm(), torch.randn(8, 3).double()
    one, other = (rows.clone().requires_grad_() for _ in range(2))
    found, norms = together(norm, one.split(sizes), lambda norm, x: norm(x))
    expected = norm(other)
    assert_same(norms, norm, torch.cat(found), expected, torch.rand(8, 3).double())
    torch.testing.assert_close(one.grad, other.grad)
    assert {int(norm.num_batches_tracked) for norm in norms} == {1}


@pytest.mark.parametrize("counted", [[0, 2, 3, 7], [1, 2], [6, 7], [4], []])
def test_positions_that_count_may_lie_with_any_process(counted):
    torch.manual_seed(0)
    norm, rows, counts = drawn_norm(), torch.randn(8, 3).double(), torch.zeros(8, dtype=torch.bool)
    counts[counted] = True
    one, other = (rows.clone().requires_grad_() for _ in range(2))
    parts = list(zip(one.split([3, 5]), counts.split([3, 5]), strict=True))
    found, norms = together(norm, parts, lambda norm, part: normalized(norm, *part))
    expected = normalized(norm, other, counts)
    assert_same(norms, norm, torch.cat(found), expected, torch.rand(8, 3).double())
    torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("training", [True, False])
def test_one_process_has_torch_s_norm(training):
    norm = drawn_norm().float().train(training)
    own = SharedBatchNorm(copy.deepcopy(norm), alone)
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    assert own.training is training
    torch.testing.assert_close(own(x), norm(x))
    assert own(x.bfloat16()).dtype is norm(x.bfloat16()).dtype
    assert own.state_dict().keys() == norm.state_dict().keys()
    dropout = ReLUDropout(0.0)
    torch.testing.assert_close(norm_relu_dropout(x, own, dropout), torch.relu(own(x)))


def test_a_network_has_its_own_norms_again():
    mlp = MLP(4, (6, 3), norm="batch", activation="Dice")
    names, before = list(mlp.state_dict()), dict(mlp.named_modules())
    parameters = {name: id(value) for name, value in mlp.named_parameters()}
    statistics = mlp.state_dict()
    with sharing_batch_norm(mlp, alone):
        norms = [module for module in mlp.modules() if isinstance(module, nn.BatchNorm1d)]
        assert [type(norm) for norm in norms] == 4 * [SharedBatchNorm]  # of layers and of Dice
        assert list(mlp.state_dict()) == names
        assert {name: id(value) for name, value in mlp.named_parameters()} == parameters
        mlp(torch.randn(5, 4, generator=torch.Generator().manual_seed(1)))
        assert len(mlp.folded()) == 2  # copies of layers, for an evaluation in between
        mlp.eval()
    assert dict(mlp.named_modules()) == before
    assert not any(module.training for module in mlp.modules())
    for name, value in mlp.state_dict().items():
        assert value.data_ptr() == statistics[name].data_ptr(), name
    norm = next(module for module in mlp.modules() if isinstance(module, Dice)).norm
    assert type(norm) is nn.BatchNorm1d
    assert not torch.equal(norm.running_mean, torch.zeros(6))
