"""Metrics on tables small enough to be checked by hand, and against scikit-learn on random ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.evaluation.classification import auc, classification, expected_calibration_error
from transforms.evaluation.intervals import bootstrap_interval, distribution
from transforms.evaluation.text_change import text_change
from transforms.evaluation.win_rates import margins, score_level, score_shift, two_way_accuracy, win_rate


def test_a_win_rate_divides_by_all_rows_and_the_decided_one_by_wins_and_losses():
    result = win_rate([0.2, 0.1, -0.3, 0.0, 0.0])
    assert (result["wins"], result["losses"], result["ties"], result["rows"]) == (2, 1, 2, 5)
    assert result["win_rate"] == pytest.approx(2 / 5)
    assert result["decided_win_rate"] == pytest.approx(2 / 3)
    low, high = result["win_rate_interval"]
    assert low <= 2 / 5 <= high


def test_no_rows_and_only_ties_give_no_rate_rather_than_a_wrong_one():
    assert win_rate([])["win_rate"] is None
    tied = win_rate([0.0, 0.0])
    assert tied["win_rate"] == 0.0
    assert tied["decided_win_rate"] is None
    assert tied["decided_win_rate_interval"] is None


def test_noise_in_the_score_of_an_unchanged_text_is_a_tie():
    before, after = [0.5, 0.5], [0.5 + 1e-12, 0.6]
    assert win_rate(margins(before, after))["wins"] == 2
    assert win_rate(margins(before, after, unchanged=[True, False]))["wins"] == 1


def test_a_tie_is_not_a_hit_in_two_way_accuracy():
    result = two_way_accuracy([1.5, -0.5, 0.0, 2.0])
    assert (result["items"], result["right"], result["ties"]) == (4, 2, 1)
    assert result["accuracy"] == 0.5


def test_the_shift_of_scores():
    result = score_shift([0.1, 0.2, 0.3], [0.4, 0.5, 0.9])
    assert result["before"]["mean"] == pytest.approx(0.2)
    assert result["shift"]["mean"] == pytest.approx(0.4)
    assert result["shift"]["quantiles"]["0.5"] == pytest.approx(0.3)
    low, high = result["mean_shift_interval"]
    assert low == pytest.approx(0.3)
    assert high == pytest.approx(0.6)


def test_length_and_edit_distance_are_counted_in_words():
    result = text_change(["one two three four", "same  words", ""], ["one two five four", "same words", "new"])
    assert result["words_before"]["mean"] == pytest.approx(2.0)
    assert result["words_change"]["mean"] == pytest.approx(1 / 3)
    assert result["edit_distance"]["mean"] == pytest.approx((0.25 + 0.0 + 1.0) / 3)
    assert result["unchanged"] == pytest.approx(1 / 3)


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


def test_a_bootstrap_is_seeded_and_covers_the_mean():
    values = np.random.default_rng(1).normal(3.0, 1.0, 400)
    mean = lambda sample: float(sample.mean())  # noqa: E731
    first, again = (bootstrap_interval(values, mean, seed=7) for _ in range(2))
    assert first == again != bootstrap_interval(values, mean, seed=8)
    assert first[0] < values.mean() < first[1]
    assert first[1] - first[0] == pytest.approx(2 * 1.96 / 20, rel=0.2)
    assert bootstrap_interval(values[:1], mean) is None


def test_the_distribution_of_nothing_is_empty_and_that_of_one_row_has_no_spread():
    assert distribution([])["mean"] is None
    assert distribution([2.0])["sd"] is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: win_rate([0.1, float("nan")]), "margins: row 1 is nan"),
        (lambda: margins([0.1], [0.1, 0.2]), "1 and 2 rows"),
        (lambda: margins([None, 0.1], [0.1, 0.2]), "before: row 0 is nan"),
        (lambda: text_change(["a"], []), "1 and 0 rows"),
        (lambda: classification([], []), "no rows"),
    ],
)
def test_rows_that_cannot_be_counted_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_level_of_scores_is_their_mean_and_the_share_from_the_threshold_on():
    level = score_level([0.1, 0.5, 0.9, 0.3] * 25)
    assert (level["mean"], level["share_above"]) == (pytest.approx(0.45), 0.5)
    assert level["mean_interval"][0] < 0.45 < level["mean_interval"][1]
    assert level["share_above_interval"] == pytest.approx([0.4, 0.6], abs=0.02)
    assert score_level([0.1, 0.5], threshold=0.6)["share_above"] == 0.0
    assert score_level([]) == {
        "mean": None,
        "mean_interval": None,
        "share_above": None,
        "share_above_interval": None,
    }
