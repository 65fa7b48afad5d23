"""What aligners do to scores: literal scores in, literal changes, controls and orders out."""

import numpy as np
import pytest

from transforms.alignment.conflicts import Changes, conflict_rows, harmers_first, means, shifted

NAN = float("nan")


@pytest.mark.parametrize(
    ("change_MM", "order"),
    [
        ([[0.5, -0.3], [0.1, 0.5]], ("long", "open")),  # long harms open, which comes after it
        ([[0.5, 0.1], [-0.3, 0.5]], ("open", "long")),
        ([[0.5, 0.1], [0.3, 0.5]], ("open", "long")),  # none harms; open helps more
        ([[0.5, 0.0], [0.0, 0.9]], ("long", "open")),
    ],
)
def test_those_that_harm_others_are_suggested_first(change_MM, order):
    given_MM = np.array(change_MM)
    assert harmers_first(("long", "open"), given_MM) == order
    np.testing.assert_array_equal(given_MM, change_MM)


def changes(before, after, control):
    return Changes(*(np.array(scores, float).reshape(-1, 2) for scores in (before, after, control)))


def test_each_aligner_has_a_row_for_each_criterion():
    one = changes([(0.5, 0.5)] * 2, [(0.75, 0.25), (1.0, 0.5)], [(0.5, 0.0), (0.25, 0.0)])
    two = changes([(0.5, NAN), (0.0, NAN)], [(0.25, NAN), (0.0, NAN)], [(0.5, NAN), (0.5, NAN)])
    rows = list(conflict_rows(("a", "b"), [one, two], seed=0))
    assert [(row["aligner"], row["criterion"]) for row in rows] == [("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")]
    named = ("rows", "change", "share_fallen", "control_change")
    assert [tuple(row[name] for name in named) for row in rows] == [
        (2, 0.375, 0.0, -0.125),
        (2, -0.125, 0.5, -0.5),
        (2, -0.125, 0.5, 0.25),
        (0, None, None, None),
    ]
    assert (rows[0]["change_low"], rows[0]["change_high"]) == (0.25, 0.5)
    assert (rows[0]["control_low"], rows[0]["control_high"]) == (-0.25, 0.0)
    assert {rows[3][name] for name in ("change_low", "change_high", "control_low", "control_high")} == {None}
    assert one.mean_M.tolist() == [0.375, -0.125]
    assert two.mean_M.tolist() == [-0.125, 0.0]


def test_a_single_row_has_no_control_and_no_interval():
    rows = list(conflict_rows(("a", "b"), [changes([(0.5, 0.5)], [(0.75, 0.25)], [(0.75, 0.25)])] * 2, seed=0))
    assert [row["change"] for row in rows] == [0.25, -0.25] * 2
    assert {row[name] for row in rows for name in ("control_change", "control_low", "change_low")} == {None}


def test_the_control_of_a_row_is_the_text_of_the_row_before():
    assert shifted(["x", "y", "z"]) == ["z", "x", "y"]
    assert shifted([]) == []


def test_a_mean_is_of_the_rows_that_have_a_score():
    assert means(np.array([(0.5, NAN), (NAN, NAN), (1.0, NAN)])) == [0.75, None]
