"""What the server answers, by its application in this process."""

import asyncio
import json
import subprocess
import sys

import numpy as np
import orjson
import pytest

from deepfm import experiment
from deepfm.checkpoint import RunDirectory
from deepfm.config import load_config
from deepfm.data.served_rows import columns_read
from deepfm.errors import DataError
from deepfm.export.exporting import export
from deepfm.prediction import Predictor
from deepfm.serving.counters import Counters, Name, totals
from deepfm.serving.models import load
from tests import tiny
from tests.serving.engines import Slow, asked, served


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepfm.data.ADAPTERS", {"tiny": tiny})
        config = load_config(
            tiny.write_config(tmp_path_factory.mktemp("served"), training__epochs=1)
        )
        experiment.train(config)
    return RunDirectory(config.output_dir).best


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return Predictor(checkpoint)


@pytest.fixture(scope="module")
def model(predictor):
    example = {"user": 1, "item": 2}
    found = served(predictor, columns=frozenset(columns_read(predictor.schema)))
    return found._replace(example=example, listed={"user": 1})


def run(test, *arguments, **options):
    """Ask a server, in an event loop of its own."""

    async def ask():
        async with asked(*arguments, **options) as given:
            return await test(*given)

    return asyncio.run(ask())


ROWS = [{"user": k % 40, "item": (7 * k) % 60} for k in range(30)]


def test_rows_and_columns_get_what_predict_gives(model, predictor, tmp_path):
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}

    async def ask(client, *_):
        return [
            await client.post("/v1/predict", json=body)
            for body in ({"rows": ROWS}, {"columns": columns}, {"rows": ROWS[:1]})
        ]

    rows, by_column, one = run(ask, model, tmp_path)
    expected = predictor.predict(ROWS)
    assert rows.status_code == 200
    assert rows.json() == by_column.json()
    assert rows.json()["rows"] == 30
    assert rows.json()["version"] == rows.headers["x-model-version"] == "v1"
    np.testing.assert_allclose(rows.json()["predictions"]["probability"], expected, rtol=1e-6)
    np.testing.assert_allclose(one.json()["predictions"]["probability"], expected[:1], rtol=1e-6)


def test_requests_at_once_get_their_own_rows_whatever_columns_they_bring(
    model, predictor, tmp_path
):
    requests = [[{**row, "age": 33}] if k % 3 else [row] for k, row in enumerate(ROWS)]

    async def ask(client, *_):
        return await asyncio.gather(
            *(client.post("/v1/predict", json={"rows": rows}) for rows in requests)
        )

    answers = run(ask, model, tmp_path)
    for rows, answer in zip(requests, answers, strict=True):
        found = answer.json()["predictions"]["probability"]
        np.testing.assert_allclose(found, predictor.predict(rows), rtol=1e-5)


def test_a_bad_request_names_row_and_field_and_fails_alone(model, predictor, tmp_path):
    bad = [*ROWS[:5], {"user": 1, "item": 2, "income": "much"}, *ROWS[:3]]
    good = [[{**row, "income": 0.5}] for row in ROWS]

    async def ask(client, *_):
        bodies = [*good[:9], [{**row, "income": 0.5} | row for row in bad], *good[9:]]
        return await asyncio.gather(
            *(client.post("/v1/predict", json={"rows": rows}) for rows in bodies)
        )

    answers = run(ask, model, tmp_path)
    (refused,) = [answer for answer in answers if answer.status_code != 200]
    assert len(answers) == 31
    error = refused.json()["error"]
    assert (refused.status_code, error["row"], error["field"]) == (422, 6, "income")
    assert "'much'" in error["message"]


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"user": "x", "item": 1}, {"row": 3, "field": "user", "column": "user"}),
        ({"user": {"a": 1}, "item": 1}, {"row": 3, "field": "user", "column": "user"}),
        ({"user": 999, "item": 1}, {"row": 3, "field": "income", "column": "income"}),
        ({"user": 1, "item": 2**63}, {"row": 3, "field": "item", "column": "item"}),
        (7, {"row": 3}),
    ],
)
def test_the_row_of_a_mistake_is_found(model, tmp_path, row, named):
    async def ask(client, *_):
        return await client.post("/v1/predict", json={"rows": [*ROWS[:2], row, *ROWS[:2]]})

    answer = run(ask, model, tmp_path)
    error = answer.json()["error"]
    assert answer.status_code == 422, error
    assert {name: error.get(name) for name in named} == named


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400), (b"{", 400), (b"[]", 400), (b"{}", 400), (b"\xff", 400), (b"null", 400),
        (b'{"rows": []}', 400), (b'{"rows": 3}', 400), (b'{"rows": [], "columns": {}}', 400),
        (b'{"columns": {"user": 1}}', 422), (b'{"columns": {"user": [1], "item": []}}', 422),
        (b'{"rows": [{}]}', 422), (b'{"rows": [{"user": NaN}]}', 400),
        (b"[" * 100_000, 400),
    ],
)  # fmt: skip
def test_what_are_no_rows_is_refused(model, tmp_path, body, status):
    async def ask(client, *_):
        return await client.post("/v1/predict", content=body)

    answer = run(ask, model, tmp_path)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_too_large_a_body_is_refused_also_in_pieces(model, tmp_path):
    async def pieces():
        for _ in range(50):
            yield b" " * 100

    async def ask(client, *_):
        return [
            await client.post("/v1/predict", content=content)
            for content in (b" " * 5000, pieces(), orjson.dumps({"rows": ROWS[:3]}))
        ]

    whole, cut, rows = run(ask, model, tmp_path, max_body=4000, max_rows=2)
    assert [answer.status_code for answer in (whole, cut, rows)] == [413, 413, 413]
    assert "found 5,000" in whole.json()["error"]["message"]
    assert "at most 2 rows, found 3" in rows.json()["error"]["message"]


def test_a_list_is_what_recommend_gives(model, predictor, tmp_path):
    bodies = [
        {"user": 5, "top": 4},
        {"user": 5, "candidates": [1, 2, 3], "exclude": [2]},
        {"user": "5", "top": 2, "context": {"age": 60}, "exclude": None},
    ]

    async def ask(client, *_):
        return [await client.post("/v1/recommend", json=body) for body in bodies]

    answers = run(ask, model, tmp_path)
    expected = [
        predictor.recommend(5, top=4),
        predictor.recommend(5, candidates=[1, 2, 3], exclude=[2]),
        predictor.recommend(5, top=2, context={"age": 60}),
    ]
    for answer, listed in zip(answers, expected, strict=True):
        found = answer.json()["items"]
        assert [(one["item"], one["title"]) for one in found] == [row[:2] for row in listed]
        np.testing.assert_allclose(
            [one["probability"] for one in found], [row[2] for row in listed], rtol=1e-6
        )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "user"), ({"user": [1]}, "user"), ({"user": 1, "top": 0}, "top"),
        ({"user": 1, "top": "3"}, "top"), ({"user": 1, "tpo": 3}, "tpo"),
        ({"user": 1, "context": {"zip": 3}}, None), ({"user": 1, "candidates": [1, 999]}, None),
        ({"user": 1, "candidates": 3}, "candidates"), ({"user": 1, "exclude": [{}]}, "exclude"),
        ({"user": 1, "history": [[1, 2, 3]]}, "history"), ({"user": 1, "history": [1]}, None),
        ({"user": 1, "time": []}, "time"), ({"user": 1, "context": {"income": "x"}}, "income"),
        ({"user": 10**30}, "user"), ({"user": 999}, "income"),
    ],
)  # fmt: skip
def test_a_list_that_cannot_be_made_is_refused(model, tmp_path, body, field):
    async def ask(client, *_):
        return await client.post("/v1/recommend", content=json.dumps(body))

    answer = run(ask, model, tmp_path)
    assert answer.status_code == 422, answer.json()
    assert answer.json()["error"].get("field") == field


def test_paths_methods_and_the_token(model, tmp_path):
    async def ask(client, *_):
        bearer = {"authorization": "Bearer s3cret"}
        return [
            await client.get("/v1/model"),
            await client.get("/v1/model", headers={"authorization": "Bearer other"}),
            await client.get("/v1/model", headers=bearer),
            await client.get("/v1/predict", headers=bearer),
            await client.get("/nothing", headers=bearer),
            await client.get("/health/live"),
            await client.get("/health/ready"),
        ]

    answers = run(ask, model, tmp_path, token="s3cret")
    assert [answer.status_code for answer in answers] == [401, 401, 200, 405, 404, 200, 200]
    assert answers[0].headers["www-authenticate"] == "Bearer"
    assert answers[2].json()["version"] == "v1"
    assert answers[3].headers["allow"] == "POST"


def test_a_full_queue_says_when_to_try_again(tmp_path):
    engine = Slow()

    async def ask(client, batcher, lines):
        first = asyncio.create_task(client.post("/v1/predict", json={"rows": [{"n": 0}]}))
        while not batcher._is_busy or batcher._queue:  # until it is being scored
            await asyncio.sleep(0.001)
        waiting = [
            asyncio.create_task(client.post("/v1/predict", json={"rows": [{"n": k}]}))
            for k in (1, 2)
        ]
        while len(batcher._queue) < 2:
            await asyncio.sleep(0.001)
        refused = await client.post("/v1/predict", json={"rows": [{"n": 3}]})
        engine.go.set()
        return refused, [await task for task in (first, *waiting)]

    refused, answers = run(ask, served(engine), tmp_path, queue=2, deadline=60)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert [a.json()["predictions"]["probability"] for a in answers] == [[0.0], [1.0], [2.0]]
    assert engine.batches == [1, 2]  # what waited was scored together


def test_past_the_deadline_nobody_waits_and_nothing_is_scored(tmp_path):
    engine = Slow()

    async def ask(client, batcher, lines):
        answers = await asyncio.gather(
            *(client.post("/v1/predict", json={"rows": [{"n": k}]}) for k in range(3))
        )
        late = asyncio.create_task(client.post("/v1/predict", json={"rows": [{"n": 9}]}))
        await asyncio.sleep(0)
        engine.go.set()
        return answers, await late

    answers, late = run(ask, served(engine), tmp_path, deadline=0.3)
    assert [answer.status_code for answer in answers] == [504] * 3
    assert late.status_code == 200
    assert sum(engine.batches) <= 4


def test_a_body_that_does_not_end_is_left_at_the_deadline(model, tmp_path):
    async def endless():
        yield b"{"
        await asyncio.sleep(60)

    async def ask(client, *_):
        return await client.post("/v1/predict", content=endless())

    assert run(ask, model, tmp_path, deadline=0.2).status_code == 504


def test_an_error_of_ours_is_500_and_the_next_request_is_answered(tmp_path):
    engine = Slow()
    engine.go.set()

    async def ask(client, batcher, lines):
        answers = await asyncio.gather(
            client.post("/v1/predict", json={"rows": [{"n": "x"}]}),  # a ValueError of NumPy
            client.post("/v1/predict", json={"rows": [{"n": 4}]}),
        )
        await asyncio.sleep(0)
        return answers, lines

    (broken, fine), lines = run(ask, served(engine), tmp_path)
    assert (broken.status_code, fine.status_code) == (500, 200)
    assert "could not convert" not in broken.text
    assert any(b"could not convert" in line for line in lines)


def test_a_swap_answers_with_the_new_version(tmp_path):
    engine = Slow()
    engine.go.set()

    async def ask(client, batcher, lines):
        versions = []
        for version in ("v1", "v2"):
            batcher.swap(served(engine, version))
            answer = await client.post("/v1/predict", json={"rows": [{"n": 1}]})
            versions.append((answer.json()["version"], answer.headers["x-model-version"]))
        return versions

    assert run(ask, served(engine), tmp_path) == [("v1", "v1"), ("v2", "v2")]


def test_a_request_is_a_line_without_its_rows(model, tmp_path):
    async def ask(client, batcher, lines):
        await client.post("/v1/predict", json={"rows": [{"user": 17, "item": 33}]})
        await client.post("/v1/predict?token=abc", json={"rows": "secret"})
        await asyncio.sleep(0.01)
        return b"".join(lines).splitlines()

    first, second = map(json.loads, run(ask, model, tmp_path))
    assert first.keys() == {"time", "method", "path", "status", "ms", "rows", "version"}
    assert (first["path"], first["status"], first["rows"]) == ("/v1/predict", 200, 1)
    assert (second["path"], second["status"]) == ("/v1/predict", 400)


def test_metrics_count_unknown_and_missing_values_and_predictions(model, tmp_path):
    rows = [
        {"user": 1, "item": 2, "age": 30},
        {"user": 2, "item": 9999, "age": None},
        {"user": 3, "item": 8888, "age": 20},
        {"user": 3, "item": 4, "age": 21},
    ]

    async def ask(client, *_):
        answer = await client.post(
            "/v1/predict", json={"rows": [{**row, "price": 0.5} for row in rows]}
        )
        shown = await client.get("/metrics")
        return answer.json()["predictions"]["probability"], shown.text.splitlines()

    found, lines = run(ask, model, tmp_path)
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values['deepfm_requests_total{route="/v1/predict",status="200"}'] == "1.0"
    assert values["deepfm_rows_total"] == "4.0"
    assert float(values['deepfm_unknown_share{field="item"}']) == 0.5
    assert float(values['deepfm_missing_share{field="age"}']) == 0.25
    assert float(values['deepfm_unknown_share{field="age"}']) == 0.0
    for edge in (0.25, 0.5, 0.75):
        below = values[f'deepfm_predictions_bucket{{le="{edge}",prediction="probability"}}']
        assert float(below) == sum(value <= edge for value in found)
    total = float(values['deepfm_predictions_sum{prediction="probability"}'])
    assert total == pytest.approx(sum(found))


def test_counts_of_several_files_are_summed_and_go_on_after_a_restart(tmp_path):
    for number in (0, 1, 0):
        counters = Counters(tmp_path / f"{number}.counts")
        counters.add(2, "requests", "/a", "200")
        counters.add(number, "rows")
    assert totals(tmp_path) == {Name("requests", ("/a", "200")): 6.0, Name("rows"): 1.0}


def test_the_page_and_the_description_have_the_models_fields_and_load_nothing(model, tmp_path):
    async def ask(client, *_):
        return [await client.get(path) for path in ("/", "/docs", "/openapi.json", "/v1/model")]

    page, docs, described, about = run(ask, model, tmp_path)
    assert page.headers["content-type"].startswith("text/html")
    assert page.text == docs.text
    assert "<script" not in page.text
    assert "src=" not in page.text
    assert "<td>income</td>" in page.text
    post = described.json()["paths"]["/v1/predict"]["post"]
    content = post["requestBody"]["content"]["application/json"]
    assert content["example"] == {"rows": [{"user": 1, "item": 2}]}
    assert set(content["schema"]["anyOf"][0]["properties"]["rows"]["items"]["properties"]) == {
        "user", "item", "age", "income", "tags", "price", "time",
    }  # fmt: skip
    assert [field["name"] for field in about.json()["fields"]][:2] == ["user", "age"]


def test_a_model_is_loaded_with_examples_that_it_answers(checkpoint, predictor, tmp_path):
    loaded = load([checkpoint], "abc", tmp_path / "weights")
    assert loaded.example == {"user": 0, "item": 0}
    assert loaded.listed == {"user": 0}
    np.testing.assert_array_equal(loaded.engine.predict(ROWS), predictor.predict(ROWS))


def test_large_weights_are_read_from_one_file(checkpoint, predictor, tmp_path, monkeypatch):
    monkeypatch.setattr("deepfm.serving.shared_weights.LARGE", 100)
    for _ in range(2):  # the second one finds what the first has written
        loaded = load([checkpoint], "abc", tmp_path / "weights")
        np.testing.assert_array_equal(loaded.engine.predict(ROWS), predictor.predict(ROWS))
    assert len(list((tmp_path / "weights").iterdir())) >= 3


def test_an_export_is_served_without_torch(checkpoint, predictor, tmp_path):
    export([checkpoint], tmp_path / "exported")
    loaded = load([tmp_path / "exported"], "abc", tmp_path / "weights")
    assert loaded.kind == "onnx"
    assert loaded.example == {"user": 0, "item": 0}
    found, expected = (engine.predict_counted(ROWS) for engine in (loaded.engine, predictor))
    np.testing.assert_allclose(
        found.columns["probability"], expected.columns["probability"], atol=1e-6
    )
    assert (found.unknown, found.missing) == (expected.unknown, expected.missing)
    code = (
        "import sys; from pathlib import Path; from deepfm.serving import worker\n"
        "served = worker.load([Path(sys.argv[1])], 'v', Path(sys.argv[1]))\n"
        "served.engine.recommend(1); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "exported")], check=True)


def test_counted_predictions_are_those_of_predict(predictor):
    found = predictor.predict_counted(ROWS)
    np.testing.assert_array_equal(found.columns["probability"], predictor.predict(ROWS))
    with pytest.raises(DataError):
        predictor.predict_counted([{"user": 999, "item": 1}])
