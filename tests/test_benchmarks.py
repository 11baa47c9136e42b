"""The parts of `benchmarks/` that decide what a figure means; no speed is asserted here."""

import negatives as cost_of_negatives
import numpy as np
import ours
import pytest
import report
from floor import flops_per_row, layers, products
from micro import measure, negatives, ranking
from peers.measure import StepClock, Task
from textbook import learned
from torch import nn
from workloads import WORKLOADS, Workload, generate

from deepfm.preflight import check_settings

TINY = Workload("W1", 3, (20, 50), 0, 0, (8, 4), False, 0.0)
ROWS = 3 * 4096


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


def test_the_floor_counts_two_operations_per_weight():
    # 26 embeddings of 16 and 13 dense fields; 429 * 400 + 2 * 400 * 400 + 400 weights
    assert layers(WORKLOADS["W1"])[0] == (429, 400)
    assert flops_per_row(WORKLOADS["W1"]) == 2 * 492_000
    for name, workload in WORKLOADS.items():
        forward, backward = products(workload, rows=2)
        assert len(backward) == 2 * len(forward) == 2 * (len(workload.hidden) + 1), name
        for call in forward + backward:
            call()


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


def line(peer, role, rows_per_s, *, flops=100, repeat=0, **more):
    speeds = {
        f"{what}_{clock}rows_per_s": rows_per_s * factor
        for what, factor in (("train", 1), ("score", 4))
        for clock in ("", "cpu_")
    }
    place = {"peer": peer, "role": role, "workload": "W1", "threads": 1, "repeat": repeat}
    return place | speeds | {"flops_per_row": flops} | more


RECORDS = [
    line("floor", "floor", 1000),
    line("deepfm adam", "ours", 700, peak_memory_mb=10, auc=0.75, parameters=1234),
    line("deepfm adam", "ours", 900, peak_memory_mb=12, repeat=1, auc=0.75, parameters=1234),
    line("fast", "peer", 400),
    line("large", "peer", 250, flops=200),
    line("kernels", "reference", 950),
    {"peer": "lost", "role": "peer", "workload": "W1", "threads": 1, "error": "no | such thing"},
]


def test_ratios_are_against_the_floor_and_the_best_peer():
    (panel,) = report.panels(RECORDS, clock="wall")
    engines = {engine.name: engine for engine in panel.engines}
    mine = engines["deepfm adam"]
    assert mine.train == (800, 700, 900)
    assert mine.train_quotients == pytest.approx((0.8, 800 / 400, 800 * 100 / (250 * 200)))
    assert mine.score_quotients == pytest.approx(mine.train_quotients)
    assert mine.details["peak_memory_mb"] == 12
    assert engines["large"].train_quotients == pytest.approx((0.25, 250 / 400, 1.0))
    assert engines["lost"].train is None
    assert engines["lost"].error == "no | such thing"


def test_the_table_has_a_row_per_engine_failed_ones_too():
    (panel,) = report.panels(RECORDS, clock="cpu")
    rows = report.table(panel)
    assert len(rows) == 2 + 6
    assert rows[3].startswith("| **deepfm adam** | 800 (700-900) | 80% | 2.00 | 1.60 | 3,200 ")
    assert "failed: no \\| such thing" in rows[-1]
    assert len({row.replace("\\|", "").count("|") for row in rows}) == 1


def test_without_peers_there_are_no_ratios():
    (panel,) = report.panels(RECORDS[:3], clock="wall")
    assert panel.engines[1].train_quotients == (0.8, None, None)


def test_the_report_of_a_run():
    results = {
        "date": "2000-01-01",
        "command": "python benchmarks/run.py",
        "machine": {"CPU": "abacus", "GPU": None},
        "clock": "wall",
        "repeats": 2,
        "learning": {"auc": {"adam": {"ours": [0.7, 0.8], "textbook": [0.7, 0.7]}}},
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
    assert "| adam | 0.7500 (0.7000, 0.8000) | 0.7000 (0.7000, 0.7000) |" in text
    assert "## W1, 1 thread\n" in text
    assert "| ranking | 1 | plain | 2 | 0.25 of it |" in text


def test_negatives_are_compared_on_one_model():
    configs = [cost_of_negatives.config_of(way, "nowhere") for way in cost_of_negatives.WAYS]
    assert len({str(config.model) for config in configs}) == 1
    for config in configs:
        check_settings(config)
    assert [config.data.num_neg_train for config in configs] == [4, 16, 1024, 1024]
