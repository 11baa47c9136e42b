"""Each schedule against the table that its definition gives, and its state."""

import math

import pytest
import torch

from deepfm.config import TrainingConfig
from deepfm.errors import ConfigError
from deepfm.training.optimizers import Assigned
from deepfm.training.schedules import build_schedules


def schedule_of(base=0.01, maximize=True, **options):
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=base)
    config = TrainingConfig(scheduler=options)
    assigned = Assigned("dense", optimizer, "training.scheduler", config.scheduler)
    (schedule,) = build_schedules([assigned], config, maximize=maximize)
    return optimizer, schedule


def rates(count, base=0.01, **options):
    """The rate of the first step, and after each of `count` steps."""
    optimizer, schedule = schedule_of(base, **options)
    found = [optimizer.param_groups[0]["lr"]]
    for _ in range(count):
        schedule.end_epoch(0.0) if options.get("by_epoch") else schedule.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("by_epoch", [False, True])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # The values that TorchEasyRec's own tests expect, after each step.
        ({"name": "exponential", "decay_size": 1, "decay_factor": 0.7}, [0.007, 0.0049]),
        (
            {
                "name": "exponential", "decay_size": 1, "decay_factor": 0.7, "warmup_size": 2,
                "warmup_lr": 0.005,
            },
            [0.0075, 0.01, 0.007],
        ),
        (
            {"name": "manual_step", "sizes": [2, 4, 8], "lrs": [0.008, 0.004, 0.002]},
            [0.01, 0.01, 0.008, 0.008, 0.004, 0.004, 0.004, 0.004, 0.002, 0.002],
        ),
        (
            {"name": "cosine_annealing", "t_max": 4, "min_lr": 0.002},
            [0.002 + 0.004 * (1 + math.cos(math.pi / 4)), 0.006],
        ),
        (
            {"name": "cosine_restarts", "t_0": 3},
            [0.005 * (1 + math.cos(math.pi * k / 3)) for k in (1, 2, 0, 1, 2, 0)],
        ),
        (
            {"name": "cosine_restarts", "t_0": 2, "t_mult": 2},
            [0.005 * (1 + math.cos(math.pi * t)) for t in (0.5, 0, 0.25, 0.5, 0.75, 0, 1 / 8)],
        ),
    ],
)  # fmt: skip
def test_the_rates_of_the_format(options, expected, by_epoch):
    found = rates(len(expected), **options, by_epoch=by_epoch)
    assert found[1:] == pytest.approx(expected, rel=1e-12)


def test_manual_steps_may_begin_with_a_line_from_the_base_rate():
    options = {"name": "manual_step", "sizes": [2, 4, 8], "lrs": [0.008, 0.004, 0.002]}
    expected = [0.004, 0.006, 0.008, 0.008, 0.008, *[0.004] * 4, 0.002, 0.002]
    assert rates(10, 0.004, warmup=True, **options) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["exponential", "cosine_annealing", "cosine_restarts"])
def test_a_warm_up_ends_where_the_schedule_begins(name):
    sizes = {"exponential": {"decay_size": 3}, "cosine_annealing": {"t_max": 5}}
    options = {"name": name, **sizes.get(name, {"t_0": 5})}
    plain = rates(7, **options)
    warmed = rates(11, **options, warmup_size=4, warmup_lr=0.002)
    assert warmed[:5] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])
    assert warmed[4:] == plain


@pytest.mark.parametrize("staircase", [True, False])
def test_an_exponential_decay_against_its_definition(staircase):
    found = rates(
        12, name="exponential", decay_size=5, decay_factor=0.5, staircase=staircase, min_lr=0.003
    )
    for s, rate in enumerate(found):
        power = s // 5 if staircase else s / 5
        assert rate == pytest.approx(max(0.01 * 0.5**power, 0.003), rel=1e-12)
    assert 0.003 in found


def test_a_cosine_stays_at_its_end_and_restarts_come_again():
    assert rates(6, name="cosine_annealing", t_max=4, min_lr=0.001)[4:] == [0.001] * 3
    found = rates(14, name="cosine_restarts", t_0=2, t_mult=2, min_lr=0.001)
    assert [s for s, rate in enumerate(found) if math.isclose(rate, 0.01)] == [0, 2, 6, 14]
    long = rates(3 * 10**4, name="cosine_restarts", t_0=3)
    assert long[-1] == 0.01  # and no step of it takes long


@pytest.mark.parametrize(
    "options",
    [
        {"name": "exponential", "min_lr": 0.1},
        {"name": "manual_step", "sizes": [1], "lrs": [0.5]},
        {"name": "cosine_annealing", "t_max": 2, "min_lr": 0.1, "warmup_lr": 0.3, "warmup_size": 1},
    ],
)
def test_a_base_rate_of_zero_stays_zero(options):
    assert rates(4, base=0.0, **options) == [0.0] * 5


@pytest.mark.parametrize("by_epoch", [False, True])
def test_only_what_is_counted_moves_the_rate(by_epoch):
    optimizer, schedule = schedule_of(name="exponential", decay_factor=0.5, by_epoch=by_epoch)
    for _ in range(3):
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == (0.01 if by_epoch else 0.00125)
    schedule.end_epoch(1.0)
    assert optimizer.param_groups[0]["lr"] == (0.005 if by_epoch else 0.00125)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "exponential", "decay_size": 2, "warmup_size": 3},
        {"name": "manual_step", "sizes": [2, 4], "lrs": [0.5, 0.25]},
        {"name": "cosine_restarts", "t_0": 3, "t_mult": 2},
        {"name": "cosine_annealing", "t_max": 5, "by_epoch": True},
        {"name": "cosine"},
        {"name": "reduce_on_plateau"},
    ],
)
def test_a_schedule_goes_on_where_its_state_was_taken(options):
    def move(schedule, count):
        for _ in range(count):
            schedule.step()
            schedule.end_epoch(0.0)

    optimizer, schedule = schedule_of(**options)
    move(schedule, 4)
    fresh, resumed = schedule_of(**options)
    fresh.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    assert fresh.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    for one in (schedule, resumed):
        move(one, 3)
    assert fresh.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "exponential", "decay_size": 0}, "decay_size: expected at least 1, found 0"),
        ({"name": "cosine_annealing"}, "cosine_annealing: t_max: expected at least 1, found 0"),
        ({"name": "cosine_restarts"}, "cosine_restarts: t_0: expected at least 1, found 0"),
        ({"name": "cosine_restarts", "t_0": 1, "t_mult": 0}, "t_mult: expected at least 1"),
        ({"name": "manual_step"}, "at least one, found 0 sizes and 0 lrs"),
        ({"name": "manual_step", "sizes": [1, 2], "lrs": [0.1]}, "found 2 sizes and 1 lrs"),
        (
            {"name": "manual_step", "sizes": [3, 3], "lrs": [0.1, 0.2]},
            r"each above the one before, found \[3, 3\]",
        ),
        ({"name": "manual_step", "sizes": [0], "lrs": [0.1], "warmup": True}, "warmup: "),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(options, message):
    with pytest.raises(ConfigError, match=rf"^training\.scheduler: .*{message}"):
        schedule_of(**options)
