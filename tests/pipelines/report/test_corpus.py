import random

import pyarrow as pa
from example_run import CORPUS, aligned_rows
from hypothesis import given
from hypothesis import strategies as st

from pipelines.report.corpus import SHOWN_CHARACTERS, columns_of, rank, show_text, summarise, take_turns
from pipelines.report.distribution import Distribution
from schemas.tables import aligned

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


def counted(found: Distribution):
    return dict(zip(found.values.tolist(), found.counts.tolist(), strict=True))


def test_counts_scores_and_lengths():
    corpus = summarise([batch_of(ROWS)], 10)
    assert (corpus.rows, corpus.changed) == (4, 2)
    assert corpus.decisions == {"rewritten": 2, "above_threshold": 1, "failed": 1}
    assert counted(corpus.before["kind"]) == {0.1: 1, 0.2: 1, 0.8: 1}
    assert counted(corpus.after["true"]) == {0.4: 1, 0.5: 1, 0.7: 1}
    assert counted(corpus.response_characters) == {0: 1, 3: 2, 7: 1}
    assert counted(corpus.aligned_characters) == {0: 2, 3: 1, 8: 1}


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


def test_samples_are_shared_out_over_what_else_rows_have_in_common():
    rows = [row(f"r{number:02d}", "rewritten", (0, 0), (1, 1)) for number in range(50)]
    last = sorted((entry["id"] for entry in rows), key=rank)[-3:]
    assert not set(last) & {sample.id for sample in summarise([batch_of(rows)], 4).samples}
    chosen = {sample.id for sample in summarise([batch_of(rows)], 4, [last[:2], last[2:]]).samples}
    assert len(chosen) == 4
    assert {last[0], last[2]} <= chosen


def test_turns_are_taken_queue_by_queue():
    assert take_turns(["abc", "a", "xb"], 9) == ["a", "x", "b", "c"]
    assert take_turns(["abc", "xyz"], 3) == ["a", "x", "b"]
    assert take_turns([], 3) == []


def test_rows_that_share_an_id_are_all_counted():
    corpus = summarise([batch_of([ROWS[0], ROWS[0]])], 10)
    assert corpus.rows == 2
    assert [sample.id for sample in corpus.samples] == ["a", "a"]


def test_nothing_of_an_empty_table():
    corpus = summarise([batch_of([])], 10)
    assert (corpus.rows, corpus.samples, counted(corpus.before["kind"])) == (0, [], {})


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
    made, _ = aligned_rows(random.Random(rows), rows)
    batch = batch_of(made, aligned(CORPUS, ("ethical",)))
    whole, parts = summarise([batch], most), summarise([batch.slice(0, cut), batch.slice(cut)], most)
    assert parts.samples == whole.samples
    assert parts.decisions == whole.decisions
    assert counted(parts.after["ethical"]) == counted(whole.after["ethical"])
    assert counted(parts.aligned_characters) == counted(whole.aligned_characters)
