"""What models of several tasks owe, per task: each that has `several_tasks`."""

import pytest
import torch
import torch.nn.functional as F

from deepfm.config import TaskConfig
from deepfm.data.options import DataConfig, FieldConfig, TableConfig
from deepfm.models import MODELS, build_model
from deepfm.training.optimizers import assign_optimizers
from tests.models.conftest import OF_ONE_TASK, random_inputs, replaced
from tests.models.test_conformance import GROUPS, ON_CPU_ONLY, ON_MPS, _Recorder, check_export

SEVERAL = [name for name, entry in MODELS.items() if entry.load().several_tasks]
TASKS = ("ctr", "cvr", "ctcvr")
LABELS = {"ctr": "click", "cvr": "buy", "ctcvr": "buy"}


def with_tasks(config, names=TASKS, **of_tasks):
    """A config with a task per name, on a table that is not read."""
    tasks = {name: TaskConfig(label=LABELS[name], **of_tasks.get(name, {})) for name in names}
    table = TableConfig(files=("x.csv",), fields={"city": FieldConfig(type="sparse")})
    data = DataConfig(dataset_name="tabular", split_strategy="random", table=table)
    training = {"training": type(config.training)(metric=f"{names[0]}.auc")}
    return replaced(config, data=data, tasks=tasks, **training)


@pytest.fixture(params=[(name, kind) for kind in ("plain", "groups") for name in SEVERAL],
                ids=lambda param: "-".join(param))  # fmt: skip
def config(request, config):
    name, kind = request.param
    config = replaced(config, model_name=name)
    if kind == "groups":
        feature = type(config.feature)(**(vars(config.feature) | {"groups": GROUPS}))
        config = replaced(config, feature=feature)
    return with_tasks(config, TASKS if name not in OF_ONE_TASK else TASKS[:2])


@pytest.fixture
def model(schema, config):
    return build_model(schema, config)


def labels(num_rows: int) -> dict[str, torch.Tensor]:
    row = torch.arange(num_rows)
    click = (row % 3 != 1).float()
    buy = (row % 3 == 0).float()
    return {"ctr": click, "cvr": buy, "ctcvr": buy}


def loss_of(logits, num_rows):
    of_rows = labels(num_rows)
    trained = [name for name in logits if not (name == "cvr" and "ctcvr" in logits)]
    return sum(F.binary_cross_entropy_with_logits(logits[n], of_rows[n]) for n in trained)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_one_finite_logit_per_row_and_task(model, schema, mode):
    for num_rows in (1, 4) if mode == "eval" else (4,):
        logits = model.train(mode == "train")(random_inputs(schema, num_rows))
        assert set(logits) == {task.name for task in model.tasks}
        for own in logits.values():
            assert own.shape == (num_rows,)
            assert own.isfinite().all()


def test_rows_do_not_influence_each_other(model, schema):
    model.eval()
    inputs = random_inputs(schema, 16)
    whole = model(inputs)
    alone = [model(inputs.select(slice(b, b + 1))) for b in range(16)]
    for name, logits in whole.items():
        torch.testing.assert_close(logits, torch.cat([one[name] for one in alone]))
        assert len(set(logits.tolist())) == 16


def test_every_parameter_gets_a_gradient(model, schema):
    loss_of(model(random_inputs(schema, 64)), 64).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_row_of_unknown_ids_scores(model, schema):
    logits = model.eval()(random_inputs(schema, 3).map(torch.zeros_like))
    for own in logits.values():
        assert own.isfinite().all()
        torch.testing.assert_close(own, own[:1].expand(3))


def test_state_dict_round_trip_and_the_seed(model, schema, config):
    inputs = random_inputs(schema, 8)
    again = build_model(schema, config)
    for one, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    with torch.no_grad():
        model(inputs)  # moves the batch norm statistics
    copy = build_model(schema, replaced(config, seed=7))
    expected = model.predict(inputs)
    assert any(not torch.equal(copy.predict(inputs)[name], expected[name]) for name in expected)
    copy.load_state_dict(model.state_dict())
    assert all(torch.equal(copy.predict(inputs)[name], expected[name]) for name in expected)


def test_overfits_32_rows(model, schema):
    inputs, of_rows = random_inputs(schema, 32), labels(32)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss_of(model(inputs), 32).backward()
        optimizer.step()
    probability = model.predict(inputs)
    for name, own in probability.items():
        rows = of_rows["ctr"] == 1 if name == "cvr" and "ctcvr" in probability else slice(None)
        assert F.binary_cross_entropy(own[rows], of_rows[name][rows]) < 0.05


@pytest.mark.parametrize("strict", [False, True])
def test_export_gives_the_same_logits_at_any_batch_size(model, schema, strict):
    check_export(model, schema, strict)


def test_predict_gives_probabilities_per_task(model, schema):
    inputs = random_inputs(schema, 8)
    probability = model.predict(inputs)
    for name, logits in model.eval()(inputs).items():
        assert torch.equal(probability[name], logits.sigmoid())


def test_each_task_has_a_bias_of_its_own(model, schema):
    model.eval()
    inputs = random_inputs(schema, 4)
    before = model(inputs)
    name = model.towered[0].name
    with torch.no_grad():
        model.output_biases[name].add_(2.0)
    after = model(inputs)
    torch.testing.assert_close(after[name], before[name] + 2.0)
    other = model.towered[1].name
    assert torch.equal(after[other], before[other])


def test_a_training_step_uses_nothing_that_mps_lacks(schema, config):
    model = build_model(schema, config)
    inputs, of_rows = model.located(random_inputs(schema, 8)), labels(8)
    with _Recorder() as recorder:
        logits = model(inputs)
        loss = sum(
            F.binary_cross_entropy_with_logits(own, of_rows[name]) for name, own in logits.items()
        )
        (loss + model.get_l2_reg_loss(inputs)).backward()
        model.predict(inputs)
    assert torch.float64 not in recorder.dtypes
    of_products = {"exp", "logsumexp"}  # of probabilities, in ESMM: made of operators that MPS has
    assert recorder.operators - ON_MPS - ON_CPU_ONLY - of_products == set()


def test_the_optimizers_own_every_parameter_once(model, config):
    assigned = assign_optimizers(model, config.training)
    owned = [
        id(parameter)
        for item in assigned
        for group in item.optimizer.param_groups
        for parameter in group["params"]
    ]
    assert sorted(owned) == sorted(map(id, model.parameters()))
