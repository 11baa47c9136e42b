"""Tables of runs that are there already: which are compared, and the test over seeds."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml

from deepfm import comparison
from deepfm.checkpoint import RunDirectory

LABEL = np.array([1, 0, 1, 0, 1, 0, 0, 1], dtype=np.float32)


@pytest.fixture
def compare(monkeypatch, tmp_path):
    """Compares configs whose runs consist of given probabilities.

    A config is (changes, runs): keys of its YAML, and per seed the probabilities of the rows.
    """
    monkeypatch.chdir(tmp_path)
    given = {}

    def finished(name, config, seed) -> RunDirectory:
        changes, runs = given[name]
        run = RunDirectory(comparison.FOLDER / f"{name}-{seed}")
        run.path.mkdir(parents=True, exist_ok=True)
        probability = np.asarray(runs[seed - config.seed], dtype=np.float64)
        first = changes.get("first_row", 0)
        rows = np.arange(first, first + len(probability))
        label = LABEL[: len(rows)]
        (column,) = config.task_list()[0].prediction_names()
        table = pa.table({"row": rows, "label": label, column: probability})
        run.write_table(run.predictions, table)
        split = changes.get("split", "test")
        figures = {"prior_correction": changes.get("prior_correction")}
        run.write_json(run.metrics, {"valid": figures, split: figures})
        if "above" in changes:
            counts = dict.fromkeys(("above", "above_99"), changes["above"])
            counts |= {key: [0] * len(changes["above"]) for key in ("tied", "tied_99")}
            run.write_table(run.ranks, pa.table(counts))
        return run

    monkeypatch.setattr(comparison, "_run", finished)

    def run_all(references=(), **configs) -> list[str]:
        paths = []
        for name, (changes, runs) in configs.items():
            given[name] = changes, runs
            path = tmp_path / f"{name}.yaml"
            path.write_text(yaml.safe_dump({"model_name": "deepfm"} | changes.get("config", {})))
            paths.append(str(path))
        seeds = min(len(runs) for _, runs in configs.values())
        monkeypatch.setattr(comparison, "_references", lambda config: list(references))
        lines = comparison.compare(paths, seeds=seeds, references=bool(references))
        assert (tmp_path / "outputs/compare/table.md").read_text() == "\n".join([*lines, ""])
        return lines

    return run_all


def cells(lines: list[str], name: str) -> list[list[str]]:
    """The rows of all tables that begin with a name."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return [row[1:] for row in rows if row and row[0] == name]


def auc(probability) -> float:
    pairs = [(p, n) for p in probability[LABEL > 0] for n in probability[LABEL == 0]]
    return sum((p > n) + (p == n) / 2 for p, n in pairs) / len(pairs)


def runs_of(seed: int, count: int, noise: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 1 / (1 + np.exp(-(2 * LABEL - 1 + noise * rng.normal(size=(count, len(LABEL))))))


@pytest.mark.parametrize("count", [2, 3])
def test_the_p_value_is_that_of_a_paired_t_test(compare, count):
    """Student's distribution has a closed form for one and for two degrees of freedom."""
    good, bad = runs_of(1, count, 0.3), runs_of(2, count, 3.0)
    lines = compare(good=({}, good), bad=({}, bad))
    loss = [-np.log(np.where(LABEL > 0, p, 1 - p)).mean(1) for p in (bad, good)]
    difference = loss[0] - loss[1]
    t = abs(difference.mean()) / (difference.std(ddof=1) / math.sqrt(count))
    p = 1 - 2 / math.pi * math.atan(t) if count == 2 else 1 - t / math.sqrt(t * t + 2)
    (means, _), (_, tests) = cells(lines, "good"), cells(lines, "bad")
    assert f"over {count} seeds" in "".join(lines)
    assert tests[1] == f"{difference.mean():+.4f} (p {p:.2g})"
    assert cells(lines, "good")[1] == ["best", "best"]
    values = np.array([auc(p) for p in good])
    assert means[:2] == [str(count), f"{values.mean():.4f} ± {values.std(ddof=1):.4f}"]


def test_runs_that_differ_in_no_seed_or_equally_in_all_have_no_p_value(compare):
    runs = runs_of(1, 3, 0.5)
    halved = np.where(LABEL > 0, runs / 2, 1 - (1 - runs) / 2)  # adds ln 2 to every loss
    lines = compare(one=({}, runs), two=({}, runs), three=({}, halved))
    assert "nan" not in "".join(lines).lower()
    assert cells(lines, "one")[1] == ["best", "best"]
    assert cells(lines, "two")[1] == ["equal in every seed", "equal in every seed"]
    assert cells(lines, "three")[1][1] == f"{math.log(2):+.4f} in every seed"


def test_scores_that_are_no_probabilities_have_an_auc_and_no_logloss(compare):
    scores = 20 * runs_of(1, 2, 0.5) - 10
    by_pairs = {"config": {"training": {"losses": "sampled_softmax"}}}
    lines = compare(scores=(by_pairs, scores), rows=({}, runs_of(2, 2, 0.5)))
    (means, *_) = cells(lines, "scores")
    values = np.array([auc(run) for run in scores])
    assert means[1] == f"{values.mean():.4f} ± {values.std(ddof=1):.4f}"
    assert means[2] == ""


def test_one_run_per_config_is_no_test_and_one_config_needs_none(compare):
    runs = runs_of(1, 1, 0.5)
    lines = compare(one=({}, runs), two=({}, runs))
    assert lines[-1].startswith("One run per config: no significance test")
    assert len(cells(lines, "one")) == 1
    lines = compare(one=({}, runs_of(1, 3, 0.5)))
    assert "significance" not in "".join(lines)
    assert "over 3 seeds" not in "".join(lines)


def test_runs_of_other_seeds_are_no_pairs(compare):
    lines = compare(
        good=({}, runs_of(1, 2, 0.1)), late=({"config": {"seed": 43}}, runs_of(2, 2, 3.0))
    )
    assert cells(lines, "late")[1] == ["other seeds", "other seeds"]


def test_without_a_ranking_task_there_are_two_columns(compare):
    runs = runs_of(1, 2, 0.5)
    lines = compare(one=({}, runs))
    assert cells(lines, "")[0] == ["runs", "AUC", "LogLoss"]
    lines = compare(one=({"above": [0, 20, 3]}, runs))
    (header, *_) = cells(lines, "")
    assert header == [
        "runs", "AUC", "LogLoss", "HR@10 of 100", "NDCG@10 of 100", "HR@10", "NDCG@10",
    ]  # fmt: skip
    assert cells(lines, "one")[0][3] == "0.6667 ± 0.0000"


def test_without_a_test_split_the_validation_split_is_compared_and_named(compare):
    runs = runs_of(1, 2, 0.5)
    lines = compare(one=({"split": "valid"}, runs), two=({"split": "valid"}, runs))
    assert lines[1] == (
        "movielens-100k, validation split, which chose the epochs (there is no test split)"
    )
    assert cells(lines, "two")[1] == ["equal in every seed", "equal in every seed"]


@pytest.mark.parametrize(
    "other",
    [{"first_row": 5}, {"split": "valid"}, {"config": {"evaluation": {"candidate_seed": 1}}}],
)
def test_runs_on_other_rows_are_in_another_table(compare, other):
    runs = runs_of(1, 2, 0.5)
    lines = compare(one=({}, runs), two=(other, runs), three=({}, runs))
    titles = [line for line in lines if line.startswith("movielens-100k")]
    assert len(titles) == len(set(titles)) == 2
    assert len(cells(lines, "two")) == 1  # nothing to test it against
    assert len(cells(lines, "three")) == 2


def test_tables_are_named_by_their_folder(compare):
    table = {"files": "a.csv", "valid_files": "b.csv", "label": "click"}
    table["fields"] = {"city": {"type": "sparse"}}
    data = {"dataset_name": "tabular", "data_dir": "clicks", "split_strategy": "predefined"}
    lines = compare(one=({"config": {"data": data | {"table": table}}}, runs_of(1, 1, 0.5)))
    assert lines[1] == "tabular in clicks, test split"


def test_log_loss_of_runs_with_sampled_negatives_is_that_after_the_prior_correction(compare):
    runs = runs_of(1, 2, 0.5)
    lines = compare(one=({"prior_correction": 1.5}, runs))
    logit = np.log(runs / (1 - runs)) + 1.5
    losses = np.log1p(np.exp(np.where(LABEL > 0, -logit, logit))).mean(axis=1)
    expected = f"{losses.mean():.4f} ± {losses.std(ddof=1):.4f}"
    assert cells(lines, "one")[0][2] == expected


def test_with_99_negatives_no_ranking_stands_twice(compare):
    changes = {"above": [0, 20, 3], "config": {"data": {"num_neg_eval": 99}}}
    lines = compare(one=(changes, runs_of(1, 2, 0.5)))
    (header, *_) = cells(lines, "")
    assert header == ["runs", "AUC", "LogLoss", "HR@10 of 100", "NDCG@10 of 100"]


def test_differences_to_the_best_simple_method_are_paired_by_user(compare):
    """A method that is worse by the same amount for every user has an interval of one point."""
    above = [0, 20, 3, 1]
    hits = np.array([[1.0, 0.0, 1.0, 1.0]])

    def method(name, values):
        per_user = {"HR@10": values, "NDCG@10": values / 2}
        return comparison.Result(name, (), np.arange(8), LABEL, LABEL[None], per_user)

    weak, strong = method("weak", hits - 0.5), method("strong", hits - 0.25)
    lines = compare([weak, strong], one=({"above": above}, runs_of(1, 2, 0.5)))
    header = next(line for line in lines if "HR@10, strong" in line)
    assert "NDCG@10, strong" in header
    assert cells(lines, "one")[-1][0] == "+0.2500 [0.250, 0.250]"


def test_below_the_runs_of_a_config_stands_the_mean_of_their_logits(compare):
    runs = runs_of(5, 3, 1.5)
    lines = compare(one=({}, runs))
    (figures,) = cells(lines, "one, mean of 3 seeds")
    mean = [sum(math.log(p / (1 - p)) for p in row) / 3 for row in runs.T]
    losses = [math.log1p(math.exp(-z if y else z)) for y, z in zip(LABEL, mean, strict=True)]
    assert figures[0] == "1"
    assert figures[1] == f"{auc(np.array(mean)):.4f}"
    assert figures[2] == f"{sum(losses) / len(losses):.4f}"
    assert not cells(compare(two=({}, runs[:1])), "two, mean of 1 seeds")


def test_logits_beyond_what_a_probability_can_say_are_read_as_they_are():
    table = pa.table({"probability": [1.0, 1.0], "logit": [41.0, 900.0]})
    assert comparison._logit(table).tolist() == [41.0, 900.0]
    assert comparison._logit(table.drop_columns(["logit"])).tolist() == [100.0, 100.0]
