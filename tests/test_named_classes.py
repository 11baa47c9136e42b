"""Labels whose classes have names, or numbers that do not begin at 0."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import yaml

from deepfm import experiment
from deepfm.cli import main
from deepfm.config import config_from_dict, load_config
from deepfm.data.labels import class_label
from deepfm.errors import ConfigError, DataError
from deepfm.experiment import load_data

NAMES = ["low", "middle", "very high"]


def write_rows(path, label) -> np.ndarray:
    """Rows whose class follows from their city; returns its number."""
    rng = np.random.default_rng(0)
    city = rng.integers(0, 9, 500)
    number = np.where(rng.random(500) < 0.05, rng.integers(0, 3, 500), city % 3)
    table = pa.table({"city": city, "grade": pa.array([label[k] for k in number])})
    pa.csv.write_csv(table, path)
    return number


def write_config(folder, label: str, *, top: str = "", losses: str = "[softmax_cross_entropy]"):
    path = folder / "grades.yaml"
    path.write_text(
        f"""
{top}
device: cpu
output_dir: {folder}/run
data:
  dataset_name: tabular
  data_dir: {folder}
  store_dir: {folder}/stores
  split_strategy: random
  table:
    files: rows.csv
    label: grade
    labels: {{grade: {label}}}
    fields: {{city: {{type: sparse}}}}
dnn: {{hidden_units: [8]}}
training: {{losses: {losses}, metric: accuracy, epochs: 8, batch_size: 50, lr: 0.02}}
evaluation: {{metrics: [accuracy]}}
"""
    )
    return path


@pytest.mark.parametrize(
    ("values", "declared"),
    [
        (NAMES, "[low, middle, very high]"),
        ([1, 2, 3], "[1, 2, 3]"),
        ([-1, 0, 1], '["-1", 0, 1]'),
        (["yes", "no", "true"], '["yes", "no", "true"]'),
    ],
)
def test_classes_train_as_they_stand(tmp_path, capsys, values, declared):
    number = write_rows(tmp_path / "rows.csv", values)
    path = write_config(tmp_path, f"{{column: grade, kind: class, classes: {declared}}}")
    metrics = experiment.train(load_config(path))
    assert metrics["test"]["accuracy"] > 0.85
    columns = [f"probability_{value}" for value in values]
    written = pyarrow.parquet.read_table(tmp_path / "run" / "predictions.parquet")
    assert written.column_names == ["row", "label", *columns]
    np.testing.assert_array_equal(written["label"], number[written["row"].to_numpy()])

    scores = tmp_path / "scores.csv"
    best = tmp_path / "run" / "best_model.pt"
    predict = ["predict", "--checkpoint", best, "--input", tmp_path / "rows.csv"]
    assert main([str(part) for part in (*predict, "--output", scores)]) == 0, capsys.readouterr()
    table = pa.csv.read_csv(scores)
    likeliest = np.argmax([table[name].to_numpy() for name in columns], axis=0)
    assert (likeliest == number).mean() > 0.85


def test_values_are_found_by_their_text():
    label, bad = class_label(pa.array([3.0, 1.0, None, 4.0]), 3, ("1", "2", "3"))
    assert (label.tolist(), bad.tolist()) == ([2, 0, 0, 0], [False, False, True, True])
    coded = pa.array(["b", "a"]).dictionary_encode()
    assert class_label(coded, 2, ("a", "b"))[0].tolist() == [1, 0]


def test_of_two_named_classes_the_second_is_class_1(tmp_path):
    number = write_rows(tmp_path / "rows.csv", ["no", "no", "yes"])
    path = write_config(tmp_path, '{column: grade, kind: class, classes: ["no", "yes"]}')
    experiment.train(load_config(path))
    written = pyarrow.parquet.read_table(tmp_path / "run" / "predictions.parquet")
    is_yes = number[written["row"].to_numpy()] == 2
    probability = written["probability"].to_numpy()
    assert probability[is_yes].mean() > probability[~is_yes].mean() + 0.5


def test_a_value_that_is_no_class_is_an_error_with_its_line(tmp_path):
    write_rows(tmp_path / "rows.csv", [*NAMES[:2], "high"])
    path = write_config(tmp_path, "{column: grade, kind: class, classes: [low, middle, very high]}")
    expected = r"rows\.csv:\d+: column grade: expected one of the declared classes low, middle, "
    with pytest.raises(DataError, match=expected + "very high, found 'high'"):
        experiment.train(load_config(path))


@pytest.mark.parametrize(
    ("label", "top", "message"),
    [
        (
            "{column: grade, kind: class, classes: [a, b, c]}", "num_class: 4",
            r"num_class: the label grade has 3 classes, found 4; leave it out",
        ),
        ("{column: grade, classes: [a, b]}", "", "classes means nothing for .* kind binary"),
        ("{column: grade, kind: class, classes: [a]}", "", "classes: expected two or more"),
        ("{column: grade, kind: class, classes: [a, b, a]}", "", "classes: expected two or more"),
        (
            "{column: grade, kind: class, classes: [yes, no]}", "",
            r'grades\.yaml:\d+: .*classes: expected a text, found true, .* in "quotes"',
        ),
        ("{column: grade, positive: yes}", "", "positive: expected a text, found true, .*quotes"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(tmp_path, label, top, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write_config(tmp_path, label, top=top))


def test_a_written_config_reads_back_equal(tmp_path):
    path = write_config(tmp_path, "{column: grade, kind: class, classes: [1, 2, 3]}")
    config = load_config(path)
    assert config.data.table.labels["grade"].classes == ("1", "2", "3")
    assert config_from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config


def test_a_positive_value_that_never_occurs_is_an_error(tmp_path):
    write_rows(tmp_path / "rows.csv", ["no", "no", "yes"])
    path = write_config(
        tmp_path, '{column: grade, positive: "Yes"}', losses="[binary_cross_entropy]"
    )
    expected = r"data\.table\.labels\.grade\.positive: no training row has grade 'Yes'"
    with pytest.raises(ConfigError, match=expected):
        load_data(load_config(path))
    path.write_text(path.read_text().replace("Yes", "yes"))
    assert load_data(load_config(path)).train.label.unique().tolist() == [0, 1]
