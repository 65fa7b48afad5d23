"""Figures over seeds: which labels belong together, and means with t intervals."""

import pytest

from transforms.evaluation.over_seeds import STUDENT_T, mean_and_interval, over_seeds, replicates


def test_replicates_are_labels_that_end_in_a_seed():
    labels = ["guard on@1", "plain", "guard on@12", "a@b@3", "me@home", "@4"]
    assert replicates(labels) == {"guard on": {"1": "guard on@1", "12": "guard on@12"}, "a@b": {"3": "a@b@3"}}


def test_the_interval_is_students_t():
    mean, interval = mean_and_interval([0.5, 0.6, 0.7])
    assert mean == pytest.approx(0.6)
    assert interval == pytest.approx([0.6 - 0.24843, 0.6 + 0.24843], abs=1e-5)  # 4.303 * 0.1 / sqrt(3)
    mean, interval = mean_and_interval([0.0, 1.0])
    assert interval == pytest.approx([0.5 - 6.353, 0.5 + 6.353])
    many = [0.0, 1.0] * 50
    assert mean_and_interval(many)[1] == pytest.approx([0.5 - 0.102614, 0.5 + 0.102614], abs=1e-5)


def test_one_seed_has_no_interval_and_none_no_mean():
    assert mean_and_interval([0.5, None]) == (0.5, None)
    assert mean_and_interval([None]) == (None, None)


def test_the_quantiles_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    assert [round(float(stats.t.ppf(0.975, degrees)), 3) for degrees in range(1, 31)] == list(STUDENT_T)


def rate(win_rate, decided, n=10):
    return {"judge": "j", "kind": "inspector", "n": n, "win_rate": win_rate, "wins_over_decided": decided}


def figures(win_rate, decided, shift, categories):
    def part(of_rate):
        return {"judges": [of_rate], "score_shift": {"j": {"shift": {"mean": shift}}}}

    level = {"mean": shift, "share_above": win_rate}
    levels = {"j": {"before": level, "after": {"mean": 2 * shift, "share_above": win_rate}}}
    by = {"type": {value: part(rate(own, own, 5)) for value, own in categories.items()}}
    return part(rate(win_rate, decided)) | {"score_level": levels, "by": by}


def test_figures_over_seeds_have_the_form_of_each_seeds():
    result = over_seeds({"1": figures(0.4, 0.5, 0.1, {"b": 0.2}), "2": figures(0.6, None, 0.3, {"b": 0.4, "a": 0.9})})
    assert list(result) == ["seeds", "judges", "score_shift", "score_level", "by"]
    assert result["seeds"] == ["1", "2"]
    [judged] = result["judges"]
    assert (judged["judge"], judged["kind"], judged["n"]) == ("j", "inspector", 10)
    assert judged["win_rate"] == pytest.approx(0.5)
    assert judged["ci95"] == pytest.approx([0.5 - 1.2706, 0.5 + 1.2706])  # 12.706 * 0.1414 / sqrt(2)
    assert (judged["wins_over_decided"], judged["wins_over_decided_ci95"]) == (0.5, None)
    assert result["score_shift"]["j"]["shift"]["mean"] == pytest.approx(0.2)
    assert result["score_shift"]["j"]["mean_shift_interval"] == pytest.approx([0.2 - 1.2706, 0.2 + 1.2706])
    assert result["score_level"]["j"]["after"]["mean"] == pytest.approx(0.4)
    assert result["score_level"]["j"]["before"]["share_above_interval"] == pytest.approx([0.5 - 1.2706, 0.5 + 1.2706])
    categories = result["by"]["type"]
    assert list(categories) == ["a", "b"]
    assert (categories["a"]["judges"][0]["win_rate"], categories["a"]["judges"][0]["ci95"]) == (0.9, None)
    assert categories["b"]["judges"][0]["win_rate"] == pytest.approx(0.3)
