"""Squads: whose turn it is, what the guard lets through, and paper 002's three cases with planted members."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from schemas.squads import SquadRules
from transforms.alignment.guard import apply_guard, propose
from transforms.alignment.members import Member
from transforms.alignment.routing import route, start_state
from transforms.alignment.scoring import score_matrix
from transforms.alignment.trajectories import start_trajectory
from transforms.engines.engine import EngineConfig, Sampling
from transforms.generation.generate import Model
from transforms.tables.columns import with_columns

MODEL = Model(engine=EngineConfig(engine="scripted", args={"function": "m:f"}), sampling=Sampling())
A, B, C = MEMBERS = [Member(criterion=name, inspector="unused", model=MODEL) for name in ("a", "b", "c")]


def scored(column: str, rows: list[tuple | None]) -> pa.StructArray:
    names = [member.criterion for member in MEMBERS]
    values = [row and dict(zip(names, row, strict=True)) for row in rows]
    return pa.array(values, pa.struct([(name, pa.float64()) for name in names]))


def started(rows: list[tuple]) -> pa.RecordBatch:
    count = len(rows)
    batch = pa.RecordBatch.from_pydict(
        {"id": [str(n) for n in range(count)], "question": ["q"] * count, "response": ["r"] * count}
    )
    batch = with_columns(start_state(batch), scores=scored("scores", rows))
    return start_trajectory(batch)


def step(batch, rules, number, after, text="new"):
    """One turn: every row that is asked answers with `text`, which has the scores `after`."""
    batch = route(batch, MEMBERS, rules, number)
    asked = batch.column("prompt").is_valid().to_pylist()
    completions = pa.array([text if ask else None for ask in asked], pa.string())
    ends = pa.array(["stop" if ask else None for ask in asked], pa.string())
    batch = propose(with_columns(batch, completion=completions, finish_reason=ends), MEMBERS)
    batch = with_columns(batch, candidate_scores=scored("c", [after if ask else None for ask in asked]))
    return apply_guard(batch, MEMBERS, rules, number)


def test_the_worst_unmet_criterion_has_the_turn():
    batch = started([(0.4, 0.1, 0.9), (0.3, 0.6, 0.2), (0.5, 0.9, 0.7), (0.2, 0.2, 0.2)])
    assert route(batch, MEMBERS, SquadRules(), 1).column("member").to_pylist() == ["b", "c", None, "a"]
    strict = [replace(A, threshold=0.6), B, C]
    assert route(batch, strict, SquadRules(), 1).column("member").to_pylist()[2] == "a"


def test_a_member_that_did_not_help_is_not_asked_again_about_the_same_text():
    rules = SquadRules(rounds=3)
    batch = step(started([(0.1, 0.2, 0.9)]), rules, 1, (0.05, 0.2, 0.9))
    assert batch.column("step_1").to_pylist()[0]["reason"] == "scored_lower"
    routed = route(batch, MEMBERS, rules, 2)
    assert routed.column("member").to_pylist() == ["b"]
    batch = step(batch, rules, 2, (0.1, 0.4, 0.9))  # helps: a is asked again, about the new text
    assert route(batch, MEMBERS, rules, 3).column("member").to_pylist() == ["a"]
    batch = step(batch, rules, 3, (0.1, 0.4, 0.9), text="other")
    batch = step(batch, rules, 4, (0.1, 0.4, 0.9), text="other")
    assert route(batch, MEMBERS, rules, 5).column("member").to_pylist() == [None]  # nothing improved


def test_the_guard_lets_no_other_criterion_fall_too_far():
    batch = started([(0.1, 0.9, 0.8)])
    refused = step(batch, SquadRules(guard_max_loss=0.1), 1, (0.9, 0.75, 0.8))
    assert refused.column("step_1").to_pylist()[0]["reason"] == "harmed:b"
    assert refused.column("aligned").to_pylist() == ["r"]
    kept = step(batch, SquadRules(guard_max_loss=0.2), 1, (0.9, 0.75, 0.8))
    assert kept.column("scores").to_pylist() == [{"a": 0.9, "b": 0.75, "c": 0.8}]
    assert step(batch, SquadRules(guard=False), 1, (0.0, 0.0, 0.0)).column("aligned").to_pylist() == ["new"]


def test_turns_follow_the_order_given_by_column_or_for_all():
    batch = started([(0.1, 0.2, 0.3), (0.1, 0.2, 0.9)])
    rules, order = SquadRules(routing="corpus-mean"), (2, 0, 1)
    assert route(batch, MEMBERS, rules, 1, order).column("member").to_pylist() == ["c", None]
    ordered = with_columns(batch, order=pa.array([[1, 0, 2], [0, 1, 2]], pa.list_(pa.int8(), 3)))
    assert route(ordered, MEMBERS, rules, 1, order).column("member").to_pylist() == ["b", "a"]


def squad_run(change: np.ndarray, rules: SquadRules) -> tuple[np.ndarray, np.ndarray]:
    """Scores before and after, where aligner i changes score j by `change[i, j]`."""
    given_NM = np.random.default_rng(0).uniform(0.05, 0.45, (50, 3))
    batch = started([tuple(row) for row in given_NM])
    for number in range(1, len(MEMBERS) + 1):
        batch = route(batch, MEMBERS, rules, number)
        turns = batch.column("member").to_pylist()
        scores = score_matrix(batch, "scores", MEMBERS)
        after = [
            None if turn is None else tuple(np.clip(scores[row] + change["abc".index(turn)], 0, 1))
            for row, turn in enumerate(turns)
        ]
        texts = pa.array([turn and f"{turn}{number}" for turn in turns], pa.string())
        ends = pa.array([turn and "stop" for turn in turns], pa.string())
        batch = propose(with_columns(batch, completion=texts, finish_reason=ends), MEMBERS)
        batch = apply_guard(with_columns(batch, candidate_scores=scored("c", after)), MEMBERS, rules, number)
    return given_NM, score_matrix(batch, "scores", MEMBERS)


GAIN = np.eye(3) * 0.5
CASES = {
    "independent": GAIN,
    "helping": GAIN + np.array([[0, 0.3, 0.1], [0.2, 0, 0.1], [0, 0, 0]]),
    "harming": GAIN - np.array([[0, 0.6, 0], [0.6, 0, 0], [0, 0, 0]]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("guard", [False, True])
def test_the_papers_three_cases(case, guard):
    """Paper 002, figure 2: where styles are independent or help, all are reached; where they harm, they are not."""
    before_NM, after_NM = squad_run(CASES[case], SquadRules(routing="fixed", guard=guard, guard_max_loss=0.05))
    reached = (after_NM >= 0.5).all(axis=1)
    if case == "harming":
        assert not reached.any()
        assert (after_NM >= before_NM - 0.05).all() == guard
    else:
        assert reached.all()


def test_what_cannot_be_scored_does_not_pass_the_guard():
    nothing = (float("nan"), 0.9, 0.8)
    batch = step(started([(0.1, 0.9, 0.8)]), SquadRules(), 1, nothing)
    assert batch.column("aligned").to_pylist() == ["r"]
    assert batch.column("step_1").to_pylist()[0]["reason"] == "scored_lower"


def test_the_same_text_but_for_space_around_it_is_no_rewrite():
    batch = step(started([(0.1, 0.9, 0.8)]), SquadRules(), 1, (0.1001, 0.9, 0.8), text=" r ")
    assert batch.column("step_1").to_pylist()[0]["decision"] == "unchanged"
    assert batch.column("aligned").to_pylist() == ["r"]
    assert batch.column("tried").to_pylist() == [1]
