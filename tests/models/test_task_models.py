"""Models of several tasks against loops in float64 with their weights, and what is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from deepfm.config import DNNConfig
from deepfm.errors import ConfigError
from deepfm.models import build_model
from deepfm.models.esmm import log_odds_of_product
from deepfm.models.options import (
    DBMTLSection,
    ESMMSection,
    LevelConfig,
    MMoESection,
    PLESection,
    RelationConfig,
    SharedBottomSection,
)
from tests import reference
from tests.models.conftest import TOWER, random_inputs, replaced, small_network
from tests.models.layers.test_experts import of, shares_of
from tests.models.oracle import array, embedding_weights
from tests.models.test_conformance_of_tasks import TASKS, with_tasks


def made(schema, config, name, names=TASKS[:2], section=None, **of_tasks):
    """A model in evaluation mode whose statistics of batch norm are not the initial ones."""
    config = replaced(config, model_name=name, **({} if section is None else {name: section}))
    model = build_model(schema, with_tasks(config, names, **of_tasks))
    with torch.no_grad():
        for place, bias in enumerate(model.output_biases.values()):
            bias.fill_(0.25 * (place + 1))
        for _ in range(3):
            model(random_inputs(schema, 32, seed=3))
    return model.eval()


def output(model, place, x):
    layer = model.task_outputs[place]
    return (array(layer.weight) @ x + array(layer.bias))[0]


def tower(model, place, x):
    found = model.towers[place]
    return x if isinstance(found, nn.Identity) else of(found)(x)


def bottom(model, x):
    return x if model.bottom is None else of(model.bottom)(x)


def mixtures(layer, x):
    outputs = [of(expert)(x) for expert in layer.experts]
    return [reference.mixture(shares_of(gate)(x), outputs) for gate in layer.gates]


def shared_bottom(model, x):
    return [tower(model, place, bottom(model, x)) for place in range(len(model.tasks))]


def mmoe(model, x):
    return [tower(model, place, own) for place, own in enumerate(mixtures(model.mixtures, x))]


def ple(model, x):
    own, shared = [x] * len(model.tasks), x
    for level in model.levels:
        own, shared = reference.extraction_level(
            own,
            shared,
            [[of(expert) for expert in experts] for experts in level.own],
            [of(expert) for expert in level.shared],
            [shares_of(gate) for gate in level.gates],
            None if level.shared_gate is None else shares_of(level.shared_gate),
        )
    return [tower(model, place, x) for place, x in enumerate(own)]


def dbmtl(model, x):
    names = [task.name for task in model.tasks]
    x = bottom(model, x)
    inputs = [x] * len(names) if model.mixtures is None else mixtures(model.mixtures, x)
    own = [tower(model, place, x) for place, x in enumerate(inputs)]
    found = {}
    for place, name in enumerate(names):
        relation = model.config.dbmtl.relations.get(name)
        if relation is None:
            found[name] = own[place]
            continue
        read = [own[place], *(found[other] for other in relation.tasks)]
        found[name] = of(model.relations[place])(np.concatenate(read))
    return list(found.values())


def esmm(model, x):
    return [tower(model, place, bottom(model, x)) for place in range(2)]


ORACLES = [shared_bottom, mmoe, ple, dbmtl, esmm]
OTHERS = {
    "shared_bottom": SharedBottomSection(bottom=None, towers={"cvr": small_network(5, 4)}),
    "mmoe": MMoESection(num_experts=2, expert=small_network(6), tower=small_network()),
    "ple": PLESection(levels={"only": LevelConfig(task_expert=small_network(6))}, **TOWER),
    "dbmtl": DBMTLSection(
        bottom=None,
        towers={"cvr": small_network()},
        relations={"cvr": RelationConfig(tasks=("ctr",), network=small_network(7))},
        **TOWER,
    ),
    "esmm": ESMMSection(bottom=small_network(9), towers={"ctr": small_network(4)}, **TOWER),
}


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle.__name__)
@pytest.mark.parametrize("other", [False, True], ids=["plain", "other"])
def test_logits_equal_loops(schema, config, oracle, other):
    name = oracle.__name__
    names = TASKS if name == "esmm" else TASKS[:2]
    model = made(schema, config, name, names, OTHERS[name] if other else None)
    inputs = random_inputs(schema, 8)
    weights = embedding_weights(model.embedding)
    is_raw = {
        name: field.is_dense and not field.is_embedded for name, field in schema.fields.items()
    }
    deep = sorted(schema.fields, key=is_raw.get)  # raw numbers stand last
    views = reference.group_views(schema, inputs, weights, {"deep": deep}, 4)
    flat = [np.concatenate(view["deep"]) for view in views]
    found = model(inputs)
    for row, x in enumerate(flat):
        vectors = oracle(model, x)
        expected = {
            task.name: output(model, place, vector)
            for place, (task, vector) in enumerate(zip(model.towered, vectors, strict=True))
        }
        if name == "esmm":
            positive, negative = reference.probability_of_both(expected["ctr"], expected["cvr"])
            expected["ctcvr"] = positive - negative
        for task, logit in expected.items():
            assert found[task][row].item() == pytest.approx(logit, abs=1e-5, rel=1e-5)


def test_relations_reach_through_others(schema, config):
    """The third task reads the second's relation, which reads the first."""
    relations = {
        "cvr": RelationConfig(tasks=("ctr",), network=small_network(5)),
        "ctcvr": RelationConfig(tasks=("ctr", "cvr"), network=small_network(6)),
    }
    section = DBMTLSection(bottom=small_network(8), relations=relations, **TOWER)
    model = made(schema, config, "dbmtl", TASKS, section)
    assert [relation.output_dim for relation in list(model.relations)[1:]] == [5, 6]
    inputs = random_inputs(schema, 4)
    before = model(inputs)
    with torch.no_grad():
        model.towers[0].layers[0][0].weight.mul_(-1)
    after = model(inputs)
    assert all((before[name] != after[name]).any() for name in TASKS)


def test_the_product_is_exact_where_probabilities_are_not():
    """Against logarithms in float64, up to logits whose probabilities are 0 and 1."""
    sizes = [-1e4, -300.0, -40.0, -3.0, 0.0, 0.5, 20.0, 40.0, 300.0, 1e4]
    a, b = (grid.ravel() for grid in np.meshgrid(sizes, sizes))
    positive, negative = reference.probability_of_both(a, b)
    x, y = (torch.tensor(v, dtype=torch.float32, requires_grad=True) for v in (a, b))
    found = log_odds_of_product(x, y)
    np.testing.assert_allclose(found.detach(), positive - negative, rtol=2e-6, atol=2e-7)
    loss = nn.functional.binary_cross_entropy_with_logits
    for label, expected in ((1.0, -positive), (0.0, -negative)):
        of_rows = loss(found, torch.full_like(found, label), reduction="none")
        np.testing.assert_allclose(of_rows.detach(), expected, rtol=1e-5, atol=1e-6)
    found.sum().backward()
    assert x.grad.isfinite().all()
    # d logit / da = sigma(-a) / (1 - p), of logarithms
    expected = np.exp(-np.logaddexp(0.0, a) - negative)
    np.testing.assert_allclose(x.grad, expected, rtol=1e-3, atol=1e-6)


def test_one_task_is_a_tensor(schema, config):
    for name in ("shared_bottom", "mmoe", "ple", "dbmtl"):
        model = build_model(schema, replaced(config, model_name=name))
        assert model(random_inputs(schema, 4)).shape == (4,)


def test_a_task_of_classes_has_a_logit_for_each(schema, config):
    of_classes = {"losses": "softmax_cross_entropy", "num_class": 2, "metrics": "auc"}
    model = made(schema, config, "mmoe", cvr=of_classes)
    logits = model(random_inputs(schema, 4))
    assert {name: tuple(own.shape) for name, own in logits.items()} == {"ctr": (4,), "cvr": (4, 2)}
    assert tuple(model.predict(random_inputs(schema, 4))["cvr"].shape) == (4,)


@pytest.mark.parametrize(
    ("name", "section", "names", "message"),
    [
        (
            "mmoe",
            MMoESection(towers={"ctrr": DNNConfig()}),
            TASKS[:2],
            r"^mmoe\.towers: no task 'ctrr' with a tower; did you mean 'ctr'",
        ),
        (
            "mmoe",
            MMoESection(expert=DNNConfig(hidden_units=())),
            TASKS[:2],
            r"^mmoe\.expert\.hidden_units: expected at least one layer",
        ),
        ("ple", PLESection(levels={}), TASKS[:2], r"^ple\.levels: expected at least one level"),
        (
            "ple",
            PLESection(
                levels={"a": LevelConfig(shared_expert=small_network(3), **{})}
            ),
            TASKS[:2],
            r"^ple\.levels\.a\.shared_expert: experts that are mixed have one width",
        ),
        (
            "dbmtl",
            DBMTLSection(relations={"ctr": RelationConfig(tasks=("cvr",))}),
            TASKS[:2],
            r"^dbmtl\.relations\.ctr\.tasks: 'cvr' does not stand before ctr in tasks",
        ),
        (
            "dbmtl",
            DBMTLSection(relations={"buy": RelationConfig(tasks=("ctr",))}),
            TASKS[:2],
            r"^dbmtl\.relations: no task 'buy'",
        ),
        ("esmm", None, TASKS[:2], r"^tasks: esmm predicts ctr, cvr, ctcvr .*, found ctr, cvr"),
        (
            "esmm",
            ESMMSection(towers={"ctcvr": DNNConfig()}),
            TASKS,
            r"^esmm\.towers: no task 'ctcvr' with a tower",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(schema, config, name, section, names, message):
    with pytest.raises(ConfigError, match=message):
        made(schema, config, name, names, section)


def test_esmm_needs_probabilities_of_one_logit(schema, config):
    with pytest.raises(ConfigError, match=r"^tasks\.cvr\.losses: esmm multiplies probabilities"):
        made(schema, config, "esmm", TASKS, cvr={"losses": "l2", "metrics": "mae"})
    with pytest.raises(ConfigError, match=r"found one task without a name"):
        build_model(schema, replaced(config, model_name="esmm"))
