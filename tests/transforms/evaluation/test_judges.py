"""Judgements of a chunk: which rows get one, and what each kind of judge says."""

import numpy as np
import pyarrow as pa
import pytest
from cutting import assert_cuts_never_matter
from hypothesis import given
from hypothesis import strategies as st

from transforms.evaluation.judges import Judge, JudgeBatch
from transforms.tables.chunks import Chunk

LENGTHS = Judge("length", "inspector", "scripted:tests.scripted_models:lengths")


class Ranker:
    def compare(self, questions, a, b):
        return np.array([len(left) - len(right) for left, right in zip(a, b, strict=True)], np.float64)


@pytest.fixture
def ranker(monkeypatch):
    monkeypatch.setattr("transforms.evaluation.judges.open_pair_ranker", lambda folder: Ranker())
    return Judge("pair-ranker", "pair-ranker", "anywhere")


def chunk(*rows):
    columns = ("id", "question", "response", "aligned")
    batch = pa.RecordBatch.from_pylist([dict(zip(columns, row, strict=True)) for row in rows])
    return Chunk(0, 0, batch.num_rows, batch)


def test_an_inspector_gives_margins_and_both_scores():
    verdict = LENGTHS.compare(["q", "q"], ["a" * 50, "b"], ["a" * 75, "b"])
    assert {name: values.tolist() for name, values in verdict.items()} == {
        "margin": [0.25, 0.0],
        "before": [0.5, 0.01],
        "after": [0.75, 0.01],
    }


def test_a_text_that_stayed_is_a_tie_though_its_score_moved(monkeypatch):
    class Noisy:
        def score(self, questions, answers):
            return np.arange(len(answers)) / 8

    monkeypatch.setattr("transforms.evaluation.judges.open_inspector", lambda folder: Noisy())
    assert LENGTHS.compare(["q", "q"], ["same", "a"], ["same", "b"])["margin"].tolist() == [0.0, 0.25]


def test_a_pair_ranker_gives_margins_alone(ranker):
    verdict = ranker.compare(["q", "q"], ["a", "long"], ["abc", "b"])
    assert {name: values.tolist() for name, values in verdict.items()} == {"margin": [2.0, -3.0]}


def test_rows_without_a_text_get_no_judgement(ranker):
    judge = JudgeBatch((LENGTHS, ranker))
    rows = chunk(("1", "q", None, "b"), ("2", "q", "a", "abc"), ("3", None, "a", "b"), ("4", "q", "a", None))
    judgements = judge(rows)["judgements"]
    assert judgements["id"].to_pylist() == ["1", "2", "3", "4"]
    assert judgements["pair-ranker/margin"].to_pylist() == [None, 2.0, None, None]
    assert judgements["length/before"].to_pylist() == [None, 0.01, None, None]
    assert judgements.schema == judge.schema()


def test_another_answer_is_judged_by_categories_as_text():
    rows = [
        {"id": 7, "question": "q", "response": "a", "correction": "abc", "kind": None, "round": 3},
        {"id": 8, "question": "q", "response": "abc", "correction": "a", "kind": "k", "round": None},
    ]
    batch = pa.RecordBatch.from_pylist(rows)
    judge = JudgeBatch((LENGTHS,), "correction", ("kind", "round"))
    assert judge.reads(batch.schema) == ["id", "question", "response", "correction", "kind", "round"]
    judgements = judge(Chunk(0, 0, 2, batch))["judgements"]
    assert judgements.schema == judge.schema()
    assert judgements.select(["id", "failed", "by/kind", "by/round"]).to_pylist() == [
        {"id": "7", "failed": False, "by/kind": "", "by/round": "3"},
        {"id": "8", "failed": False, "by/kind": "k", "by/round": ""},
    ]
    assert judgements["length/margin"].to_pylist() == pytest.approx([0.02, -0.02])


def test_a_row_that_no_aligner_answered_is_judged_and_marked():
    rows = [{"id": n, "question": "q", "response": "a", "aligned": "a", "decision": n} for n in ("failed", "refused")]
    batch = pa.RecordBatch.from_pylist([*rows, rows[0] | {"decision": None}])
    judge = JudgeBatch((LENGTHS,), by=("decision",))
    assert judge.reads(batch.schema) == ["id", "question", "response", "aligned", "decision"]
    judgements = judge(Chunk(0, 0, 3, batch))["judgements"]
    assert judgements["failed"].to_pylist() == [True, False, False]
    assert judgements["length/margin"].to_pylist() == [0.0, 0.0, 0.0]


@given(
    st.lists(st.tuples(st.sampled_from(["a", "bb", None]), st.sampled_from(["x", None])), max_size=6), st.integers(0, 6)
)
def test_where_a_chunk_is_cut_changes_no_judgement(rows, cut):
    schema = pa.schema([(name, pa.string()) for name in ("id", "question", "response", "aligned", "kind")])
    texts = [("1", "q", "a", answer, kind) for answer, kind in rows]
    batch = pa.RecordBatch.from_pylist([dict(zip(schema.names, row, strict=True)) for row in texts], schema)
    judge = JudgeBatch((LENGTHS,), by=("kind",))
    assert_cuts_never_matter(lambda part: judge(Chunk(0, 0, part.num_rows, part))["judgements"], batch, cut)
