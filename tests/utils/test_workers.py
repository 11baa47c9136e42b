"""Messages between processes, and which rows each of them has."""

import subprocess
import sys

import pytest
import torch

from deepfm.utils.workers import ALONE, Workers, _Message
from tests.training.processes import environments


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("rows", [1, 2, 7, 100])
def test_parts_are_all_rows_once_and_none_is_empty(world, rows):
    parts = [Workers(rank, world).part(rows) for rank in range(world)]
    counts = Workers(0, world).counts(rows)
    counted = [
        row
        for part, count in zip(parts, counts, strict=True)
        for row in list(range(rows))[part][:count]
    ]
    assert counted == list(range(rows))
    assert all(len(range(rows)[part]) == max(1, n) for part, n in zip(parts, counts, strict=True))
    assert max(counts) - min(counts) <= 1


def test_tensors_of_any_type_and_shape_arrive_as_they_were():
    torch.manual_seed(0)
    tensors = [
        torch.rand(3, 5).bool(),
        torch.randint(-9, 9, (3,), dtype=torch.int8),
        torch.rand(3, 2, 2, dtype=torch.float64),
        torch.rand(3, 1).expand(3, 4),
        torch.zeros(3, 0),
        torch.randint(0, 2**60, (3,)),
    ]
    message = _Message.of(tensors, [3] * len(tensors))
    packed = message.packed(tensors, message.size + 16)
    assert packed.dtype == torch.uint8
    found = message.unpacked(packed, tensors)
    for one, other in zip(found, tensors, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_without_rows_the_types_and_shapes_are_kept():
    tensors = [torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)]
    message = _Message.of(tensors, [0, 0])
    found = message.unpacked(message.packed(tensors, 0), tensors)
    assert [tuple(one.shape) for one in found] == [(0, 3), (0,)]
    assert [one.dtype for one in found] == [torch.float32, torch.int64]


def test_one_process_alone_changes_nothing():
    tensor = torch.rand(4, requires_grad=True)
    assert ALONE.joined([tensor])[0] is tensor
    assert ALONE.counted_once(tensor) is tensor
    module = torch.nn.Linear(2, 2)
    assert ALONE.parallel(module, ignored=None, may_be_unused=False) is module
    assert ALONE.agree(7) == 7
    assert ALONE.first_before_others(lambda: 3) == 3
    ALONE.refuse_unless_equal("x", lambda: AssertionError("never"))


def test_a_value_that_all_compute_has_a_share_of_the_gradient():
    weight = torch.tensor(3.0, requires_grad=True)
    counted = Workers(0, 4).counted_once(weight * 2)
    assert counted.item() == 6
    counted.backward()
    assert weight.grad.item() == 0.5


LAST_WORD = """
import time
from deepfm.errors import DeepFMError
from deepfm.utils import workers
workers._speaks = lambda store: time.sleep(600)  # its host answers nobody
with workers.workers_of_environment():
    raise DeepFMError("the disk is full")
"""


def test_an_error_is_told_where_the_store_does_not_answer():
    started = [
        subprocess.Popen([sys.executable, "-c", LAST_WORD], env=one, stderr=subprocess.PIPE)
        for one in environments(2)
    ]
    for process in started:
        said = process.communicate(timeout=60)[1].decode()
        assert (process.returncode, said.count("the disk is full")) == (1, 1), said
