"""Losses against loops in float64, the original's golden values, and settings that do not fit."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfm.config import config_from_dict
from deepfm.data.batch import Batch
from deepfm.errors import ConfigError
from deepfm.objectives import LOSSES, PairLogits, Targets, Task, checks
from deepfm.objectives.losses import weighted_loss
from tests.reference import row_losses, weighted_mean


def spec(name, **options):
    return LOSSES[name](**options)


def batch_losses(logits, rows, chosen, columns=()):
    """Those of a task without a name; each row is compared with its neighbours' items."""
    pairs = None
    if any(item.by_pairs for item in chosen) and logits.dim() == 1:
        others = torch.stack([logits.roll(1), logits.roll(2)], 1)
        pairs = PairLogits(logits, others, torch.ones_like(others, dtype=torch.bool))
    targets = Targets(rows.label, rows.weight, rows.group, tuple(columns), pairs)
    branches = {}
    if any(item.min_branches for item in chosen):
        branches = {"easy": 0.5 * logits + 1, "hard": 1 - logits}
    return Task(objectives=tuple(chosen)).losses({"": logits, **branches}, targets)


def check_losses(config):
    checks.check_losses(config.task_list(), config.task_data())


def batch(label, weight=None, group=None):
    def tensor(values, dtype=torch.float64):
        return None if values is None else torch.tensor(values, dtype=dtype)

    return Batch(None, tensor(label), tensor(weight), tensor(group, torch.int64))


def loss_of(chosen, logits, rows, columns=("session",)):
    found = batch_losses(torch.as_tensor(logits, dtype=torch.float64), rows, [chosen], columns)
    assert list(found) == [chosen.name]
    assert found[chosen.name].shape == ()
    return found[chosen.name].item()


SPECS = [
    spec("binary_cross_entropy"),
    spec("binary_cross_entropy", label_smoothing=0.3),
    spec("binary_focal"),
    spec("binary_focal", gamma=0.0, alpha=0.9),
    spec("binary_focal", gamma=3.5, alpha=0.1),
    spec("l2"),
    spec("softmax_cross_entropy"),
    spec("softmax_cross_entropy", label_smoothing=0.2),
    spec("jrc", session="session"),
    spec("jrc", session="session", alpha=0.0),
    spec("jrc", session="session", alpha=1.0),
]


@st.composite
def cases(draw):
    chosen = draw(st.sampled_from(SPECS))
    rows, numbers = draw(st.integers(1, 9)), st.floats(-4, 4)
    classes = {"softmax_cross_entropy": draw(st.integers(2, 4)), "jrc": 2}.get(chosen.name)

    def column(of):
        return draw(st.lists(of, min_size=rows, max_size=rows))

    label = column(st.floats(-3, 3) if chosen.name == "l2" else st.integers(0, 1))
    if classes:
        label = column(st.integers(0, classes - 1))
        logits = column(st.lists(numbers, min_size=classes, max_size=classes))
    else:
        logits = column(numbers)
    weight = column(st.sampled_from([0.0, 0.5, 1.0, 3.0])) if draw(st.booleans()) else None
    session = column(st.integers(0, 2))
    return chosen, logits, [float(y) for y in label], weight, session


@settings(deadline=None, max_examples=300)
@given(cases())
def test_losses_equal_their_definitions(case):
    chosen, logits, label, weight, session = case
    rows = batch(label, weight, [[7, s] for s in session])
    expected = weighted_mean(
        row_losses(chosen.to_dict(), logits, label, session), weight or [1.0] * len(label)
    )
    found = loss_of(chosen, logits, rows, ("other", "session"))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("chosen", SPECS, ids=lambda s: s.name)
def test_gradients_equal_finite_differences(chosen):
    """Of the focal loss with its factor held still."""
    generator = torch.Generator().manual_seed(0)
    shape = {"softmax_cross_entropy": (6, 3), "jrc": (6, 2)}.get(chosen.name, (6,))
    logits = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    rows = batch([0.0, 1, 1, 0, 1, 0], [1.0, 2, 0, 1, 1, 3], [[0], [0], [1], [1], [1], [2]])

    def loss(logits):
        return batch_losses(logits, rows, [chosen], ["session"])[chosen.name]

    if chosen.name != "binary_focal":
        assert torch.autograd.gradcheck(loss, logits)
        return
    (found,) = torch.autograd.grad(loss(logits), logits)
    p, y = logits.detach().sigmoid(), rows.label
    alpha, gamma = chosen.alpha, chosen.gamma
    factor = torch.where(y == 1, alpha * (1 - p) ** gamma, (1 - alpha) * p**gamma)
    torch.testing.assert_close(found, rows.weight * factor * (p - y) / rows.weight.sum())


def test_golden_values_of_the_original():
    """TorchEasyRec's own tests, to 4 digits."""
    logits, label = [0.2, 0.3], [0.0, 1.0]
    bce = spec("binary_cross_entropy")
    assert loss_of(bce, logits, batch(label)) == pytest.approx(0.6762, abs=1e-4)
    assert loss_of(bce, logits, batch(label, [1.0, 2.0])) == pytest.approx(0.6356, abs=1e-4)
    smooth = spec("binary_cross_entropy", label_smoothing=0.1)
    assert loss_of(smooth, logits, batch(label)) == pytest.approx(0.6787, abs=1e-4)
    assert loss_of(spec("l2"), logits, batch(label)) == pytest.approx(0.2650, abs=1e-4)
    of_classes = [[0.2, 0.4], [0.3, 0.5]]
    softmax = spec("softmax_cross_entropy")
    assert loss_of(softmax, of_classes, batch(label)) == pytest.approx(0.6981, abs=1e-4)
    focal = [0.9, 0.5, 0.3, 0.2, 0.8, 0.5, 0.3, 0.5]
    clicks = batch([1.0, 1, 1, 0, 1, 0, 1, 0])
    assert loss_of(spec("binary_focal"), focal, clicks) == pytest.approx(0.0830, abs=1e-4)
    pairs = [[0.9, 0.1], [0.5, 0.5], [0.3, 0.7], [0.2, 0.8]]
    pairs += [[0.8, 0.2], [0.55, 0.45], [0.33, 0.67], [0.55, 0.45]]
    sessions = batch([0.0, 0, 1, 1, 0, 0, 1, 1], group=[[1]] * 4 + [[2]] * 4)
    jrc = spec("jrc", session="session")
    assert loss_of(jrc, pairs, sessions) == pytest.approx(0.7199, abs=1e-4)


def test_the_plain_loss_is_that_of_torch_bit_for_bit():
    logits, label = torch.randn(100), (torch.rand(100) < 0.3).float()
    rows, plain = Batch(None, label), spec("binary_cross_entropy")
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, label)
    assert torch.equal(batch_losses(logits, rows, [plain])["binary_cross_entropy"], expected)
    weight = torch.rand(100)
    found = batch_losses(logits, rows._replace(weight=weight), [plain])["binary_cross_entropy"]
    assert torch.equal(found, weighted_loss(logits, label, weight))


@pytest.mark.parametrize("name", LOSSES)
def test_rows_that_all_weigh_nothing_have_no_loss_and_no_gradient(name):
    classes = name in ("softmax_cross_entropy", "jrc")
    logits = torch.randn((4, 2) if classes else 4, dtype=torch.float64, requires_grad=True)
    rows = batch([0.0, 1, 0, 1], [0.0] * 4, [[1], [1], [2], [2]])
    options = {"session": "session"} if name == "jrc" else {}
    loss = batch_losses(logits, rows, [spec(name, **options)], ["session"])[name]
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, logits)[0].any()


def test_large_logits_stay_finite():
    logits = torch.tensor([[300.0, -300.0], [-300.0, 300.0]], requires_grad=True)
    rows = Batch(None, torch.tensor([1.0, 0.0]), group=torch.zeros(2, 1, dtype=torch.int64))
    loss = batch_losses(logits, rows, [spec("jrc", session="session")], ["session"])["jrc"]
    # CE is 600, and against the rival in the same column too.
    assert loss.item() == pytest.approx(600.0)
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_several_losses_stand_under_their_names():
    rows, logits = batch([0.0, 1.0]), torch.tensor([0.2, 0.3], dtype=torch.float64)
    found = batch_losses(logits, rows, [spec("binary_cross_entropy"), spec("l2")])
    assert list(found) == ["binary_cross_entropy", "l2"]
    assert found["l2"].item() == pytest.approx(0.265)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", [(4,), (4, 1, 2), (3,), (3, 2), (4, 2)])
def test_logits_of_another_shape_never_broadcast(name, shape):
    classes = name in ("softmax_cross_entropy", "jrc")
    if shape == ((4, 2) if classes else (4,)):
        return
    rows = batch([0.0, 1, 0, 1], group=[[1]] * 4)
    options = {"session": "session"} if name == "jrc" else {}
    with pytest.raises(ConfigError, match=f"{name} needs logits .*see num_class"):
        batch_losses(torch.zeros(shape), rows, [spec(name, **options)], ["session"])


@pytest.mark.parametrize("columns", [(), ("sesion",)])
def test_a_session_that_is_no_group_is_named(columns):
    rows = batch([0.0, 1.0], group=[[1]] * 2 if columns else None)
    with pytest.raises(ConfigError, match="jrc: session 'session' is none of"):
        batch_losses(torch.zeros(2, 2), rows, [spec("jrc", session="session")], columns)


def settings_of(losses, num_class=1, kind="binary", groups=(), **data):
    table = {
        "files": "*.csv",
        "label": "y",
        "labels": {"y": {"column": "y", "kind": kind}},
        "group_columns": list(groups),
        "fields": {"a": {"type": "sparse"}},
    }
    return config_from_dict(
        {
            "num_class": num_class,
            "data": {"dataset_name": "tabular", "split_strategy": "random", "table": table} | data,
            "training": {"losses": losses},
        }
    )


@pytest.mark.parametrize(
    "given",
    [
        {"losses": ["binary_cross_entropy", "binary_focal", "l2"]},
        {"losses": ["l2"], "kind": "number"},
        {"losses": ["softmax_cross_entropy"], "kind": "class", "num_class": 5},
        {"losses": ["softmax_cross_entropy"], "kind": "binary", "num_class": 2},
        {
            "losses": ["softmax_cross_entropy", {"name": "jrc", "session": "s"}],
            "num_class": 2,
            "groups": ["s"],
        },
    ],
)
def test_losses_that_fit_are_accepted(given):
    check_losses(settings_of(**given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"losses": ["binary_cross_entropy"], "num_class": 2}, "num_class: .* needs 1, found 2"),
        ({"losses": ["binary_focal"], "num_class": 2}, "num_class: .* needs 1, found 2"),
        ({"losses": ["l2"], "num_class": 3}, "num_class: .*l2 needs 1, found 3"),
        ({"losses": ["softmax_cross_entropy"]}, "num_class: .* needs more than 1, found 1"),
        ({"losses": ["jrc"], "num_class": 3}, "num_class: .*jrc needs 2, found 3"),
        ({"losses": ["jrc"], "num_class": 2}, "session '' is none of data.table.group_columns"),
        (
            {"losses": [{"name": "jrc", "session": "sid"}], "num_class": 2, "groups": ["sids"]},
            "training.losses: jrc: session 'sid' is none of .* did you mean 'sids'",
        ),
        ({"losses": ["binary_cross_entropy"], "kind": "number"}, "data.table.labels: .*number"),
        ({"losses": ["binary_focal"], "kind": "class"}, "a label of kind binary, found class"),
        ({"losses": ["l2"], "kind": "class"}, "of kind number or binary, found class"),
        (
            {"losses": ["softmax_cross_entropy"], "num_class": 3},
            "of kind class, found binary",
        ),
        (
            {"losses": [{"name": "binary_focal", "alpha": 1.0}]},
            "training.losses.alpha: .* above 0 and below 1, found 1",
        ),
        ({"losses": [{"name": "binary_focal", "alpha": 0}]}, "above 0 and below 1, found 0"),
        (
            {"losses": [{"name": "binary_cross_entropy", "label_smoothing": 1}]},
            "training.losses.label_smoothing: .* below 1",
        ),
        (
            {"losses": [{"name": "jrc", "session": "s", "alpha": 1.5}], "num_class": 2},
            "training.losses.alpha: jrc needs a number of at most 1",
        ),
        ({"losses": ["l2", "l2"]}, "l2 is given twice"),
    ],
)
def test_losses_that_do_not_fit_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        check_losses(settings_of(**given))


def test_ranking_data_needs_a_probability():
    with pytest.raises(ConfigError, match="leave_one_out ranks by a probability, which needs"):
        check_losses(config_from_dict({"training": {"losses": "l2"}}))
    classes = {"num_class": 2, "training": {"losses": "softmax_cross_entropy"}}
    with pytest.raises(ConfigError, match="leave_one_out ranks by a probability"):
        check_losses(config_from_dict(classes))
    check_losses(config_from_dict({"training": {"losses": "binary_focal"}}))


def test_negative_focusing_is_refused():
    with pytest.raises(
        ConfigError, match=r"training\.losses\.gamma: expected a number of at least 0"
    ):
        config_from_dict({"training": {"losses": [{"name": "binary_focal", "gamma": -1}]}})


def test_the_mean_of_a_session_does_not_depend_on_its_id():
    logits = torch.randn(6, 2, dtype=torch.float64)
    label, ids = [0.0, 1, 0, 1, 1, 0], [-(2**63), 2**63 - 1, -(2**63), 0, 0, 2**63 - 1]
    small = {i: k for k, i in enumerate(ids)}
    jrc = spec("jrc", session="session")
    found = loss_of(jrc, logits, batch(label, group=[[i] for i in ids]))
    assert found == loss_of(jrc, logits, batch(label, group=[[small[i]] for i in ids]))
    assert math.isfinite(found)
