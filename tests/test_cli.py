"""The command line on the small data set: outputs, exit codes, signals, one-line errors."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time

import pyarrow.csv
import pyarrow.parquet
import pytest
import yaml

from deepfm.cli import main
from deepfm.held_out import evaluate_checkpoint
from tests import tiny


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def trained(tiny_config, capsys, tmp_path):
    code, _, errors = run(capsys, "train", "--config", tiny_config())
    assert (code, errors) == (0, "")
    return tmp_path / "run"


def test_a_run_leaves_every_file(trained):
    names = {path.name for path in trained.iterdir()}
    assert names == {
        "config.yaml",
        "train.log",
        "history.jsonl",
        "metrics.json",
        "predictions.parquet",
        "ranks.parquet",
        "best_model.pt",
        "last.pt",
        "environment.json",
    }
    assert yaml.safe_load((trained / "config.yaml").read_text())["dnn"]["dropout"] == 0.1
    history = [json.loads(line) for line in (trained / "history.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    predictions = pyarrow.parquet.read_table(trained / "predictions.parquet")
    assert predictions.column_names == ["row", "label", "probability", "logit"]
    assert len(predictions) == tiny.NUM_USERS


def test_metrics_have_the_promised_keys_and_no_times(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    ranking = {f"{name}@{k}" for name in ("hr", "ndcg") for k in (5, 10, 20)}
    assert metrics.pop("protocol") == {
        "split": "leave_one_out",
        "candidates": "30 drawn, seed 0",
    }
    calibration = {
        f"{name}_prior_corrected{ending}"
        for name in ("ece", "calibration_ratio", "normalized_entropy")
        for ending in ("", "_interval")
    }
    assert set(metrics) == {"valid", "test"}
    for split in metrics.values():
        assert set(split) == {
            "auc", "logloss_prior_corrected", "base_rate_logloss", "prior_correction",
            "ranking_users", "ranking_99",
        } | ranking | calibration  # fmt: skip
        assert set(split["ranking_99"]) == ranking


def test_two_equal_runs_give_equal_files(tiny_config, capsys, tmp_path):
    for name in ("one", "two"):
        path = tiny_config(output_dir=str(tmp_path / name))
        assert run(capsys, "train", "--config", path)[0] == 0
    for name in ("metrics.json", "predictions.parquet", "ranks.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_log_file_holds_the_printed_lines(tiny_config, capsys, tmp_path):
    _, printed, _ = run(capsys, "train", "--config", tiny_config())
    logged = (tmp_path / "run" / "train.log").read_text().splitlines()
    assert [line.split(" ", 3)[3] for line in logged] == printed.splitlines()
    assert "epoch 1/3  train loss " in printed
    assert "ranking_99.ndcg@20" in printed
    assert "\r" not in printed


def test_evaluate_gives_the_metrics_of_the_run(trained, capsys):
    metrics = json.loads((trained / "metrics.json").read_text())
    for split in ("valid", "test"):
        code, printed, _ = run(
            capsys, "evaluate", "--checkpoint", trained / "best_model.pt", "--split", split
        )
        assert code == 0
        rows = dict(line.split() for line in printed.splitlines() if len(line.split()) == 2)
        assert rows["auc"] == f"{metrics[split]['auc']:.4f}"
        assert rows["ranking_99.ndcg@10"] == f"{metrics[split]['ranking_99']['ndcg@10']:.4f}"


def test_evaluate_takes_other_evaluation_settings_but_no_other_model(trained, capsys, tiny_config):
    checkpoint = trained / "best_model.pt"
    other = tiny_config(evaluation__candidate_seed=3, data__data_dir=str(trained))
    assert run(capsys, "evaluate", "--checkpoint", checkpoint, "--config", other)[0] == 0
    other = tiny_config(dnn__dropout=0.5)
    code, _, errors = run(capsys, "evaluate", "--checkpoint", checkpoint, "--config", other)
    assert code == 2
    assert "it also changes dnn.dropout (0.1 -> 0.5)" in errors


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_predict_writes_the_rows_with_their_probability(trained, capsys, tmp_path, ending):
    rows = tmp_path / "rows.csv"
    rows.write_text("item,user,note\n3,1,x\n4,2,\n")
    output = tmp_path / f"scores.{ending}"
    checkpoint = trained / "best_model.pt"
    code, printed, errors = run(
        capsys, "predict", "--checkpoint", checkpoint, "--input", rows, "--output", output
    )
    assert (code, printed, errors) == (0, f"2 rows scored into {output}\n", "")
    if ending == "parquet":
        table = pyarrow.parquet.read_table(output)
        assert table.column_names == ["item", "user", "note", "probability"]
        assert all(0 < p < 1 for p in table["probability"].to_pylist())


@pytest.mark.parametrize("kind", ["same", "link", "hard link", "checkpoint"])
def test_predict_never_writes_over_what_it_reads(trained, capsys, tmp_path, kind):
    rows, checkpoint = tmp_path / "rows.csv", tmp_path / "model.csv"
    rows.write_text("user,item\n1,2\n")
    (trained / "best_model.pt").rename(checkpoint)
    output = {"same": rows, "checkpoint": checkpoint}.get(kind, tmp_path / "link.csv")
    if kind == "link":
        output.symlink_to(rows)
    if kind == "hard link":
        output.hardlink_to(rows)
    arguments = ["--checkpoint", checkpoint, "--input", rows, "--output", output, "--overwrite"]
    before = output.read_bytes()
    code, _, errors = run(capsys, "predict", *arguments)
    assert (code, output.read_bytes()) == (2, before)
    assert f"--output {output} is the file of --" in errors


def test_predict_replaces_a_file_only_if_asked(trained, capsys, tmp_path):
    rows, output = tmp_path / "rows.csv", tmp_path / "precious.csv"
    rows.write_text("user,item\n1,2\n")
    output.write_text("precious")
    arguments = ["--checkpoint", trained / "best_model.pt", "--input", rows, "--output", output]
    code, _, errors = run(capsys, "predict", *arguments)
    assert (code, output.read_text()) == (2, "precious")
    assert errors.endswith("precious.csv exists already; --overwrite replaces it\n")
    assert run(capsys, "predict", *arguments, "--overwrite")[0] == 0
    assert "probability" in output.read_text()


def test_predict_refuses_weights_that_are_no_numbers(trained, capsys, tmp_path):
    import torch

    content = torch.load(trained / "best_model.pt", weights_only=True)
    content["model"]["bias"].fill_(float("nan"))
    torch.save(content, tmp_path / "nan.pt")
    (tmp_path / "rows.csv").write_text("user,item\n1,2\n")
    arguments = ["--input", tmp_path / "rows.csv", "--output", tmp_path / "scored.csv"]
    code, _, errors = run(capsys, "predict", "--checkpoint", tmp_path / "nan.pt", *arguments)
    assert code == 2
    assert "bias has a weight that is NaN or infinite" in errors
    assert not (tmp_path / "scored.csv").exists()


def test_predict_streams_a_compressed_file_and_writes_some_columns(trained, capsys, tmp_path):
    rows, output = tmp_path / "rows.tsv.gz", tmp_path / "scores.csv"
    count = 3000
    lines = [f"{k % 60}\t{k % 45}\tx\n" for k in range(count)]  # users 40 to 44 are unknown
    with gzip.open(rows, "wt") as file:
        file.write("item\tuser\tnote\n" + "".join(lines))
    arguments = ["--input", rows, "--output", output, "--columns", "user,note"]
    code, _, errors = run(capsys, "predict", "--checkpoint", trained / "best_model.pt", *arguments)
    assert (code, "rows.tsv.gz:42: field income, column income: " in errors) == (2, True)
    assert not [path for path in tmp_path.iterdir() if "scores" in path.name]  # temporary ones too
    with gzip.open(rows, "wt") as file:
        header = "item\tuser\tnote\tincome\tage\n"
        file.write(header + "".join(line[:-1] + "\t0.5\t30\n" for line in lines))
    code, printed, errors = run(
        capsys, "predict", "--checkpoint", trained / "best_model.pt", *arguments
    )
    unknown = sum(k % 45 >= 40 for k in range(count))
    expected = f"3,000 rows scored into {output}; unknown values: user {unknown}\n"
    assert (code, printed, errors) == (0, expected, "")
    table = pyarrow.csv.read_csv(output)
    assert table.column_names == ["user", "note", "probability"]
    assert table["user"].to_pylist() == [k % 45 for k in range(count)]


def test_recommend_prints_a_ranked_list_with_titles(trained, capsys):
    code, printed, errors = run(
        capsys, "recommend", "--checkpoint", trained / "best_model.pt", "--user", 5, "--top", 4
    )
    assert (code, errors) == (0, "")
    rows = [line.split(maxsplit=3) for line in printed.splitlines()]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    assert all(row[3] == f"Item {row[2]}" for row in rows)
    probabilities = [float(row[1]) for row in rows]
    assert probabilities == sorted(probabilities, reverse=True)


def test_compare_trains_once_and_tabulates(tiny_config, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    configs = [
        tiny_config("one", training__epochs=1),
        tiny_config("two", training__epochs=1, model_name="wide_and_deep"),
        tiny_config("absent", data__data_dir="nowhere"),
    ]
    arguments = ["compare", *configs, "--seeds", "2", "--references"]
    code, first, errors = run(capsys, *arguments)
    assert code == 0
    assert errors == "warning: absent is skipped: data_dir nowhere is not there\n"
    table = [line for line in first.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in table[2:22:2]] == [
        "one",
        "one, mean of 2 seeds",
        "two",
        "two, mean of 2 seeds",
        "popularity",
        "user_item_bias",
        "item_knn",
        "ease",
        "ials",
        "markov",
    ]
    assert "t test over 2 seeds" in first
    assert [line.split("|")[1].strip() for line in table[22:26]][2:] == ["one", "two"]
    beside = [line.split("|")[1].strip() for line in table[26:]][2:]
    assert beside == ["one", "one, mean of 2 seeds", "two", "two, mean of 2 seeds"]
    assert {path.name for path in (tmp_path / "outputs" / "compare").iterdir()} == {
        "one-42",
        "one-43",
        "two-42",
        "two-43",
        "table.md",
    }
    paths = [tmp_path / "outputs" / "compare" / f"one-{k}" / "best_model.pt" for k in (42, 43)]
    ranked = evaluate_checkpoint(paths)["test"]
    shown = [f"{ranked[name]:.4f}" for name in ("hr@10", "ndcg@10")]
    assert [cell.strip() for cell in table[4].split("|")[-3:-1]] == shown
    code, second, _ = run(capsys, *arguments)
    assert second.count("finished earlier") == 4
    assert [line for line in second.splitlines() if line.startswith("|")] == table


@pytest.mark.parametrize("model", ["deepfm", "xdeepfm", "attention_deepfm", "wide_and_deep"])
def test_a_profile_is_a_table_and_a_trace_and_no_run(tiny_config, capsys, tmp_path, model):
    config = tiny_config(model_name=model)
    code, printed, _ = run(capsys, "train", "--config", config, "--profile")
    assert code == 0
    names = [line.split()[0] for line in printed.splitlines()]
    parts = ["data", "embedding", "interaction", "dnn", "optimizer", "rest"]
    assert names == ["tiny:", "ms", *parts, "step", "trace"]
    assert "rows/s" in printed
    assert json.loads((tmp_path / "run" / "trace.json").read_text())["traceEvents"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["trace.json"]
    assert run(capsys, "train", "--config", config)[0] == 0


def test_a_profile_leaves_a_finished_run_as_it_is(trained, tiny_config, capsys):
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    assert run(capsys, "train", "--config", tiny_config(), "--profile")[0] == 0
    after = {path.name: path.read_bytes() for path in trained.iterdir()}
    assert after.pop("trace.json")
    assert after == before


def test_a_wrong_setting_of_a_profile_is_one_line(tiny_config, capsys, tmp_path):
    config = tiny_config(data__data_dir="nowhere")
    code, _, errors = run(capsys, "train", "--config", config, "--profile")
    assert (code, len(errors.splitlines())) == (2, 1)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").write_text("in the way")
    code, _, errors = run(capsys, "train", "--config", tiny_config(), "--profile")
    assert (code, len(errors.splitlines())) == (1, 1)
    assert "cannot be written" in errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_name": "deepmf"}, "model_name: unknown model 'deepmf'; did you mean 'deepfm'?"),
        (
            {"data__dataset_name": "tny"},
            "data.dataset_name: unknown name 'tny'; did you mean 'tiny'?",
        ),
        ({"device": "cuda9"}, "device: unknown device 'cuda9'; did you mean 'cuda'?"),
        ({"feature__embedding_dims": {"usr": 4}}, "no field 'usr'; did you mean 'user'?"),
        ({"data__label_threshold": 6}, "no training row has stars >= 6.0: nothing to train on"),
        ({"data__data_dir": "nowhere"}, "data_dir nowhere is not there"),
        ({"training__lr": "quick"}, "training.lr: expected a number, found 'quick'"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(
    tiny_config, capsys, tmp_path, changes, message
):
    code, _, errors = run(capsys, "train", "--config", tiny_config(**changes))
    assert code == 2
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_name": "deepmf"}, "model_name: unknown model"),
        ({"dnn__activation": "rleu"}, "dnn.activation: unknown activation 'rleu'"),
        ({"dnn__use_layer_norm": True}, "dnn.use_layer_norm: one norm per layer"),
        ({"attention__num_heads": 3, "model_name": "attention_deepfm"}, "attention.num_heads: 3"),
        ({"feature__init": "normal(x)"}, "feature.init: unknown initializer"),
        (
            {"training__sparse_optimizer": "lazy_adam", "feature__embedding_l2_scope": "table"},
            "training.sparse_optimizer: lazy_adam: it updates touched rows only, and "
            "feature.embedding_l2_scope: table decays every row",
        ),
    ],
)
def test_a_wrong_setting_of_the_model_costs_no_data(
    tiny_config, capsys, tmp_path, changes, message
):
    """The folder of the data is missing: an error about it would mean that it was looked for."""
    config = tiny_config(data__data_dir="nowhere", **changes)
    code, _, errors = run(capsys, "train", "--config", config)
    assert code == 2
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_diverging_run_is_one_line_and_exit_code_1(tiny_config, capsys, tmp_path):
    sgd = {"training__optimizer": "sgd", "training__lr": 1e30, "training__gradient_clip_norm": None}
    code, _, errors = run(capsys, "train", "--config", tiny_config(**sgd))
    assert code == 1
    assert "lower training.lr or set training.gradient_clip_norm" in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user,item\n1\n", "rows.csv:2: expected 2 columns, found 1"),
        ("usr,item\n1,2\n", "no column 'user', which identifies the user; did you mean 'usr'?"),
        (
            "user,item,age\n1,2,old\n",
            "rows.csv:2: field age, column age: expected a number, found 'old'",
        ),
        ("user,item,probability\n1,2,3\n", "has a column 'probability' already"),
    ],
)
def test_bad_rows_are_one_line(trained, capsys, tmp_path, content, message):
    rows, output = tmp_path / "rows.csv", tmp_path / "scores.csv"
    rows.write_text(content)
    checkpoint = trained / "best_model.pt"
    code, _, errors = run(
        capsys, "predict", "--checkpoint", checkpoint, "--input", rows, "--output", output
    )
    assert code == 2
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert not [path for path in tmp_path.iterdir() if "scores" in path.name]


def test_only_columns_of_the_input_can_be_written(trained, capsys, tmp_path):
    rows, output = tmp_path / "rows.csv", tmp_path / "scores.csv"
    rows.write_text("user,item,probability\n1,2,3\n")
    arguments = ["predict", "--checkpoint", trained / "best_model.pt", "--input", rows]
    code, _, errors = run(capsys, *arguments, "--output", output, "--columns", "user,itm")
    assert (code, "has no column 'itm'; did you mean 'item'?" in errors) == (2, True)
    assert run(capsys, *arguments, "--output", output, "--columns", "user")[0] == 0
    assert pyarrow.csv.read_csv(output).column_names == ["user", "probability"]


def spawn(config, *flags):
    command = [sys.executable, "-m", "tests.tiny", "train", "--config", str(config), *flags]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_for(path, child) -> None:
    """Until the file is there, however slow the machine; a process that ended cannot write it."""
    while not path.exists():
        assert child.poll() is None, child.communicate()
        time.sleep(0.01)


LONG = {"training__epochs": 12, "training__checkpoint_every_steps": 2, "training__batch_size": 16}


@pytest.fixture
def uninterrupted(tiny_config, capsys, tmp_path):
    config = tiny_config("whole", output_dir=str(tmp_path / "whole"), **LONG)
    assert run(capsys, "train", "--config", config)[0] == 0
    return tmp_path / "whole"


def assert_same_result(one, other):
    for name in ("metrics.json", "predictions.parquet"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    histories = [
        [
            json.loads(line) | {"seconds": 0}
            for line in (folder / "history.jsonl").read_text().splitlines()
        ]
        for folder in (one, other)
    ]
    assert histories[0] == histories[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_checkpoint_that_resume_continues(
    tiny_config, tmp_path, uninterrupted, capsys, number, code
):
    config = tiny_config(**LONG)
    child = spawn(config)
    wait_for(tmp_path / "run" / "last.pt", child)
    child.send_signal(number)
    _, errors = child.communicate()
    assert child.returncode == code
    assert errors == "warning: stopped and saved; train --resume, compare and tune go on\n"
    assert run(capsys, "train", "--config", config, "--resume")[0] == 0
    assert_same_result(tmp_path / "run", uninterrupted)


def test_a_run_killed_again_and_again_ends_the_same(tiny_config, tmp_path, uninterrupted, capsys):
    config, rng = tiny_config(**LONG), random.Random(3)
    last = tmp_path / "run" / "last.pt"
    for _ in range(4):
        child = spawn(config, "--resume")
        for _ in range(rng.randint(1, 20)):  # so many checkpoints later
            before = last.stat().st_mtime_ns if last.exists() else None
            while child.poll() is None and (not last.exists() or last.stat().st_mtime_ns == before):
                time.sleep(0.001)
        child.kill()
        child.communicate()
    assert run(capsys, "train", "--config", config, "--resume")[0] == 0
    assert_same_result(tmp_path / "run", uninterrupted)
    assert not list((tmp_path / "run").glob(".*"))


def test_describe_writes_a_config_that_trains(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"{k % 2},{'abc'[k % 3]},{k / 7}" for k in range(200)]
    (tmp_path / "clicks.csv").write_text("click,colour,price\n" + "\n".join(rows) + "\n")
    code, printed, errors = run(capsys, "describe", "clicks.csv")
    assert code == 0
    assert errors.startswith("warning: only about 80 training rows of the rarest class: ")
    assert "colour" in printed
    code, _, errors = run(capsys, "describe", "--data", "clicks.csv")
    assert code == 2
    assert errors == "error: clicks.yaml exists already; --output writes elsewhere\n"
    for arguments in ((), ("clicks.csv", "--data", "clicks.csv")):
        code, _, errors = run(capsys, "describe", *arguments)
        assert (code, errors) == (2, "error: describe: expected one file of rows, describe FILE\n")
    short = ["--override", "training.epochs=2", "training.batch_size=8"]
    assert run(capsys, "train", "--config", "clicks.yaml", *short)[0] == 0
    metrics = json.loads((tmp_path / "outputs" / "clicks" / "metrics.json").read_text())
    assert 0 <= metrics["test"]["auc"] <= 1


def write_clicks(folder, count=400):
    """Rows whose label hangs on the colour."""
    rng = random.Random(0)
    lines = ["click,colour,price"]
    for _ in range(count):
        colour = rng.choice("abc")
        lines.append(f"{int(rng.random() < {'a': 0.1, 'b': 0.4, 'c': 0.9}[colour])},{colour},"
                     f"{rng.random():.3f}")  # fmt: skip
    (folder / "clicks.csv").write_text("\n".join(lines) + "\n")


def test_describe_shows_what_simple_methods_reach(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_clicks(tmp_path)
    code, printed, _ = run(capsys, "describe", "--data", "clicks.csv", "--baseline")
    assert code == 0
    head, *rows = [line.split() for line in printed.splitlines()[-4:]]
    assert head == ["valid", "auc", "valid", "logloss", "test", "auc", "test", "logloss"]
    found = {" ".join(row[:-4]): [float(cell) for cell in row[-4:]] for row in rows}
    assert list(found) == ["base rate", "logistic regression", "boosting"]
    assert found["base rate"][2] == 0.5
    assert found["logistic regression"][2] > 0.7
    assert found["logistic regression"][3] < found["base rate"][3]


def test_compare_puts_simple_methods_beside_a_model_of_a_table(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_clicks(tmp_path)
    assert run(capsys, "describe", "--data", "clicks.csv")[0] == 0
    short = ["--override", "training.epochs=1", "training.batch_size=16"]
    code, printed, _ = run(capsys, "compare", "clicks.yaml", "--references", *short)
    assert code == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines()]
    found = {row[0]: row[1:] for row in rows if len(row) == 4 and row[0]}
    assert list(found)[-3:] == ["base rate", "logistic regression", "boosting"]
    assert found["base rate"][1] == "0.5000"
    table = pyarrow.parquet.read_table("outputs/compare/clicks-42/predictions.parquet")
    metrics = json.loads((tmp_path / "outputs/compare/clicks-42/metrics.json").read_text())
    assert found["base rate"][2] == f"{metrics['test']['base_rate_logloss']:.4f}"
    assert len(table) > 20


def test_a_model_that_is_worse_than_the_base_rate_is_warned_of(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_clicks(tmp_path)
    assert run(capsys, "describe", "--data", "clicks.csv")[0] == 0
    arguments = ["train", "--config", "clicks.yaml", "--overwrite", "--override"]
    good = ["training.batch_size=16", "training.epochs=12", "training.lr=0.02"]
    _, printed, errors = run(capsys, *arguments, *good)
    metrics = json.loads((tmp_path / "outputs/clicks/metrics.json").read_text())["test"]
    assert metrics["logloss"] < metrics["base_rate_logloss"]
    line = f"test: LogLoss {metrics['logloss']:.4f}, of the training base rate alone "
    assert line + f"{metrics['base_rate_logloss']:.4f}\n" in printed
    assert "worse than a constant" not in errors
    bad = ["training.batch_size=16", "training.epochs=1", "training.lr=3.0"]
    _, printed, errors = run(capsys, *arguments, *bad, "training.gradient_clip_norm=null")
    metrics = json.loads((tmp_path / "outputs/clicks/metrics.json").read_text())["test"]
    assert metrics["logloss"] > metrics["base_rate_logloss"]
    assert f"warning: test: LogLoss {metrics['logloss']:.4f}, of the training base rate" in errors
    assert "the model is worse than a constant" in errors


def test_compare_says_where_results_go(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert "outputs/compare" in capsys.readouterr().out


AT_THE_END = "import atexit; atexit.register(print, 'taken down'); from deepfm.cli import command; "


@pytest.mark.parametrize(("world", "ends_like_python"), [("1", True), ("2", False)])
def test_one_of_several_processes_ends_without_taking_python_down(world, ends_like_python):
    """All that it says arrives, and its exit code."""
    for arguments, code, said in (
        (["models", "lr"], 0, "lr"),
        (["describe", "nowhere.csv"], 2, "nowhere.csv"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", AT_THE_END + "command()", *arguments],
            capture_output=True, text=True, env=os.environ | {"WORLD_SIZE": world, "RANK": "0"},
        )  # fmt: skip
        assert said in done.stdout + done.stderr
        assert ("taken down" in done.stdout) is ends_like_python
        assert done.returncode == code
