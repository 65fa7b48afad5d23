"""Judgements of a chunk: which rows get one, and what each kind of judge says."""

import numpy as np
import pyarrow as pa
import pytest

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
    assert judgements["id"].to_pylist() == ["2"]
    assert judgements["pair-ranker/margin"].to_pylist() == [2.0]
    assert judgements.schema.names == judge.schema().names
