"""Which rows stop training: a share of each class, or the newest, and never too few."""

import numpy as np

from deepfm.estimators.held_out import is_held_out


def test_each_class_gives_its_share():
    label = np.repeat([0, 1, 2], [500, 300, 200])
    held = is_held_out(label, 0.1, seed=1, time=None)
    assert np.bincount(label[held]).tolist() == [50, 30, 20]
    np.testing.assert_array_equal(held, is_held_out(label, 0.1, seed=1, time=None))
    assert (held != is_held_out(label, 0.1, seed=2, time=None)).any()


def test_with_times_the_newest_are_held_out():
    time = np.random.default_rng(0).permutation(200)
    held = is_held_out(time % 2, 0.2, seed=1, time=time)
    assert sorted(time[held]) == list(range(160, 200))


def test_nothing_is_held_out_of_too_few_rows_or_of_one_class_alone():
    assert is_held_out(np.zeros(94), 0.1, seed=1, time=None) is None
    assert is_held_out(np.zeros(95), 0.1, seed=1, time=None).sum() == 10
    assert is_held_out(np.arange(1000) % 2, 0.0, seed=1, time=None) is None
    newest = np.repeat([0, 1], [900, 100])  # all of the second class would be held out
    assert is_held_out(newest, 0.1, seed=1, time=np.arange(1000)) is None


def test_a_rare_class_may_train_alone():
    label = np.repeat([0, 1, 2], [600, 397, 3])
    held = is_held_out(label, 0.1, seed=1, time=None)
    assert np.bincount(label[held], minlength=3).tolist() == [60, 40, 0]
