"""Leave-one-out against a plain loop, and the facts of MovieLens-100K."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deepfm.config import load_config
from deepfm.data.splits import leave_one_out
from deepfm.experiment import load_data


def plain_leave_one_out(user, time, min_interactions):
    train, valid, test = [], [], []
    for one in sorted(set(user)):
        rows = sorted((time[row], row) for row in range(len(user)) if user[row] == one)
        rows = [row for _, row in rows]
        if len(rows) >= min_interactions:
            test.append(rows.pop())
            valid.append(rows.pop())
        train += rows
    return sorted(train), sorted(valid), sorted(test)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1), st.integers(3, 5))
def test_equals_the_plain_loop_ties_included(events, min_interactions):
    user, time = np.array(events).T
    found = leave_one_out(user, time, min_interactions=min_interactions)
    expected = plain_leave_one_out(user.tolist(), time.tolist(), min_interactions)
    assert tuple(rows.tolist() for rows in found) == expected


def test_movielens_has_486_positives_in_test_and_493_in_validation(movielens_dir, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(f"data: {{data_dir: {movielens_dir}, explicit_negatives: true}}")
    data = load_data(load_config(path))
    assert (len(data.train), len(data.valid), len(data.test)) == (98_114, 943, 943)
    assert (int(data.test.label.sum()), int(data.valid.label.sum())) == (486, 493)
    assert (len(data.test.ranking.rows), len(data.valid.ranking.rows)) == (486, 493)
