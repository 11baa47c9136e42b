"""What a request costs: a row, a hundred rows, a list for a user, of a checkpoint.

    python benchmarks/predictor_calls.py outputs/deepfm_movielens/best_model.pt

Rows bring ids alone, and a time where the model reads a history: users and items are drawn from
the checkpoint's own. A request is a list of dicts, and each is another. `arrow` is the path that
tables of many rows take, in the same process and in turns with ours: the columns are looked up in
Arrow tables, encoded by Arrow's kernels and scored by a model whose batch norm is not folded; of a
list the items are encoded for it and scored as whole rows. The outcomes must agree.

Printed are medians of CPU time in milliseconds, one line of JSON per request: `total`, of that
`read` (to tensors) and `score`, and the same of `arrow`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from deepfm.data.dataset import Catalogue
from deepfm.data.sources.rows_given import as_table
from deepfm.data.splits import Times
from deepfm.errors import Place
from deepfm.evaluation.scoring import _score_rows
from deepfm.models.base import BaseCTRModel, evaluation_mode
from deepfm.prediction import Predictor

Step = Callable[[Any], Any]
SEED = 0


def rows_of(predictor: Predictor, count: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Rows of drawn users and items, with a time after all events."""
    schema, tables = predictor.schema, predictor._tables
    columns: dict[str, list[Any]] = {}
    for name, table in ((schema.user_field, tables.users), (schema.item_field, tables.items)):
        if name is not None and table is not None:
            column = schema.fields[name].column
            known = table[column]
            columns[column] = [known[int(k)].as_py() for k in rng.integers(len(known), size=count)]
    if predictor._histories is not None:
        now = predictor._histories.moment(None)
        columns[str(schema.time_column)] = [int(now) + 1] * count
    names = list(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def read_by_arrow(predictor: Predictor, rows: Sequence[Any]) -> Any:
    """The inputs of rows by Arrow."""
    table = predictor._tables.complete(predictor.schema, as_table(rows))
    inputs = predictor.encoders.encode(table)
    if predictor._histories is not None:
        seen = predictor._histories.seen_by_rows(table, Times(), lambda k: Place(row=k))
        inputs = predictor._histories.added_to_inputs(inputs, seen)
    return inputs


@torch.inference_mode()
def score_plainly(predictor: Predictor, inputs: Any) -> np.ndarray:
    """Predictions of a model that is put in evaluation mode for them."""
    model = predictor.model
    assert isinstance(model, BaseCTRModel), "expected one checkpoint without a calibration"
    with evaluation_mode(model):
        logits = model(inputs.select(slice(None)))
    return predictor.tasks[0].predicted({"": logits.numpy()})


def recommend_by_arrow(predictor: Predictor, user: object) -> np.ndarray:
    """Logits of all items for a user, which are encoded for it."""
    ranked = predictor._lists
    items = ranked.table
    row = {ranked.user_column: [user]}
    own = [f.raw_columns for f in predictor.schema.fields.values() if f.group == "item"]
    row |= {name: items[name].slice(0, 1) for names in own for name in names}
    table = predictor._tables.complete(predictor.schema, as_table(row))
    inputs = predictor.encoders.encode(table)
    if predictor._histories is not None:
        seen = predictor._histories.seen_by_user(user)
        inputs = predictor._histories.added_to_inputs(inputs, seen)
    catalogue = Catalogue.of(predictor.schema, predictor.encoders.encode(items, "item"))
    inputs = catalogue.with_room(inputs)
    every = np.arange(len(items))[None]
    assert isinstance(predictor.model, BaseCTRModel)
    return _score_rows(predictor.model, inputs, every, catalogue, predictor.batch_size)[0]


def milliseconds(steps: Sequence[Step], given: Any) -> tuple[list[float], Any]:
    """The CPU time of each of some steps, of which each gets what the one before gave."""
    found = []
    for step in steps:
        start = time.process_time_ns()
        given = step(given)
        found.append((time.process_time_ns() - start) / 1e6)
    return found, given


def compare(
    name: str,
    ours: Sequence[Step],
    arrow: Sequence[Step],
    requests: Sequence[Any],
    same: Callable[[Any, Any], None],
) -> dict[str, Any]:
    """Run both in turns; the first tenth of the requests only warms up."""
    times: dict[str, list[list[float]]] = {"ours": [], "arrow": []}
    for request in requests:
        found = {}
        for way, steps in (("ours", ours), ("arrow", arrow)):
            own, found[way] = milliseconds(steps, request)
            times[way].append(own)
        same(found["ours"], found["arrow"])
    kept = {way: np.array(of[len(of) // 10 :]) for way, of in times.items()}
    line: dict[str, Any] = {"request": name, "requests": len(kept["ours"])}
    for way, of in kept.items():
        parts = [round(float(np.median(part)), 3) for part in of.T]
        line[way] = {"total": round(float(np.median(of.sum(1))), 3)}
        if len(parts) == 2:
            line[way] |= {"read": parts[0], "score": parts[1]}
    line["ratio"] = round(statistics.median(kept["arrow"].sum(1) / kept["ours"].sum(1)), 2)
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--repeats", type=int, default=300, help="requests of each kind")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    predictor, rng = Predictor(arguments.checkpoint), np.random.default_rng(SEED)

    def close(one: np.ndarray, other: np.ndarray) -> None:
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)

    def score(inputs: Any) -> np.ndarray:
        return predictor._predicted_of(inputs)[""]

    for count in (1, 100):
        line = compare(
            f"predict, {count} row" + "s" * (count > 1),
            [lambda rows: predictor._inputs_of(predictor._rows.read(rows)), score],
            [lambda rows: read_by_arrow(predictor, rows), lambda i: score_plainly(predictor, i)],
            [rows_of(predictor, count, rng) for _ in range(arguments.repeats)],
            close,
        )
        print(json.dumps(line))
    if predictor._history is None:
        return
    lists = predictor._lists

    def best(found: Sequence[Any], logits: np.ndarray) -> None:
        known = dict(zip(ids, logits, strict=True))
        close(
            np.array([one.probability for one in found]),
            1 / (1 + np.exp(-np.array([known[one.item] for one in found], np.float64))),
        )

    ids = lists.items.values(lists.item_column)
    users = predictor._tables.users[lists.user_column].to_pylist()
    line = compare(
        f"recommend of {len(ids):,} items",
        [predictor.recommend],
        [lambda user: recommend_by_arrow(predictor, user)],
        [users[int(k)] for k in rng.integers(len(users), size=arguments.repeats // 2)],
        best,
    )
    print(json.dumps(line))


if __name__ == "__main__":
    main()
