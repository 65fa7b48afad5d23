import random

import numpy as np
import pyarrow as pa
from example_run import CORPUS, aligned_rows
from hypothesis import given
from hypothesis import strategies as st

from schemas.tables import TRAJECTORIES, aligned
from transforms.report.corpus import SHOWN_CHARACTERS, columns_of, follow, show_text, summarise

SCHEMA = aligned(CORPUS, ("kind", "true"))


def row(row_id, decision, before, after, response="No.", rewrite="No."):
    scores = [None if score is None else {"kind": score[0], "true": score[1]} for score in (before, after)]
    return {
        "id": row_id,
        "question": "Why?",
        "question_type": "reason",
        "topic": "why",
        "response": response,
        "aligned": rewrite,
        "decision": decision,
        "scores_before": scores[0],
        "scores_after": scores[1],
    }


ROWS = [
    row("a", "rewritten", (0.1, 0.5), (0.9, 0.4), "No.", "Because."),
    row("b", "above_threshold", (0.8, 0.7), (0.8, 0.7)),
    row("c", "failed", None, None, None, None),
    row("d", "rewritten", (0.2, None), (0.3, 0.5), "No way.", ""),
]


def batch_of(rows, schema=SCHEMA):
    return pa.RecordBatch.from_pylist(rows, schema)


def test_counts_scores_and_lengths():
    corpus = summarise([batch_of(ROWS)], 10)
    assert (corpus.rows, corpus.changed) == (4, 2)
    assert corpus.decisions == {"rewritten": 2, "above_threshold": 1, "failed": 1}
    np.testing.assert_equal(corpus.before["kind"], [0.1, 0.8, np.nan, 0.2])
    np.testing.assert_equal(corpus.after["true"], [0.4, 0.7, np.nan, 0.5])
    assert corpus.response_characters.tolist() == [3, 3, 0, 7]
    assert corpus.aligned_characters.tolist() == [8, 3, 0, 0]


def test_samples_carry_texts_scores_and_gain():
    samples = {sample.id: sample for sample in summarise([batch_of(ROWS)], 10).samples}
    assert samples["a"].response == ("No.", 3)
    assert samples["a"].before == {"kind": 0.1, "true": 0.5}
    assert round(samples["a"].gain, 6) == 0.7
    assert round(samples["d"].gain, 6) == 0.1  # the criterion with one score only does not count
    assert samples["c"].response is None
    assert samples["c"].before == {}
    assert [samples[name].unchanged for name in "abcd"] == [False, True, True, False]


def test_samples_are_shared_out_over_decisions():
    many = [row(f"r{number}", "rewritten", (0, 0), (1, 1)) for number in range(50)]
    few = [row(f"f{number}", "failed", (0, 0), (0, 0)) for number in range(3)]
    chosen = summarise([batch_of(many + few)], 10).samples
    decisions = [sample.decision for sample in chosen]
    assert decisions.count("failed") == 3
    assert decisions.count("rewritten") == 7


def test_rows_that_share_an_id_are_all_counted():
    corpus = summarise([batch_of([ROWS[0], ROWS[0]])], 10)
    assert corpus.rows == 2
    assert [sample.id for sample in corpus.samples] == ["a", "a"]


def test_nothing_of_an_empty_table():
    corpus = summarise([batch_of([])], 10)
    assert (corpus.rows, corpus.samples, corpus.before["kind"].tolist()) == (0, [], [])


def test_columns_of_leaves_out_what_a_corpus_lacks():
    schema = aligned(
        pa.schema({"id": pa.string(), "question": pa.string(), "response": pa.string(), "more": pa.int8()}), ("kind",)
    )
    assert columns_of(schema) == ["id", "decision", "question", "response", "aligned", "scores_before", "scores_after"]
    entry = {"id": "a", "question": "Why?", "response": "No.", "aligned": "No.", "decision": "unchanged"}
    batch = pa.RecordBatch.from_pylist([entry], schema).select(columns_of(schema))
    assert summarise([batch], 1).samples[0].topic is None


def test_show_text_cuts_and_says_so():
    shown = show_text("x" * (SHOWN_CHARACTERS + 1))
    assert shown.cut
    assert (len(shown.text), shown.characters) == (SHOWN_CHARACTERS, SHOWN_CHARACTERS + 1)
    assert not show_text("x").cut
    assert show_text(None) is None


@given(st.integers(0, 40), st.integers(0, 30), st.integers(0, 12))
def test_where_batches_are_cut_never_matters(rows, cut, most):
    made, steps = aligned_rows(random.Random(rows), rows)
    batch = batch_of(made, aligned(CORPUS, ("ethical",)))
    whole, parts = summarise([batch], most), summarise([batch.slice(0, cut), batch.slice(cut)], most)
    assert parts.samples == whole.samples
    assert parts.decisions == whole.decisions
    np.testing.assert_array_equal(parts.after["ethical"], whole.after["ethical"])
    np.testing.assert_array_equal(parts.aligned_characters, whole.aligned_characters)
    walk = batch_of(steps, TRAJECTORIES)
    together, apart = follow([walk], whole.samples), follow([walk.slice(0, cut), walk.slice(cut)], parts.samples)
    assert parts.samples == whole.samples
    assert apart.members == together.members
    for step, scores in together.scores.items():
        np.testing.assert_array_equal(apart.scores[step]["ethical"], scores["ethical"])


def step(row_id, number, place, member, text, scores, decision, reason=None):
    return {
        "id": row_id,
        "shard": "rows",
        "row": place,
        "step": number,
        "member": member,
        "text": text,
        "scores": scores,
        "decision": decision,
        "reason": reason,
    }


def test_follow_gathers_scores_by_step_and_gives_samples_their_steps():
    samples = summarise([batch_of(ROWS)], 10).samples
    steps = [
        step("a", 1, 0, "kind", "Because.", [("kind", 0.9), ("true", 0.4)], "rewritten"),
        step("a", 0, 0, None, "No.", [("kind", 0.1), ("true", 0.5)], "as_given"),
        step("a", 0, 7, None, "Another row with this id.", [("kind", 0.3), ("true", None)], "as_given"),
        step("x", 1, 9, "kind", None, None, "not_asked"),
    ]
    found = follow([batch_of(steps, TRAJECTORIES)], samples)
    assert found.members == {0: None, 1: "kind"}
    assert {name: scores.tolist() for name, scores in found.scores[0].items()} == {"kind": [0.1, 0.3], "true": [0.5]}
    assert {name: scores.tolist() for name, scores in found.scores[1].items()} == {"kind": [0.9], "true": [0.4]}
    first = next(sample for sample in samples if sample.id == "a")
    assert [(entry.step, entry.text.text, entry.scores) for entry in first.steps] == [
        (0, "No.", {"kind": 0.1, "true": 0.5}),
        (1, "Because.", {"kind": 0.9, "true": 0.4}),
    ]
