"""Batches made ahead are those made in turn; errors pass; what crosses keeps its numbers."""

import functools
import itertools
import threading
from contextlib import closing

import pytest
import torch

from deepfm.config import load_config
from deepfm.data.batch import Batch, Pairs
from deepfm.models import build_model
from deepfm.training.trainer import Trainer
from deepfm.training.transfer import batches_on, on_host
from deepfm.utils.interrupt import Interrupted
from tests.models.conftest import random_inputs

CPU = torch.device("cpu")


def batches(schema, count, made=None):
    for number in range(count):
        if made is not None:
            made.append((number, threading.current_thread().name))
        yield Batch(random_inputs(schema, 5, seed=number), torch.full((5,), float(number)))


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return tensors(list(value.values()))
    return [leaf for item in value or () for leaf in tensors(item)]


def assert_same(one, other):
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    assert pairs
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_batches_made_ahead_are_the_same_in_the_same_order(schema):
    made, prepared = [], []
    found = list(batches_on(CPU, batches(schema, 7, made), _note(prepared), ahead=2))
    assert len(found) == 7
    for batch, expected in zip(found, batches(schema, 7), strict=True):
        assert_same(batch, expected)
    assert [number for number, _ in made] == list(range(7))
    assert all(name.startswith("batches") for _, name in made)
    assert len(prepared) == 7
    assert not threads()


def _note(prepared):
    return lambda batch: prepared.append(threading.current_thread().name) or batch


def test_so_many_are_made_ahead_and_no_more(schema):
    made = []
    found = batches_on(CPU, batches(schema, 9, made), lambda batch: batch, ahead=3)
    next(found)
    found.close()  # waits for what is being made
    assert 1 <= len(made) <= 4
    assert not threads()


def test_on_the_cpu_there_is_no_thread(schema):
    made = []
    found = batches_on(CPU, batches(schema, 3, made), lambda batch: batch)
    next(found)
    assert made == [(0, threading.current_thread().name)]
    assert not threads()


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_an_error_is_raised_at_its_batch(schema, ahead):
    def failing():
        yield from batches(schema, 2)
        raise ValueError("row 17")

    found = batches_on(CPU, failing(), lambda batch: batch, ahead=ahead)
    assert [float(batch.label[0]) for batch in itertools.islice(found, 2)] == [0.0, 1.0]
    with pytest.raises(ValueError, match="row 17"):
        next(found)
    assert not threads()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_a_step_that_fails_ends_the_thread(schema, stop):
    def steps():
        with closing(batches_on(CPU, batches(schema, 9), lambda batch: batch, ahead=2)) as found:
            for _ in found:
                raise stop

    with pytest.raises(stop):
        steps()
    assert not threads()


def test_whole_numbers_travel_as_int32_where_they_fit(schema):
    inputs = random_inputs(schema, 5)
    located = {"packed_0": (torch.tensor([3, 9]), torch.tensor([[0, 1]]), torch.tensor([3, 9]))}
    inputs = inputs._replace(located=located)
    pairs = Pairs(
        inputs, torch.arange(5), torch.arange(3), torch.ones(5, 3, dtype=torch.bool),
        torch.rand(5), (inputs, inputs),
    )  # fmt: skip
    group = torch.tensor([[2**40], [-(2**31)], [0], [1], [2**31 - 1]])
    batch = Batch(inputs, torch.rand(5), torch.rand(5), group, pairs)
    packed = batch.packed(pin=False)
    assert packed.inputs.sparse.dtype is torch.int32
    assert packed.group.dtype is torch.int64
    assert packed.inputs.located["packed_0"][1].dtype is torch.int32
    assert packed.inputs.located["packed_0"][2] is located["packed_0"][2]
    assert all(t.dtype is not torch.int32 for t in tensors(packed.to(CPU)))
    assert_same(packed.to(CPU), batch)
    edge = batch._replace(group=group.clamp(-(2**31), 2**31 - 1)).packed(pin=False)
    assert edge.group.dtype is torch.int32
    assert torch.equal(edge.to(CPU).group, group.clamp(-(2**31), 2**31 - 1))


def test_rows_made_of_others_are_not_located(schema):
    inputs = random_inputs(schema, 5)._replace(located={})
    assert inputs.to("cpu").located == {}
    assert inputs.select(slice(2)).located is None
    assert inputs.map(torch.clone).located is None


def test_on_the_host_everything_stays_what_it_is():
    weight = torch.rand(3)
    state = {"a": [weight, {"step": 3}], "b": None, 4: "x"}
    found = on_host(state)
    assert found["a"][0] is weight
    assert found == state


def test_a_run_with_batches_made_ahead_is_the_same_run(tiny_config, tiny_data, monkeypatch):
    """Interrupted and resumed, too: what was made ahead of the interruption is made again."""
    config = load_config(tiny_config(training__sparse_optimizer="lazy_adam"))
    states = []

    def fit(stop_after=None, state=None):
        model, steps = build_model(tiny_data.encoders.schema, config), itertools.count(1)
        Trainer(config.training, config.evaluation, seed=3).fit(
            model,
            tiny_data.train,
            tiny_data.valid,
            state=state,
            should_stop=lambda: 15 if next(steps) == stop_after else 0,
            save=lambda state, is_best: states.append(state),
        )
        return model.state_dict()

    expected = fit()
    ahead = functools.partial(batches_on, ahead=2)
    monkeypatch.setattr("deepfm.training.trainer.batches_on", ahead)
    assert_same(fit(), expected)
    with pytest.raises(Interrupted):
        fit(stop_after=5)
    assert not threads()
    assert states[-1].step == 5
    assert_same(fit(state=states[-1]), expected)
