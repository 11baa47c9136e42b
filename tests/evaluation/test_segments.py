"""Figures of parts of rows against those of these rows alone."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from deepfm.evaluation.segments import Segments, segment_figures


def test_each_part_has_the_figures_of_its_own_rows():
    rng = np.random.default_rng(0)
    part, logit = rng.integers(-1, 3, 400), rng.normal(size=400)
    label = (rng.random(400) < 1 / (1 + np.exp(-logit))).astype(int)
    found = segment_figures(label, logit, logit, Segments(["a", "b", "c"], part))
    assert [one.name for one in found] == ["a", "b", "c"]
    for number, one in enumerate(found):
        own = part == number
        assert (one.rows, one.positives) == (own.sum(), label[own].sum())
        assert one.auc == pytest.approx(roc_auc_score(label[own], logit[own]))
        assert one.auc_low < one.auc < one.auc_high
        assert one.predicted == pytest.approx((1 / (1 + np.exp(-logit[own]))).mean())
        assert one.observed == pytest.approx(label[own].mean())


def test_parts_without_rows_are_left_out_and_small_ones_have_no_auc():
    label = np.r_[np.zeros(30), np.ones(30), np.ones(5)].astype(int)
    part = np.r_[np.zeros(60), np.full(5, 2)].astype(int)
    found = segment_figures(label, label * 1.0, None, Segments(["a", "none", "few"], part))
    assert [one.name for one in found] == ["a", "few"]
    assert found[0].auc == 1.0
    assert found[1].auc is found[1].auc_low is found[1].predicted is None
