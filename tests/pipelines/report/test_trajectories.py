import random

import pyarrow as pa
from example_run import CORPUS, aligned_rows
from hypothesis import given
from hypothesis import strategies as st

from pipelines.report.corpus import rank, summarise
from pipelines.report.trajectories import FOLLOWED, Turn, follow, give_steps
from schemas.tables import TRAJECTORIES, aligned


def batch_of(steps):
    return pa.RecordBatch.from_pylist(steps, TRAJECTORIES)


def step(row_id, number, member, text, scores, decision, reason=None, row=0, candidate=None):
    return {
        "id": row_id,
        "shard": "rows",
        "row": row,
        "step": number,
        "member": member,
        "text": text,
        "scores": scores,
        "candidate_scores": candidate,
        "decision": decision,
        "reason": reason,
    }


STEPS = [
    step("a", 1, "kind", "Because.", [("kind", 0.9), ("true", 0.4)], "refused", "scored_lower", 0, [("kind", 0.05)]),
    step("a", 0, None, "No.", [("kind", 0.1), ("true", 0.5)], "as_given"),
    step("a", 0, None, "Another row with this id.", [("kind", 0.3), ("true", None)], "as_given", row=7),
    step("x", 1, None, None, None, "not_asked", row=9),
]


def sampled(*ids):
    row = {"question": "Why?", "response": "No.", "aligned": "No.", "decision": "refused"}
    schema = aligned(CORPUS, ("kind", "true"))
    return summarise([pa.RecordBatch.from_pylist([{"id": row_id, **row} for row_id in ids], schema)], 10).samples


def counted(found):
    return {
        (number, name): dict(zip(scores.values.tolist(), scores.counts.tolist(), strict=True))
        for number, by_criterion in found.scores.items()
        for name, scores in by_criterion.items()
    }


def test_scores_and_turns_are_counted_by_step():
    found = follow([batch_of(STEPS).select(FOLLOWED)], 10)
    assert counted(found) == {
        (0, "kind"): {0.1: 1, 0.3: 1},
        (0, "true"): {0.5: 1},
        (1, "kind"): {0.9: 1},
        (1, "true"): {0.4: 1},
    }
    assert found.turns == {
        Turn(0, None, "as_given", None): 2,
        Turn(1, "kind", "refused", "scored_lower"): 1,
        Turn(1, None, "not_asked", None): 1,
    }
    assert (found.criteria, found.members(0), found.members(1)) == (["kind", "true"], [], ["kind"])


def test_members_come_in_the_order_of_the_criteria():
    scores = [("true", 0.5), ("kind", 0.5)]
    found = follow([batch_of([step(name, 1, name, "", scores, "refused") for name in ("kind", "other", "true")])], 10)
    assert found.members(1) == ["true", "kind", "other"]


def test_queues_hold_the_lowest_ids_of_every_member_decision_and_reason():
    ids = [f"r{number}" for number in range(30)]
    steps = [step(row_id, 1, "kind", "", None, "refused", "scored_lower") for row_id in ids]
    steps += [step(row_id, 2, "kind", "", None, "refused", "scored_lower") for row_id in ids[:5]]
    steps += [step("r9", 2, "true", "", None, "refused", "harmed:kind"), step("r8", 2, None, None, None, "not_asked")]
    assert follow([batch_of(steps)], 4).queues == [sorted(ids, key=rank)[:4], ["r9"]]


def test_samples_are_given_their_own_steps():
    samples = sampled("a", "b")
    give_steps([batch_of(STEPS)], samples)
    first = next(sample for sample in samples if sample.id == "a")
    told = [(entry.step, entry.text.text, entry.scores, entry.candidate, entry.reason) for entry in first.steps]
    assert told == [
        (0, "No.", {"kind": 0.1, "true": 0.5}, {}, None),
        (1, "Because.", {"kind": 0.9, "true": 0.4}, {"kind": 0.05}, "scored_lower"),
    ]
    assert [sample.steps for sample in samples if sample.id == "b"] == [[]]


def test_tables_without_the_scores_of_what_was_proposed_are_read():
    samples = sampled("a")
    give_steps([batch_of(STEPS).drop_columns(["candidate_scores"])], samples)
    assert [entry.candidate for entry in samples[0].steps] == [{}, {}]


@given(st.integers(0, 40), st.integers(0, 80), st.integers(1, 12))
def test_where_batches_are_cut_never_matters(rows, cut, most):
    made, steps = aligned_rows(random.Random(rows), rows)
    batch, table = batch_of(steps), pa.RecordBatch.from_pylist(made, aligned(CORPUS, ("ethical",)))
    parts = [batch.slice(0, cut), batch.slice(cut)]
    together, apart = follow([batch], most), follow(parts, most)
    assert (counted(together), together.turns, together.queues) == (counted(apart), apart.turns, apart.queues)
    one, two = (summarise([table], most, together.queues).samples for _ in range(2))
    give_steps([batch], one)
    give_steps(parts, two)
    assert one == two
    assert all(sample.steps for sample in one)
