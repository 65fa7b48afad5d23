"""Win rates and shifts of scores, on rows few enough to be checked by hand."""

import pytest

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
