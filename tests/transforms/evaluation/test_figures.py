"""Figures of judgements: all rows, categories, and the table of win rates."""

import numpy as np
import pyarrow as pa

from transforms.evaluation.figures import by_category, figures, two_way, win_rates_table
from transforms.evaluation.judges import Judge

INSPECTOR = Judge("i", "inspector", "")
RANKER = Judge("r", "pair-ranker", "")
JUDGEMENTS = pa.table(
    {
        "id": ["1", "2", "3", "4"],
        "by/type": ["b", "a", "b", ""],
        "i/margin": [0.5, -0.25, 0.0, 0.25],
        "i/before": [0.25, 0.5, 0.5, 0.25],
        "i/after": [0.75, 0.25, 0.5, 0.5],
        "r/margin": [1.0, 2.0, -1.0, 3.0],
    }
)


def test_every_judge_has_its_rates_and_those_that_score_their_shifts_and_levels():
    result = figures([INSPECTOR, RANKER], JUDGEMENTS, 0)
    assert list(result) == ["judges", "score_shift", "score_level"]
    assert [(one["judge"], one["wins"], one["losses"], one["ties"]) for one in result["judges"]] == [
        ("i", 2, 1, 1),
        ("r", 3, 1, 0),
    ]
    assert list(result["score_shift"]) == list(result["score_level"]) == ["i"]
    assert result["score_shift"]["i"]["shift"]["mean"] == 0.125
    assert {when: level["share_above"] for when, level in result["score_level"]["i"].items()} == {
        "before": 0.5,
        "after": 0.75,
    }


def test_categories_are_told_apart_and_rows_without_one_are_one():
    result = by_category([INSPECTOR, RANKER], JUDGEMENTS, ["type"], 0)["type"]
    assert list(result) == ["", "a", "b"]
    counts = {
        value: [(one["n"], one["wins"], one["losses"]) for one in part["judges"]] for value, part in result.items()
    }
    assert counts == {"": [(1, 1, 0), (1, 1, 0)], "a": [(1, 0, 1), (1, 1, 0)], "b": [(2, 1, 0), (2, 1, 1)]}
    assert result["b"]["score_shift"]["i"]["shift"]["mean"] == 0.25


def test_a_category_of_all_rows_has_the_figures_of_all_rows():
    judgements = JUDGEMENTS.set_column(1, "by/type", pa.array(["same"] * 4))
    all_rows = figures([INSPECTOR], judgements, 3)
    assert by_category([INSPECTOR], judgements, ["type"], 3) == {
        "type": {"same": {name: all_rows[name] for name in ("judges", "score_shift")}}
    }


def test_the_table_has_a_row_for_each_label_judge_and_category():
    of_label = figures([INSPECTOR, RANKER], JUDGEMENTS, 0)
    of_label["by"] = by_category([INSPECTOR], JUDGEMENTS, ["type"], 0)
    over = {
        "seeds": ["1", "2"],
        "judges": [
            {
                "judge": "i",
                "n": 4,
                "win_rate": 0.5,
                "ci95": [0.25, 0.75],
                "wins_over_decided": None,
                "wins_over_decided_ci95": None,
            }
        ],
        "score_shift": {"i": {"shift": {"mean": 0.5}, "mean_shift_interval": [0.0, 1.0]}},
        "by": {},
    }
    rows = win_rates_table({"g@1": of_label}, {"g": over}).to_pylist()
    names = ("label", "seeds", "judge", "column", "value", "n", "wins", "losses", "ties", "win_rate")
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("g@1", None, "i", "", "", 4, 2, 1, 1, 0.5),
        ("g@1", None, "r", "", "", 4, 3, 1, 0, 0.75),
        ("g@1", None, "i", "type", "", 1, 1, 0, 0, 1.0),
        ("g@1", None, "i", "type", "a", 1, 0, 1, 0, 0.0),
        ("g@1", None, "i", "type", "b", 2, 1, 0, 1, 0.5),
        ("g", 2, "i", "", "", 4, None, None, None, 0.5),
    ]
    first, second, *_, last = rows
    judged = of_label["judges"][0]
    assert [first["low"], first["high"]] == judged["ci95"]
    assert [first["decided_low"], first["decided_high"]] == judged["wins_over_decided_ci95"]
    assert [first["shift_low"], first["shift_high"]] == of_label["score_shift"]["i"]["mean_shift_interval"]
    assert (first["shift"], second["shift"]) == (0.125, None)
    assert [last[name] for name in ("low", "high", "decided_low", "shift", "shift_high")] == [
        0.25,
        0.75,
        None,
        0.5,
        1.0,
    ]


def test_two_way_items_are_won_where_the_correction_is_better(monkeypatch):
    class Lengths:
        def score(self, questions, answers):
            return np.array([len(answer) / 10 for answer in answers])

    monkeypatch.setattr("transforms.evaluation.judges.open_inspector", lambda folder: Lengths())
    items = pa.table({"correction": ["long", "a"], "question": ["q", "q"], "response": ["b", "longer"]})
    [result] = two_way([INSPECTOR], "hhh", items, 0)
    assert (result["judge"], result["file"], result["items"], result["right"]) == ("i", "hhh", 2, 1)
