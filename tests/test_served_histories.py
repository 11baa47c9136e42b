"""What a served row sees of its user's past, on MovieLens-100K and on declared tables."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import torch
import yaml

from deepfm import experiment
from deepfm.checkpoint import load_checkpoint
from deepfm.cli import main
from deepfm.config import config_from_dict, load_config
from deepfm.data.encoding.few_values import NotPlain
from deepfm.data.encoding.tensors import inputs_of
from deepfm.data.labels import group_ids
from deepfm.data.served_histories import ServedHistories
from deepfm.data.sources.rows_given import plain_columns
from deepfm.data.split_times import Times
from deepfm.errors import CheckpointError, DataError, Place
from deepfm.evaluation.scoring import score_tasks
from deepfm.prediction import Predictor

MAX_LENGTH = 20


@pytest.fixture(scope="module")
def trained(movielens_dir, tmp_path_factory):
    """A small model of one step with histories, and the data that it was trained on."""
    config = config_from_dict(
        {
            "output_dir": str(tmp_path_factory.mktemp("served") / "run"),
            "device": "cpu",
            "data": {
                "data_dir": str(movielens_dir),
                "auto_download": False,
                "num_neg_eval": 20,
                "history": {"max_length": MAX_LENGTH, "ties": "exclude"},
            },
            "feature": {"embedding_dim": 4, "fm_embedding_dim": 4, "init": "normal(0.5)"},
            "dnn": {"hidden_units": [8]},
            "training": {"epochs": 1, "max_steps": 1, "batch_size": 2048, "lr": 0.01},
        }
    )
    file = Path(config.output_dir).parent / "served.yaml"
    file.write_text(yaml.safe_dump(config.to_dict()))
    assert main(["train", "--config", str(file)]) == 0
    path = f"{config.output_dir}/best_model.pt"
    return Predictor(path), experiment.load_data(config), path


def test_held_out_rows_are_served_as_they_were_evaluated(trained):
    predictor, data, _ = trained
    rows = data.events.tables.interactions.take(data.test.row)
    found = predictor.predict(rows)
    logits = score_tasks(predictor.model, data.test.inputs, batch_size=500)
    expected = predictor.tasks[0].predicted(logits)
    events = data.events
    trained_on = events.split.train[events.label[events.split.train] > 0]
    moments = set(zip(events.user[trained_on], events.time[trained_on], strict=True))
    tied = np.array([(events.user[r], events.time[r]) in moments for r in data.test.row])
    assert 0 < tied.sum() < 300  # they see fewer events: those of their own time are among the last
    np.testing.assert_allclose(found[~tied], expected[~tied], atol=1e-6)


def test_training_rows_see_what_they_saw_as_far_as_events_are_kept(trained):
    predictor, data, path = trained
    kept = load_checkpoint(path).events
    assert np.diff(kept.starts).max() == MAX_LENGTH
    train, table = data.train, data.events.tables.interactions
    rows = table.take(train.row)
    places = predictor._histories._events.before(_hashes(rows), data.events.time[train.row])
    k = [field.name for field in train.schema.sequence_fields].index("history_movie_id")
    ids, lengths = train.inputs.sequence_ids[k], train.inputs.sequence_lengths[k].numpy()
    compared = 0
    for row in range(0, len(train), 97):
        start, length = int(places.starts[row]), int(places.lengths[row])
        served = kept.ids["history_movie_id"][start : start + length].tolist()
        saw = ids[row][: lengths[row]].tolist()
        assert served == (saw[len(saw) - length :] if length else [])
        compared += length
    assert compared > 100


def _hashes(rows: pa.Table) -> np.ndarray:
    return group_ids(rows, ["user_id"])[:, 0].view(np.uint64)


def test_no_row_depends_on_its_own_time_or_what_comes_after(trained):
    """A row at each event of a user: it sees exactly the kept events before it."""
    predictor, _, path = trained
    kept = load_checkpoint(path).events
    user = 100
    (place,) = np.flatnonzero(kept.user == _hashes(pa.table({"user_id": [user]}))[0])
    own = slice(kept.starts[place], kept.starts[place + 1])
    times, ids = kept.time[own], kept.ids["history_movie_id"][own]
    histories: ServedHistories = predictor._histories
    for now in np.unique(times):
        found = histories._events.before(kept.user[[place]], np.array([now]))
        start, length = int(found.starts[0]), int(found.lengths[0])
        assert kept.ids["history_movie_id"][start : start + length].tolist() == [
            one for one, at in zip(ids, times, strict=True) if at < now
        ]


def test_another_past_is_another_prediction_and_a_new_user_has_none(trained):
    predictor, _, _ = trained
    row = {"user_id": [1], "movie_id": [50], "timestamp": [2_000_000_000]}
    late, early = (predictor.predict(pa.table(row | {"timestamp": [t]})) for t in (2e9, 0))
    assert late != early
    new = pa.table(row | {"user_id": [5000], "timestamp": [0]})
    of_new = [predictor.predict(new.set_column(2, "timestamp", pa.array([t]))) for t in (0, 2e9)]
    assert of_new[0] == of_new[1]


def test_rows_without_time_or_user_are_refused(trained, tmp_path):
    predictor, _, _ = trained
    rows = {"user_id": ["1", "2"], "movie_id": ["50", "7"], "timestamp": ["17", "soon"]}
    for column in ("timestamp", "user_id"):
        table = pa.table({name: values for name, values in rows.items() if name != column})
        with pytest.raises(DataError, match=rf"no column '{column}', which .* needs|{column}"):
            predictor.predict(table)
    with pytest.raises(DataError, match=r"row 2, column timestamp: expected a time .*'soon'"):
        predictor.predict(pa.table(rows))
    pa.csv.write_csv(pa.table(rows), tmp_path / "rows.csv")
    with pytest.raises(DataError, match=r"rows\.csv:3: column timestamp: expected a time"):
        list(predictor.predict_file(tmp_path / "rows.csv"))


def test_a_file_is_served_as_a_table(trained, tmp_path):
    predictor, data, _ = trained
    rows = data.events.tables.interactions.take(data.valid.row[:50])
    pa.csv.write_csv(rows, tmp_path / "rows.csv")
    (part,) = predictor.predict_file(tmp_path / "rows.csv")
    np.testing.assert_array_equal(part.predictions["probability"], predictor.predict(rows))


def own_events(data, user: int) -> list[tuple[int, int]]:
    """Films and times of a user's positives in training, the oldest first, by loops."""
    table, events = data.events.tables.interactions, data.events
    rows = [
        row
        for row in events.split.train
        if table["user_id"][int(row)].as_py() == user and events.label[row] > 0
    ]
    rows.sort(key=lambda row: (events.time[row], row))
    films, times = table["movie_id"], table["timestamp"]
    return [(films[int(row)].as_py(), times[int(row)].as_py()) for row in rows]


def test_the_same_history_gives_the_same_list(trained):
    predictor, data, _ = trained
    events = own_events(data, 13)
    assert len(events) > MAX_LENGTH
    known = predictor.recommend(13, top=8)
    assert predictor.recommend(13, top=8, history=events) == known
    assert predictor.recommend(13, top=8, history=events[-MAX_LENGTH:]) == known
    assert predictor.recommend(13, top=8, history=events[:3]) != known
    newest = int(data.events.time[data.events.split.train].max())
    assert predictor.recommend(13, top=8, time=newest) == known
    assert predictor.recommend(13, top=8, time=newest + 10**8) != known


def test_items_of_a_given_history_are_not_recommended(trained, caplog):
    predictor, _, _ = trained
    first = [found.item for found in predictor.recommend(5000, top=5, history=[])]
    given = [*map(str, first), "none such", "9999"]
    again = predictor.recommend(5000, top=5, history=given)
    assert not {found.item for found in again} & set(first)
    (message,) = [r.getMessage() for r in caplog.records if "history" in r.getMessage()]
    assert message == "2 of 7 items of the history are unknown: 'none such', '9999'"


def test_a_time_that_is_none_is_refused(trained):
    predictor, _, _ = trained
    with pytest.raises(DataError, match=r"expected a time .*found 'soon'"):
        predictor.recommend(13, time="soon")
    with pytest.raises(DataError, match=r"expected a time .*found 'soon'"):
        predictor.recommend(13, history=[(50, "soon")])


def test_the_command_takes_a_history(trained, capsys):
    predictor, _, path = trained
    arguments = ["recommend", "--checkpoint", path, "--user", "13", "--top", "3"]
    assert main([*arguments, "--history", "50,7", "--time", "881250949"]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = predictor.recommend(13, top=3, history=["50", "7"], time=881250949)
    assert [line.split()[2] for line in lines] == [str(found.item) for found in expected]


def test_a_model_without_histories_takes_none(tiny_config, tmp_path):
    config = tiny_config(training__epochs=1)
    experiment.train(load_config(config))
    predictor = Predictor(tmp_path / "run" / "best_model.pt")
    for given in ({"history": [1]}, {"time": 5}):
        with pytest.raises(DataError, match="the model reads no history"):
            predictor.recommend(5, **given)


def test_the_size_is_said_and_a_checkpoint_without_events_is_refused(trained, tmp_path):
    _, _, path = trained
    checkpoint = load_checkpoint(path)
    log = Path(path).with_name("train.log").read_text()
    size = checkpoint.events.num_bytes / 2**20
    assert f"{len(checkpoint.events.time):,} last events of" in log
    assert f"{size:.1f} MiB" in log
    checkpoint.events = None
    checkpoint.save(tmp_path / "without.pt")
    with pytest.raises(CheckpointError, match="lacks the events"):
        Predictor(tmp_path / "without.pt")


@pytest.mark.parametrize(
    ("users", "times"),
    [
        ([1, 100, 5000, 7], [880_000_000, 2_000_000_000, 0, 888_000_000]),
        (["1", "100", "", "x"], [8.9e8, 8.8e8, 1.0, 0.0]),
        ([1.0, 100.0], [889_237_269, 889_237_270]),
        ([None, 100], [10**9, 10**9]),
    ],
)
def test_few_rows_see_what_they_see_through_arrow(trained, users, times):
    predictor, _, _ = trained
    rows = {"user_id": users, "movie_id": [50] * len(users), "timestamp": times}
    histories, read = predictor._histories, predictor._rows
    plain, count = plain_columns(rows)
    table = predictor._tables.complete(predictor.schema, pa.table(rows))
    few = inputs_of(
        histories.added(
            predictor.encoders.encode_arrays(table), histories.seen_by_few(plain, count)
        )
    )
    seen = histories.seen_by_rows(table, Times(), lambda k: Place(row=k))
    expected = histories.added_to_inputs(predictor.encoders.encode(table), seen)
    expected = expected.select(slice(None))
    built = len(predictor.schema.built_fields)
    assert built == 2
    for found, wanted in zip(
        few.sequence_ids[-built:], expected.sequence_ids[-built:], strict=True
    ):
        assert torch.equal(found, wanted)
    assert torch.equal(few.sequence_lengths[-1], expected.sequence_lengths[-1])
    of_few = read._read_few(plain, count)
    inputs = inputs_of(histories.added(of_few.arrays, of_few.seen))
    assert torch.equal(inputs.sparse, expected.sparse)
    assert all(map(torch.equal, inputs.sequence_ids, expected.sequence_ids))


@pytest.mark.parametrize("time", [None, float("nan"), float("inf"), "soon", "881250949", True])
def test_times_that_are_no_plain_numbers_are_left_to_arrow(trained, time):
    predictor, _, _ = trained
    with pytest.raises(NotPlain):
        predictor._histories.seen_by_few({"user_id": [1], "timestamp": [time]}, 1)
