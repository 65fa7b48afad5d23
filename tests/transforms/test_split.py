"""The split: shares, stability, near-duplicates together, the inspector's inside train."""

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that
from cutting import assert_cuts_never_matter
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.near_duplicates import Similarity
from transforms.split import AlikePairs, ClusterQuestions, assign_splits, question_keys, splits_of
from transforms.tables import ReadTable, read_table

SHARES, INNER = (0.7, 0.15, 0.15), (0.8, 0.1, 0.1)


def batch_of(questions, clusters=None, identity=None) -> pa.RecordBatch:
    columns = {
        "question": pa.array(questions, pa.string()),
        "cluster": pa.array(clusters or [None] * len(questions), pa.string()),
    }
    if identity is not None:
        columns["identity"] = pa.array(identity, pa.bool_())
    return pa.RecordBatch.from_pydict(columns)


def split(batch, seed=0, **more) -> list[dict]:
    return assign_splits(batch, SHARES, INNER, seed, **more).to_pylist()


def test_shares_are_met_and_the_inspectors_split_lies_inside_train():
    rows = split(batch_of([f"Question {i}?" for i in range(4000)]))
    outer = [row["split"] for row in rows]
    inner = [row["inspector_split"] for row in rows if row["split"] == "train"]
    assert {row["inspector_split"] for row in rows if row["split"] != "train"} == {None}
    for found, shares in ((outer, SHARES), (inner, INNER)):
        for name, share in zip(("train", "validation", "test"), shares, strict=True):
            assert abs(found.count(name) / len(found) - share) < 0.025


def test_the_split_never_changes():
    assert splits_of([*"abcdef"], "split", SHARES, 0).tolist() == ["test", *["train"] * 4, "validation"]
    assert splits_of([*"abcdef"], "split", SHARES, 1).tolist() == ["test", "train", "test", "train", "train", "test"]
    assert set(splits_of([*"abcdef"], "split", (1.0, 0.0, 0.0), 0)) == {"train"}
    assert set(splits_of([*"abcdef"], "split", (0.0, 0.0, 1.0), 0)) == {"test"}


def test_equal_questions_and_equal_clusters_go_together():
    rows = split(batch_of([f"{i} what?" for i in range(60)] + [f"{i}: WHAT" for i in range(60)]))
    assert [row["split"] for row in rows[:60]] == [row["split"] for row in rows[60:]]
    assert [row["cluster"] for row in rows[:60]] == [row["cluster"] for row in rows[60:]]
    rows = split(batch_of([f"Question {i}?" for i in range(60)], ["one"] * 60))
    assert {(row["cluster"], row["split"], row["inspector_split"]) for row in rows} == {
        ("one", rows[0]["split"], rows[0]["inspector_split"])
    }


def test_identity_triples_are_not_for_inspectors():
    questions = [f"Question {i}?" for i in range(40)]
    with_identity = split(batch_of(questions, identity=[True] * 20 + [None] * 20))
    without = split(batch_of(questions))
    assert [row["split"] for row in with_identity] == [row["split"] for row in without]
    assert {row["inspector_split"] for row in with_identity[:20]} == {None}
    assert [row["inspector_split"] for row in with_identity[20:]] == [row["inspector_split"] for row in without[20:]]


def test_alike_pairs_are_not_for_inspectors(minilm):
    batch = pa.RecordBatch.from_pydict(
        {
            "question": ["Q1", "Q2"],
            "cluster": pa.array([None, None], pa.string()),
            "response": ["The cat sat on the mat.", "Go away, you fool."],
            "correction": ["The cat sat upon the mat.", "I would be glad to help with your garden."],
        }
    )
    everything = (1.0, 0.0, 0.0)
    rows = assign_splits(batch, everything, everything, 0, AlikePairs(str(minilm), 0.9)).to_pylist()
    assert [(row["split"], row["inspector_split"]) for row in rows] == [("train", None), ("train", "train")]


TEXT = st.one_of(st.none(), st.text(max_size=5))


@settings(deadline=None)
@given(
    st.lists(st.tuples(TEXT, st.one_of(st.none(), st.text(max_size=3)), st.booleans()), max_size=8), st.integers(0, 8)
)
def test_cuts_never_matter(rows, cut):
    batch = batch_of(*([row[i] for row in rows] for i in range(2)), identity=[row[2] for row in rows])
    assert_cuts_never_matter(lambda part: assign_splits(part, SHARES, INNER, 0), batch, cut)


@pytest.mark.parametrize("order", [1, -1])
def test_near_duplicates_share_the_cluster_of_the_smallest_hash(tmp_path, order):
    questions = ["how may I help my friend today", "how may I help my friend today please", "who is there"]
    keys = question_keys(pa.RecordBatch.from_pydict({"question": questions}))
    pq.write_table(pa.table({"question": questions[::order]}), tmp_path / "q.parquet")
    table = read_table(str(tmp_path))
    first = min(keys[:2])

    def check(found):
        decided = [(row["row"], row["cluster"]) for _, batch in found for row in batch.to_pylist()]
        assert sorted(decided) == ([(0, first), (1, first)] if order == 1 else [(1, first), (2, first)])

    with beam.Pipeline(runner=FnApiRunner()) as root:
        clusters = root | ReadTable(table) | ClusterQuestions(table, Similarity(words=2, jaccard=0.7))
        assert_that(clusters, check)
