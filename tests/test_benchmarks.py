"""The parts of `benchmarks/` that decide what a figure means; no speed is asserted here."""

import os
from argparse import Namespace
from pathlib import Path

import figures
import negatives as cost_of_negatives
import numpy as np
import ours
import pytest
import report
import serve_memory
import torch
from drivers import drivers
from floor import DTYPES, flops_per_row, layers, libraries, products, products_of
from floor import measure as measure_floor
from headlines import headlines
from micro import measure, negatives, ranking
from models import commands
from peers import environments
from peers.measure import StepClock, Task, check_device
from peers.variants import VARIANTS, adam, autocast, medium_is_float32, precision_of
from textbook import learned
from textbook_pairs import MODELS as TEXTBOOK_MODELS
from textbook_pairs import Textbook
from torch import nn
from workloads import WORKLOADS, Workload, generate

from deepfm.models import build_model
from deepfm.prediction import Predictor
from deepfm.preflight import check_settings

TINY = Workload("W1", 3, (20, 50), 0, 0, (8, 4), False, 0.0)
ROWS = 3 * 4096


@pytest.mark.parametrize(
    ("name", "peer", "against"),
    [("fm", False, "textbook"), ("fcn", False, "floor"), ("dcn_v2", True, "peer")],
)
def test_what_a_model_is_compared_with(name, peer, against):
    options = {"precision": "fp32", "dense": "raw", "rows": 1, "peer": peer}
    found = commands(name, Namespace(**options))
    assert list(found) == ["ours", against]
    assert Path(found[against][1]).exists()


@pytest.fixture(scope="module")
def task():
    return Task(TINY, generate(TINY, ROWS), generate(TINY, 500), epochs=1)


@pytest.mark.parametrize("name", ["W1", "W3"])
def test_a_workload_is_the_same_every_time_and_keeps_id_0_free(name):
    workload = WORKLOADS[name]
    first, second = generate(workload, 64), generate(workload, 64)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert first.sparse.min() >= 1
    assert (first.sparse.max(0) <= workload.cardinalities).all()
    if workload.sequence_length:
        np.testing.assert_array_equal((first.sequence > 0).sum(1), first.lengths)


def test_a_stretched_workload_has_the_same_rows_in_larger_tables():
    plain, stretched = (generate(WORKLOADS[name], 64) for name in ("W1", "W1-spread"))
    np.testing.assert_array_equal(stretched.sparse, 50 * plain.sparse)
    np.testing.assert_array_equal(stretched.label, plain.label)
    sizes, larger = (WORKLOADS[name].vocabulary_sizes for name in ("W1", "W1-spread"))
    assert [50 * (size - 1) + 1 for size in sizes] == larger
    assert (stretched.sparse.max(0) < larger).all()


def test_the_floor_counts_two_operations_per_weight():
    # 26 embeddings of 16 and 13 dense fields; 429 * 400 + 2 * 400 * 400 + 400 weights
    assert layers(WORKLOADS["W1"])[0] == (429, 400)
    assert flops_per_row(WORKLOADS["W1"]) == 2 * 492_000
    for name, workload in WORKLOADS.items():
        for precision, dtype in DTYPES.items():
            forward, backward = products(workload, rows=2, precision=precision)
            assert len(backward) == 2 * len(forward) == 2 * (len(workload.hidden) + 1), name
            assert {call().dtype for call in forward + backward} == {dtype}


def test_the_floor_of_a_model_has_the_products_of_its_own_step():
    forward, backward, scoring = products_of("deepfm", TINY, rows=64)
    flops = [sum(p.flops for p in part) for part in (forward, backward, scoring)]
    of_dnn = 64 * flops_per_row(TINY)
    assert flops == [of_dnn, 2 * of_dnn, of_dnn]
    width, cross_layers = layers(TINY)[0][0], 2
    of_cross = 64 * 2 * (cross_layers * width * width + width)
    forward, _, scoring = products_of("dcn_v2", TINY, rows=64)
    assert sum(p.flops for p in forward) == of_dnn + of_cross
    assert sum(p.flops for p in scoring) == of_dnn + of_cross
    for product in products_of("fwfm", TINY, rows=64)[1]:  # transposed operands too
        found = product.call(torch.float32, "cpu")()
        assert found.shape[-2:] == (product.left.shape[-2], product.right.shape[-1])


@pytest.mark.parametrize("name", TEXTBOOK_MODELS)
def test_the_textbook_computes_what_ours_does(name, task):
    schema = ours.schema_of(TINY)
    model = build_model(schema, ours.config_of(TINY, "lazy_adam", model=name))
    textbook = Textbook(name, TINY)
    with torch.no_grad():
        if name == "fwfm":
            textbook.strengths.fill_(-2.0)
            model.pairs.strengths.fill_(-2.0)
        model.embedding.dense_first_order.copy_(textbook.linear.normal_())
        for kind, suffix in ((textbook.tables or (), ""), (textbook.first_order, "_wide")):
            for k, table in enumerate(kind):
                table.weight.copy_(model.state_dict()[f"embedding.tables.s{k}{suffix}.weight"])
    inputs = ours.dataset_of(schema, task.score).inputs
    torch.testing.assert_close(textbook(inputs), model(inputs))


def test_the_floor_measures_each_library_and_leaves_none_out():
    before = torch.get_float32_matmul_precision()
    try:
        used = []
        taken = measure_floor(
            [lambda: used.append(torch.get_float32_matmul_precision())],
            {"one": "highest", "other": "medium"},
            "cpu",
        )
    finally:
        torch.set_float32_matmul_precision(before)
    assert set(taken) == {"one", "other"}
    assert used[:4] == ["highest", "medium", "highest", "medium"]  # in turns
    assert list(libraries("bf16", "cpu")) == ["oneDNN"]
    assert "MKL" in libraries("fp32", "cpu")


def test_medium_products_count_as_float32_only_where_they_are(monkeypatch):
    assert medium_is_float32() in (True, False)
    real, before = torch.Tensor.__matmul__, torch.get_float32_matmul_precision()

    def rounded(left, right):
        if left.dtype == torch.float64:
            return real(left, right)
        return real(left.bfloat16(), right.bfloat16()).float()

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    assert not medium_is_float32()
    assert torch.get_float32_matmul_precision() == before
    assert libraries("fp32", "cpu") == {"MKL": "highest"}


def test_a_peer_in_bf16_returns_float32_from_products_in_bf16():
    model = nn.Linear(3, 1)
    inside = []
    model.register_forward_hook(lambda module, inputs, output: inside.append(output.dtype))

    class Peer(nn.Module):
        def forward(self, x):
            return {"y_pred": model(x), "rows": len(x)}

    peer = Peer()
    autocast(peer, "cpu")
    found = peer(torch.ones(2, 3))
    assert inside == [torch.bfloat16]
    assert found["y_pred"].dtype == torch.float32
    assert found["rows"] == 2
    found["y_pred"].sum().backward()
    torch.testing.assert_close(model.weight.grad, torch.full((1, 3), 2.0))
    assert not torch.is_autocast_enabled("cpu")


def test_a_peer_at_its_best_has_a_fused_adam():
    fused = {v: adam(nn.Linear(1, 1).parameters(), v, lr=1.0).defaults["fused"] for v in VARIANTS}
    assert fused == {"shipped": None, "best": True, "bf16": True}


def test_a_device_that_is_not_there_is_an_error():
    with pytest.raises(SystemExit, match=r"torchfm is measured on cpu only, not on cuda"):
        check_device("cuda", ("cpu",), "torchfm")
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="finds no CUDA device"):
            check_device("cuda", ("cpu", "cuda"), "deepfm")


def test_only_the_peers_asked_for_are_built(tmp_path, monkeypatch, capsys):
    built = []
    monkeypatch.setattr(environments, "ENVIRONMENTS", tmp_path)
    monkeypatch.setattr(environments, "find_uv", lambda: "uv")

    def install(command, **options):
        built.append(command)
        (tmp_path / "torchfm").mkdir(exist_ok=True)

    monkeypatch.setattr(environments.subprocess, "run", install)
    assert environments.create_all(["torchfm"]) == []
    assert len(built) == 2
    assert all(str(tmp_path / "torchfm") in " ".join(command) for command in built)
    assert environments.create_all(["torchfm"]) == []
    assert len(built) == 2
    assert "torchfm: ready" in capsys.readouterr().out
    assert environments.folder_of("fbgemm", "cuda") == tmp_path / "fbgemm-cuda"
    assert environments.folder_of("torchfm", "cuda") == tmp_path / "torchfm"


def test_a_peer_of_the_server_is_none_of_training():
    assert not environments.SERVERS.keys() & environments.REQUIREMENTS.keys()
    for peer in (*environments.SERVERS, *environments.REQUIREMENTS):
        assert environments.driver_of(peer).is_file()


def test_the_model_of_the_servers_memory_answers_and_what_is_held_adds_up(tmp_path):
    path = serve_memory.write_checkpoint(tmp_path, rows=1000)
    (found,) = Predictor(path).predict([{"user": "u1", "item": "i1"}])
    assert 0 < found < 1
    held = serve_memory.memory_of(os.getpid())
    assert 0 < held["written"] <= held["private"] <= held["pss"]


def test_every_engine_is_measured_in_each_of_its_ways():
    found = drivers(["recbole", "fbgemm"], ["lazy_adam"], ["fp32", "bf16"], "cpu")
    assert [(driver.name, driver.once) for driver in found] == [
        ("floor fp32", False),
        ("floor bf16", False),
        ("deepfm lazy_adam fp32", False),
        ("deepfm lazy_adam bf16", False),
        ("recbole, as shipped", True),
        ("recbole, at its best", False),
        ("recbole, bf16", False),
        ("fbgemm, at its best", False),
        ("fbgemm, bf16", False),
    ]
    for driver in found:
        assert driver.precision in driver.command or driver.role in (
            figures.PEER,
            figures.REFERENCE,
        )
        if driver.role == figures.PEER:
            variant = driver.command[driver.command.index("--variant") + 1]
            assert driver.precision == precision_of(variant)
    only = drivers(["recbole"], ["adam"], ["bf16"], "cpu")
    assert [driver.name for driver in only] == ["floor bf16", "deepfm adam bf16", "recbole, bf16"]


def test_the_floor_counts_the_same_dnn_as_ours(task):
    linear = [m for m in ours.prepare(task, "adam").model.modules() if isinstance(m, nn.Linear)]
    assert layers(TINY) == [(m.in_features, m.out_features) for m in linear]


@pytest.mark.parametrize("optimizer", ours.OPTIMIZERS)
def test_ours_trains_and_scores_and_a_step_counts_once(task, optimizer):
    prepared = ours.prepare(task, optimizer)
    with StepClock() as clock:
        prepared.fit()
    assert len(clock.times) == 3
    probability = prepared.predict()
    assert probability.shape == (500,)
    assert ((probability > 0) & (probability < 1)).all()


@pytest.mark.parametrize(("optimizer", "close"), [("adam", 1e-5), ("lazy_adam", 1e-4)])
def test_ours_learns_what_the_textbook_learns(task, optimizer, close):
    mine, textbook = learned(task, optimizer, seed=1)
    np.testing.assert_allclose(mine, textbook, atol=close)
    assert mine.std() > 100 * close


def test_ways_of_ranking_agree_and_negatives_are_unknown():
    measured = measure(ranking(users=3, candidates=7), repeats=1)
    assert set(measured) >= {"ours", "flat batches"}
    for seconds in measured.values():
        ratio = measured["ours"]["cpu_s"] / seconds["cpu_s"]
        assert seconds["ours_takes"] == pytest.approx(ratio, rel=0.1)
    drawn = [np.array(way.run()) for way in negatives(positives=50)]
    assert [array.shape for array in drawn] == [(50, 4), (50, 4)]


def line(peer, role, rows_per_s, *, precision="fp32", flops=100, repeat=0, **more):
    speeds = {
        f"{what}_{clock}rows_per_s": rows_per_s * factor
        for what, factor in (("train", 1), ("score", 4))
        for clock in ("", "cpu_")
    }
    place = {"peer": peer, "engine": peer.partition(",")[0], "role": role, "precision": precision}
    place |= {"workload": "W1", "threads": 1, "repeat": repeat}
    return place | speeds | {"flops_per_row": flops} | more


LAZY = {"engine": "deepfm lazy_adam", "auc": 0.75}
BF16 = {"precision": "bf16"}
LOST = {"peer": "lost", "engine": "lost", "role": "peer", "precision": "fp32", "workload": "W1"}
RECORDS = [
    line("floor fp32", "floor", 1000),
    line("floor bf16", "floor", 2000, **BF16),
    line("deepfm lazy_adam fp32", "ours", 700, peak_memory_mb=10, parameters=1234, **LAZY),
    line("deepfm lazy_adam fp32", "ours", 900, peak_memory_mb=12, repeat=1, **LAZY),
    line("deepfm adam fp32", "ours", 600, engine="deepfm adam", auc=0.75),
    line("deepfm lazy_adam bf16", "ours", 1500, **BF16, **LAZY),
    line("fast, at its best", "peer", 400, auc=0.75),
    line("fast, bf16", "peer", 1200, **BF16, auc=0.74),
    line("large, at its best", "peer", 250, flops=200, auc=0.74),
    line("large, bf16", "peer", 500, flops=200, **BF16, auc=0.738),
    line("kernels, at its best", "reference", 950),
    LOST | {"threads": 1, "error": "no | such thing"},
]


def test_ratios_are_against_the_floor_and_the_best_peer_of_the_same_precision():
    (panel,) = figures.panels(RECORDS, clock="wall")
    engines = {engine.name: engine for engine in panel.engines}
    mine = engines["deepfm lazy_adam fp32"]
    assert mine.train == (800, 700, 900)
    assert mine.train_quotients == pytest.approx((0.8, 800 / 400, 800 * 100 / (250 * 200)))
    assert mine.score_quotients == pytest.approx(mine.train_quotients)
    assert mine.details["peak_memory_mb"] == 12
    assert engines["large, at its best"].train_quotients == pytest.approx((0.25, 250 / 400, 1.0))
    # the faster peer learns less in bf16, by more than what a run's AUC varies
    assert [e.name for e in panel.engines if e.learns_less] == ["fast, bf16"]
    half = engines["deepfm lazy_adam bf16"].train_quotients
    assert half == pytest.approx((0.75, 1500 / 500, 1500 / 1000))
    assert engines["lost"].train is None
    assert engines["lost"].error == "no | such thing"


def test_headlines_compare_one_precision_and_mark_what_does_not():
    (panel,) = figures.panels(RECORDS, clock="wall")
    found = {what: (train, score) for what, train, score in headlines(panel)}
    assert found == {
        "deepfm lazy_adam fp32 over fast, at its best": (2.0, 2.0),
        "deepfm lazy_adam fp32 over floor fp32": (0.8, 0.8),
        "deepfm adam fp32 over fast, at its best": (1.5, 1.5),
        "deepfm adam fp32 over floor fp32": (0.6, 0.6),
        "deepfm lazy_adam bf16 over large, bf16": (3.0, 3.0),
        "deepfm lazy_adam bf16 over floor bf16": (0.75, 0.75),
        "(unequal precision) deepfm lazy_adam bf16 over fast, at its best": (3.75, 3.75),
        "(unequal precision) deepfm lazy_adam bf16 over floor fp32": (1.5, 1.5),
    }


def test_the_fastest_in_training_need_not_be_the_fastest_in_scoring():
    trains, scores = line("trains", "peer", 300), line("scores", "peer", 200)
    scores |= {"score_rows_per_s": 2000}
    (panel,) = figures.panels([line("ours", "ours", 600), trains, scores], clock="wall")
    assert headlines(panel) == [("ours over trains / scores", 2.0, 1.2)]


def test_a_headline_says_where_ours_learns_less():
    records = [
        line("ours fp32", "ours", 1, engine="ours", auc=0.8),
        line("ours bf16", "ours", 3, engine="ours", auc=0.79, **BF16),
        line("floor", "floor", 4, **BF16),
    ]
    (panel,) = figures.panels(records, clock="wall")
    assert headlines(panel) == [("ours bf16 (learns less) over floor", 0.75, 0.75)]


def test_the_table_has_a_row_per_engine_failed_ones_too():
    (panel,) = figures.panels(RECORDS, clock="cpu")
    rows = report.table(panel)
    assert len(rows) == 2 + 11
    mine = "| **deepfm lazy_adam fp32** | fp32 | 800 (700-900) | 80% | 2.00 | 1.60 | 3,200 "
    assert rows[4].startswith(mine)
    assert "| fast, bf16 (learns less) | bf16 | 1,200 " in "\n".join(rows)
    assert "failed: no \\| such thing" in rows[-1]
    assert len({row.replace("\\|", "").count("|") for row in rows}) == 1


def test_without_peers_there_are_no_ratios():
    (panel,) = figures.panels(RECORDS[:4], clock="wall")
    assert panel.engines[2].train_quotients == (0.8, None, None)
    assert [headline.what for headline in headlines(panel)] == [
        "deepfm lazy_adam fp32 over floor fp32"
    ]


def test_the_report_of_a_run():
    learned_aucs = {
        "adam": {"ours": [0.7, 0.8], "textbook": [0.7, 0.7]},
        "lazy_adam": {"ours": [0.7], "textbook": [0.7], "ours in bf16": [0.71]},
    }
    results = {
        "date": "2000-01-01",
        "command": "python benchmarks/run.py",
        "machine": {"CPU": "abacus", "GPU": None},
        "clock": "wall",
        "repeats": 2,
        "learning": {"auc": learned_aucs},
        "records": RECORDS,
        "micro": [
            {
                "task": "ranking",
                "threads": 1,
                "ways": {"ours": {"wall_s": 0.5, "cpu_s": 0.5}, "plain": {"wall_s": 2, "cpu_s": 2}},
            }
        ],
    }
    text = report.markdown(results)
    assert "- CPU: abacus" in text
    assert "GPU" not in text
    assert "| adam | ours | 0.7500 | 0.7000, 0.8000 |" in text
    assert "| lazy_adam | ours in bf16 | 0.7100 | 0.7100 |" in text
    assert "| W1, 1 thread | deepfm lazy_adam bf16 over large, bf16 | 3.00 | 3.00 |" in text
    assert "| engine | W1, 1 thread: train | of floor | score | AUC |" in text
    assert "| large, bf16 | 500 | 25% | 2,000 | 0.7380 |" in text
    assert "| lost | - | - | - | - |" in text
    assert "## W1, 1 thread\n" in text
    assert "| ranking | 1 | plain | 2 | 0.25 of it |" in text


def test_the_chart_has_a_bar_per_engine_and_a_line_per_floor(tmp_path):
    pytest.importorskip("matplotlib", reason="the extra `bench` is not installed")
    import chart

    panels = figures.panels(RECORDS, clock="wall")
    chart.draw(panels, tmp_path / "chart.png", caption="here")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_negatives_are_compared_on_one_model():
    configs = [cost_of_negatives.config_of(way, "nowhere") for way in cost_of_negatives.WAYS]
    assert len({str(config.model) for config in configs}) == 1
    for config in configs:
        check_settings(config)
    assert [config.data.num_neg_train for config in configs] == [4, 16, 1024, 1024]
