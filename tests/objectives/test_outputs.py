"""What logits are called and become, by loss."""

import numpy as np
import pytest
import torch

from deepfm.config import config_from_dict
from deepfm.data.dataset import TabularDataset
from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.errors import ConfigError
from deepfm.models import build_model
from deepfm.objectives import LOSSES, Task


def specs(*names, num_class=1):
    return Task(objectives=tuple(LOSSES[name]() for name in names), num_class=num_class)


def named_outputs(logits, task):
    return task.outputs({"": logits})


def prediction(logits, task):
    return task.prediction({"": logits})


def predicted(logits, task):
    return task.predicted({"": logits})


def prediction_columns(values, task):
    return task.prediction_columns(values)


ONE = torch.tensor([0.2, 0.3])
TWO = torch.tensor([[0.2, 0.4], [0.3, 0.5]])
THREE = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, -1.0]])


@pytest.mark.parametrize("name", ["binary_cross_entropy", "binary_focal"])
def test_one_logit_is_a_probability(name):
    found = named_outputs(ONE, specs(name))
    assert set(found) == {"logits", "probs"}
    torch.testing.assert_close(found["probs"], torch.tensor([0.5498, 0.5744]), atol=1e-4, rtol=0)
    torch.testing.assert_close(prediction(ONE, specs(name)), found["probs"])


@pytest.mark.parametrize("name", ["softmax_cross_entropy", "jrc"])
def test_two_logits_give_the_probability_of_class_1(name):
    found = named_outputs(TWO, specs(name))
    assert set(found) == {"logits", "probs", "probs1"}
    expected = torch.tensor([[0.4502, 0.5498], [0.4502, 0.5498]])
    torch.testing.assert_close(found["probs"], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(prediction(TWO, specs(name)), found["probs1"])
    torch.testing.assert_close(found["probs1"], found["probs"][:, 1])


def test_three_logits_give_a_probability_each():
    found = named_outputs(THREE, specs("softmax_cross_entropy"))
    assert set(found) == {"logits", "probs"}
    torch.testing.assert_close(found["probs"].sum(1), torch.ones(2))
    torch.testing.assert_close(prediction(THREE, specs("softmax_cross_entropy")), found["probs"])


def test_l2_gives_the_number_itself_and_losses_together_all_they_give():
    assert torch.equal(named_outputs(ONE, specs("l2"))["y"], ONE)
    assert torch.equal(prediction(ONE, specs("l2")), ONE)
    both = named_outputs(ONE, specs("l2", "binary_cross_entropy"))
    assert set(both) == {"y", "logits", "probs"}
    assert torch.equal(prediction(ONE, specs("l2", "binary_cross_entropy")), both["probs"])


@pytest.mark.parametrize(
    ("logits", "name"),
    [(TWO, "binary_cross_entropy"), (TWO, "l2"), (ONE, "softmax_cross_entropy"), (ONE, "jrc")],
)
def test_logits_of_another_shape_are_refused(logits, name):
    with pytest.raises(ConfigError, match=rf"{name} needs logits .*got \({logits.shape[0]}"):
        named_outputs(logits, specs(name))


def test_small_probabilities_keep_their_digits():
    found = predicted(np.array([-40.0], np.float32), specs("binary_cross_entropy"))
    assert found[0] == pytest.approx(np.exp(-40.0), rel=1e-12)
    found = predicted(np.array([[40.0, 0.0, -1.0]], np.float32), specs("softmax_cross_entropy"))
    assert found.dtype == np.float64
    assert found[0, 1] == pytest.approx(np.exp(-40.0), rel=1e-12)


def test_columns_are_named_by_what_they_hold():
    values = np.array([0.25, 0.5])
    assert list(prediction_columns(values, specs("jrc"))) == ["probability"]
    assert list(prediction_columns(values, specs("l2"))) == ["prediction"]
    assert list(prediction_columns(values, specs("l2", "binary_focal"))) == ["probability"]
    classes = specs("softmax_cross_entropy", num_class=3)
    columns = prediction_columns(np.array([[0.1, 0.2, 0.7]]), classes)
    assert {name: float(v[0]) for name, v in columns.items()} == {
        "probability_0": 0.1,
        "probability_1": 0.2,
        "probability_2": 0.7,
    }


def test_a_model_predicts_what_its_losses_say():
    city = FieldSchema("city", "sparse", vocabulary_size=5)
    schema = DatasetSchema(fields={"city": city}, label_field="y")
    rows = TabularDataset.from_arrays(schema, {"city": [1, 2, 3, 4]}, [0, 1, 0, 1])
    for losses, expected in (("binary_focal", {"logits", "probs"}), ("l2", {"y"})):
        config = config_from_dict({"training": {"losses": losses}})
        model = build_model(schema, config).eval()
        outputs = model.outputs(rows.inputs)
        assert set(outputs) == expected
        assert all(output.requires_grad for output in outputs.values())
        name = "y" if losses == "l2" else "probs"
        assert torch.equal(model.predict(rows.inputs), outputs[name])


def test_log_odds_are_those_of_class_1_of_two():
    one = np.array([900.0, -900.0], np.float32)
    logits = {"": torch.from_numpy(one).double()}
    assert specs("binary_cross_entropy").log_odds(logits).tolist() == [900.0, -900.0]
    assert specs("binary_focal").log_odds(logits).tolist() == [900.0, -900.0]
    assert specs("l2").log_odds(logits) is None
    two = {"": torch.tensor([[1.0, 3.5], [80.0, -20.0]], dtype=torch.float64)}
    for name in ("softmax_cross_entropy", "jrc"):
        assert specs(name, num_class=2).log_odds(two).tolist() == [2.5, -100.0]
    three = {"": torch.zeros(2, 3)}
    assert specs("softmax_cross_entropy", num_class=3).log_odds(three) is None
