"""Metrics of a classifier, checked by hand and against scikit-learn on random rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.evaluation.classification import auc, classification, expected_calibration_error


def test_auc_by_hand_with_a_tie():
    # pairs (positive, negative): .9>.4, .9>.9? tie, .5>.4, .5<.9 -> (1 + .5 + 1 + 0) / 4
    assert auc([1, 0, 1, 0], [0.9, 0.9, 0.5, 0.4]) == pytest.approx(2.5 / 4)
    assert np.isnan(auc([1, 1], [0.2, 0.3]))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])), min_size=2, max_size=40))
def test_auc_agrees_with_scikit_learn(rows):
    metrics = pytest.importorskip("sklearn.metrics")
    labels, scores = zip(*rows, strict=True)
    if len(set(labels)) == 2:
        assert auc(labels, scores) == pytest.approx(metrics.roc_auc_score(labels, scores))


def test_calibration_by_hand():
    labels, scores = np.array([1.0, 0.0, 1.0, 1.0]), np.array([0.9, 0.9, 0.2, 1.0])
    # two bins: [0, .5) holds .2 against 1 row of 1; [.5, 1] holds 2.8 against 2
    assert expected_calibration_error(labels, scores, bins=2) == pytest.approx((0.8 + 0.8) / 4)
    result = classification(labels, scores)
    assert result["accuracy"] == 0.5
    assert result["brier"] == pytest.approx((0.01 + 0.81 + 0.64 + 0.0) / 4)
