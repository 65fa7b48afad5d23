from dataclasses import replace

import pyarrow as pa
import pytest
from cutting import assert_cuts_never_matter
from hypothesis import given
from hypothesis import strategies as st

from schemas.criteria.pack import load_pack
from schemas.squads import SquadRules
from transforms.alignment.guard import apply_guard, propose
from transforms.alignment.members import Member
from transforms.alignment.routing import route, start_state
from transforms.alignment.trajectories import start_trajectory, sum_up, trajectories
from transforms.engines.engine import EngineConfig, Sampling
from transforms.generation.generate import Model
from transforms.tables.chunks import Chunk
from transforms.tables.columns import with_columns

MEMBER = Member(
    criterion="kind",
    inspector="unused",
    model=Model(engine=EngineConfig(engine="scripted", args={"function": "m:f"}), sampling=Sampling()),
)
ONCE = SquadRules(routing="fixed")
EVERY_ROW = replace(ONCE, every_row=True)


def scores(values):
    return pa.array([None if value is None else {"kind": value} for value in values], pa.struct({"kind": pa.float64()}))


def rows(count=5):
    """Rows scored .2, .9, .4, .1 and one that is empty."""
    batch = pa.RecordBatch.from_pydict(
        {
            "id": [f"id{i}" for i in range(5)],
            "question": ["q0", "q1", "q2", "q3", "q4"],
            "response": ["bad", "good", "so so", "bad too", " "],
        }
    )
    batch = start_state(batch)
    batch = with_columns(batch, scores=scores([0.2, 0.9, 0.4, 0.1, None]))
    return start_trajectory(batch).slice(0, count)


def ids_and_errors(batch):
    return batch.column("id").to_pylist(), batch.column("error").to_pylist()


def answered(batch, texts, reasons=None):
    """The batch as `Generate` would leave it: row 3 failed."""
    asked = [prompt is not None for prompt in batch.column("prompt").to_pylist()]
    completions = [text if ask else None for text, ask in zip(texts, asked, strict=True)]
    reasons = reasons or ["stop" if text else None for text in completions]
    errors = ["dead" if row_id == "id3" else error for row_id, error in zip(*ids_and_errors(batch), strict=True)]
    return with_columns(
        batch, completion=pa.array(completions, pa.string()), finish_reason=pa.array(reasons), error=pa.array(errors)
    )


def aligned(texts, after, rules=ONCE, reasons=None):
    batch = route(rows(), [MEMBER], rules, 1)
    batch = propose(answered(batch, texts, reasons), [MEMBER])
    batch = with_columns(batch, candidate_scores=scores(after))
    return sum_up(apply_guard(batch, [MEMBER], rules, 1), 1)


def test_only_rows_below_the_threshold_are_asked_for():
    routed = route(rows(), [replace(MEMBER, threshold=0.4)], ONCE, 1)
    assert routed.column("prompt").to_pylist() == [
        "q0 [INIT] bad [ALIGNED]",
        None,
        None,
        "q3 [INIT] bad too [ALIGNED]",
        None,
    ]
    everything = route(rows(), [MEMBER], EVERY_ROW, 1)
    assert [prompt is not None for prompt in everything.column("prompt").to_pylist()] == [True] * 4 + [False]


def test_the_guard_refuses_what_scores_lower():
    batch = aligned([" better [DONE]", None, "worse", None, None], [0.8, None, 0.3, None, None])
    assert batch.column("aligned").to_pylist() == ["better", "good", "so so", "bad too", " "]
    assert batch.column("decision").to_pylist() == [
        "rewritten",
        "above_threshold",
        "refused",
        "failed",
        "failed",
    ]
    assert batch.column("scores_after").to_pylist() == [
        {"kind": 0.8},
        {"kind": 0.9},
        {"kind": 0.4},
        {"kind": 0.1},
        None,
    ]
    assert batch.column("error").to_pylist() == [None, None, None, "dead", "empty_response"]


def test_a_row_that_failed_after_a_rewrite_was_kept_is_rewritten():
    rules = SquadRules(routing="worst", rounds=2)
    batch = propose(answered(route(rows(1), [MEMBER], rules, 1), ["better"]), [MEMBER])
    batch = apply_guard(with_columns(batch, candidate_scores=scores([0.4])), [MEMBER], rules, 1)
    batch = with_columns(route(batch, [MEMBER], rules, 2), error=pa.array(["dead"]))
    batch = propose(with_columns(batch, completion=pa.nulls(1, pa.string())), [MEMBER])
    batch = apply_guard(with_columns(batch, candidate_scores=scores([None])), [MEMBER], rules, 2)
    [row] = sum_up(batch, 2).to_pylist()
    assert (row["decision"], row["aligned"], row["error"]) == ("rewritten", "better", "dead")
    assert (row["step_1"]["decision"], row["step_2"]["decision"]) == ("rewritten", "failed")


def test_without_the_guard_every_rewrite_stays():
    batch = aligned(
        ["better", "other", "worse", None, None], [0.8, 0.1, 0.3, None, None], replace(EVERY_ROW, guard=False)
    )
    assert batch.column("aligned").to_pylist()[:3] == ["better", "other", "worse"]
    assert batch.column("decision").to_pylist()[:3] == ["rewritten"] * 3


def test_with_a_margin_a_rewrite_has_to_gain_that_much():
    before = [dict(row)["kind"] for row in rows().column("scores").to_pylist()[:3]]
    texts = ["better", "other", "so so", None, None]
    gains = [0.25, 0.125, 0.0]
    after = [score + gain for score, gain in zip(before, gains, strict=True)]
    rules = replace(EVERY_ROW, guard_margin=0.2)
    batch = aligned(texts, [*after, None, None], rules)
    assert batch.column("decision").to_pylist()[:3] == ["rewritten", "refused", "unchanged"]
    assert batch.column("step_1").to_pylist()[1]["reason"] == "gained_too_little"
    lower = aligned(["better", *texts[1:]], [before[0] - 0.1, *after[1:], None, None], rules)
    assert lower.column("step_1").to_pylist()[0]["reason"] == "scored_lower"


@pytest.mark.parametrize(
    ("text", "finish", "decision", "reason", "kept"),
    [
        ("so so", "stop", "unchanged", None, "so so"),
        ("  ", "stop", "refused", "empty_rewrite", "so so"),
        ("cut o", "length", "refused", "truncated", "so so"),
    ],
)
def test_odd_rewrites(text, finish, decision, reason, kept):
    batch = aligned(
        ["x", None, text, None, None], [0.5, None, 0.6, None, None], reasons=["stop", None, finish, None, None]
    )
    assert batch.column("decision").to_pylist()[2] == decision
    assert batch.column("step_1").to_pylist()[2]["reason"] == reason
    assert batch.column("aligned").to_pylist()[2] == kept


@pytest.mark.parametrize(("routing", "decision"), [("fixed", "refused"), ("paper-002", "rewritten")])
def test_what_was_cut_off_is_refused_without_a_guard_too(routing, decision):
    rules = replace(EVERY_ROW, guard=False, routing=routing)
    batch = aligned(["cut o", None, None, None, None], [0.9, *[None] * 4], rules, ["length", *["stop"] * 4])
    assert batch.column("decision").to_pylist()[0] == decision


def test_a_long_text_may_be_rewritten_at_length():
    batch = with_columns(rows(2), aligned=pa.array(["a" * 90, "ä" * 3000]))
    assert route(batch, [MEMBER], EVERY_ROW, 1).column("max_tokens").to_pylist() == [64, 4032]
    fixed = route(batch, [MEMBER], replace(EVERY_ROW, routing="paper-002"), 1)
    assert "max_tokens" not in fixed.schema.names


@pytest.mark.parametrize(
    ("text", "decision", "reason"),
    [
        ("\nIt is rude.\nCorrection:\nBetter.\n\nInput:\nAnother question", "rewritten", None),
        ("\nIt is rude.\nCorrection:\nBett", "refused", "truncated"),
        ("\nIt is rude.", "refused", "truncated"),
    ],
)
def test_a_prompted_rewrite_is_whole_once_the_next_example_has_begun(text, decision, reason):
    member = replace(MEMBER, pack=load_pack("ethical"))
    batch = route(rows(1), [member], EVERY_ROW, 1)
    assert "q0" in batch.column("prompt").to_pylist()[0]
    batch = propose(answered(batch, [text], ["length"]), [member])
    batch = with_columns(batch, candidate_scores=scores([0.8]))
    [step] = apply_guard(batch, [member], ONCE, 1).column("step_1").to_pylist()
    assert (step["decision"], step["reason"]) == (decision, reason)


def test_trajectories_tell_every_step_of_every_row():
    batch = aligned([" better [DONE]", None, "worse", None, None], [0.8, None, 0.3, None, None])
    table = trajectories(Chunk(3, 100, 5, batch), 1, "c").to_pylist()
    assert [(row["row"], row["step"]) for row in table] == [(100 + row, step) for row in range(5) for step in (0, 1)]
    assert table[1] == {
        "id": "id0",
        "shard": "c",
        "row": 100,
        "step": 1,
        "member": "kind",
        "text": "better",
        "scores": [("kind", 0.8)],
        "candidate_scores": [("kind", 0.8)],
        "decision": "rewritten",
        "reason": None,
    }
    assert [row["decision"] for row in table if row["step"] == 1] == [
        "rewritten",
        "not_asked",
        "refused",
        "failed",
        "not_asked",
    ]
    assert (table[5]["text"], table[5]["scores"]) == ("worse", [("kind", 0.4)])
    assert table[5]["candidate_scores"] == [("kind", 0.3)]


@given(st.integers(0, 5))
def test_cutting_a_batch_changes_nothing(cut):
    def whole(batch):
        batch = route(batch, [MEMBER], ONCE, 1)
        texts = [f"{row} again" for row in batch.column("response").to_pylist()]
        finish = pa.array(["stop"] * batch.num_rows, pa.string())
        completion = pa.array(texts, pa.string())
        batch = with_columns(batch, completion=completion, finish_reason=finish)
        batch = propose(batch, [MEMBER])
        batch = with_columns(batch, candidate_scores=batch.column("scores"))
        return sum_up(apply_guard(batch, [MEMBER], ONCE, 1), 1)

    assert_cuts_never_matter(whole, rows(), cut)
