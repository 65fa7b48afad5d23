"""The guard alone: literal scores and columns in, reasons and outcomes out."""

import numpy as np
import pyarrow as pa
import pytest

from schemas.squads import SquadRules
from transforms.alignment.guard import decide_step, guard, is_same_text

NAN = float("nan")


@pytest.mark.parametrize(
    ("after", "turn", "reason"),
    [
        ((0.7, 0.9, 0.4), 0, None),
        ((0.1, 0.9, 0.4), 0, "scored_lower"),
        ((0.2, 0.9, 0.4), 0, "gained_too_little"),
        ((0.25, 0.9, 0.4), 0, "gained_too_little"),
        ((0.7, 0.5, 0.4), 0, "harmed:b"),
        ((0.7, 0.5, 0.1), 0, "harmed:b"),
        ((0.7, 0.6, 0.0), 0, "harmed:c"),
        ((0.7, 0.85, 0.4), 0, None),
        ((0.1, 0.9, 0.9), 2, None),
        ((0.0, 0.9, 0.9), 2, "harmed:a"),
        ((NAN, 0.9, 0.4), 0, "scored_lower"),
        ((0.7, NAN, 0.4), 0, "harmed:b"),
    ],
)
def test_a_rewrite_is_refused_by_its_own_score_first_then_by_the_one_it_harms_most(after, turn, reason):
    rules = SquadRules(guard_margin=0.1, guard_max_loss=0.15)
    before_NM, after_NM = np.array([(0.2, 0.9, 0.4)]), np.array([after])
    assert guard(before_NM, after_NM, np.array([turn]), rules, "abc").to_pylist() == [reason]
    np.testing.assert_array_equal(after_NM, [after])


def test_each_row_has_one_of_five_outcomes():
    columns = {
        "prompt": [None, "p", "p", "p", "p", "p"],
        "error": [None, "dead", None, None, None, None],
        "candidate": [None, None, " r ", "new", "new", None],
        "aligned": ["r"] * 6,
    }
    batch = pa.RecordBatch.from_pydict({name: pa.array(values, pa.string()) for name, values in columns.items()})
    is_same = is_same_text(batch.column("candidate"), batch.column("aligned"))
    assert is_same.to_pylist() == [False, False, True, False, False, False]
    refusals = pa.array([None, None, None, None, "scored_lower", None])
    assert decide_step(batch, refusals, is_same).to_pylist() == [
        "not_asked",
        "failed",
        "unchanged",
        "rewritten",
        "refused",
        "refused",
    ]
