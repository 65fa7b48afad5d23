"""The split: shares, stability, near-duplicates together, the inspector's inside train."""

import apache_beam as beam
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that
from cutting import assert_cuts_never_matter
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.curation.split import (
    AlikePairs,
    ClusterQuestions,
    Shares,
    SplitBefore,
    assign_splits,
    by_question,
    name_clusters,
    question_keys,
)
from transforms.tables.chunks import Keyed
from transforms.tables.read import ReadTable
from transforms.tables.table import read_table
from transforms.texts.near_duplicates import Similarity
from transforms.texts.shingles import shingles
from transforms.texts.words import words_of

SHARES, INNER = (0.7, 0.15, 0.15), (0.8, 0.1, 0.1)
SIMILARITY = Similarity(words=2, jaccard=0.7)


def batch_of(questions, clusters=None, identity=None) -> pa.RecordBatch:
    columns = {
        "question": pa.array(questions, pa.string()),
        "cluster": pa.array(clusters or [None] * len(questions), pa.string()),
    }
    if identity is not None:
        columns["identity"] = pa.array(identity, pa.bool_())
    return pa.RecordBatch.from_pydict(columns)


def split(batch, seed=0, **more) -> list[dict]:
    return assign_splits(batch, Shares(SHARES, INNER, seed), **more).to_pylist()


def test_shares_are_met_and_the_inspectors_split_lies_inside_train():
    rows = split(batch_of([f"Question {i}?" for i in range(4000)]))
    outer = [row["split"] for row in rows]
    inner = [row["inspector_split"] for row in rows if row["split"] == "train"]
    assert {row["inspector_split"] for row in rows if row["split"] != "train"} == {None}
    for found, shares in ((outer, SHARES), (inner, INNER)):
        for name, share in zip(("train", "validation", "test"), shares, strict=True):
            assert abs(found.count(name) / len(found) - share) < 0.025


def test_the_split_never_changes():
    def draw(shares, seed):
        return Shares(shares, INNER, seed).draw(pa.array([*"abcdef"]), "split").to_pylist()

    assert draw(SHARES, 0) == ["train", "test", "validation", "validation", "train", "train"]
    assert draw(SHARES, 1) == ["train"] * 6
    assert set(draw((1.0, 0.0, 0.0), 0)) == {"train"}
    assert set(draw((0.0, 0.0, 1.0), 0)) == {"test"}


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
    alike = AlikePairs(str(minilm), 0.9)
    rows = assign_splits(batch, Shares(everything, everything, 0), alike=alike).to_pylist()
    assert [(row["split"], row["inspector_split"]) for row in rows] == [("train", None), ("train", "train")]


TEXT = st.one_of(st.none(), st.text(max_size=5))


@settings(deadline=None)
@given(
    st.lists(st.tuples(TEXT, st.one_of(st.none(), st.text(max_size=3)), st.booleans()), max_size=8), st.integers(0, 8)
)
def test_cuts_never_matter(rows, cut):
    batch = batch_of(*([row[i] for row in rows] for i in range(2)), identity=[row[2] for row in rows])
    assert_cuts_never_matter(lambda part: assign_splits(part, Shares(SHARES, INNER, 0)), batch, cut)


@pytest.mark.parametrize("order", [1, -1])
def test_near_duplicates_share_the_cluster_of_the_smallest_hash(tmp_path, order):
    questions = ["how may I help my friend today", "how may I help my friend today please", "who is there"]
    keys = question_keys(pa.RecordBatch.from_pydict({"question": questions})).to_pylist()
    pq.write_table(pa.table({"question": questions[::order]}), tmp_path / "q.parquet")
    table = read_table(str(tmp_path))
    first = min(keys[:2])

    def check(found):
        decided = [(row["row"], row["cluster"]) for _, batch in found for row in batch.to_pylist()]
        assert sorted(decided) == ([(0, first), (1, first)] if order == 1 else [(1, first), (2, first)])

    with beam.Pipeline(runner=FnApiRunner()) as root:
        chunks, nothing = root | ReadTable(table), root | beam.Create([]).with_output_types(Keyed)
        clusters = (chunks, nothing) | ClusterQuestions(table, SIMILARITY, Shares(SHARES, INNER, 0))
        assert_that(clusters, check)


WORDS = ("may", "I", "ask", "who", "helped", "my", "old", "friend", "to", "move", "all", "of", "these", "big", "boxes")


def split_as_before(table, questions) -> dict[str, dict]:
    """Every question with its cluster, splits and drop reason, where those of `table` were split before."""
    shares, before = Shares(SHARES, INNER, 0), SplitBefore(table) if table else None
    batch = pa.RecordBatch.from_pydict({"question": questions})
    rows = pl.int_range(pl.len())
    members = by_question(batch).with_columns(shard=pl.lit(0), row=rows, text=rows)
    sets = shingles(words_of(batch.column("question")), SIMILARITY.words).sets()
    decided: dict[int, dict] = {}
    for _, found in name_clusters(members, sets, SIMILARITY.jaccard, shares, before):
        decided |= {row["row"]: row for row in found.to_pylist()}
    marks = [decided.get(row, {"cluster": None, "drop_reason": None}) for row in range(len(questions))]
    rows = assign_splits(batch_of(questions, [mark["cluster"] for mark in marks]), shares, before).to_pylist()
    return {row["question"]: row | {"drop_reason": mark["drop_reason"]} for row, mark in zip(rows, marks, strict=True)}


def test_splits_stay_when_rows_are_added_and_straddlers_are_dropped(tmp_path):
    """Chains of questions that differ in one word more each: the ends are split first, then those between them come."""
    chains = [
        [" ".join(f"{word}{number}" for word in WORDS[step : step + 11]) for step in range(5)] for number in range(40)
    ]
    first = split_as_before(None, [text for chain in chains for text in (chain[0], chain[4])])
    rows = [{key: row[key] for key in ("question", "cluster")} for row in first.values()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "before.parquet")
    everything = split_as_before(read_table(str(tmp_path)), [text for chain in chains for text in chain])

    def places(rows, texts):
        return {(rows[text]["split"], rows[text]["inspector_split"]) for text in texts}

    straddled = 0
    for chain in chains:
        for end in (chain[0], chain[4]):
            assert everything[end] == first[end]
        sides = places(first, (chain[0], chain[4]))
        between = {everything[text]["drop_reason"] for text in chain[1:4]}
        assert between == ({"straddles_split"} if len(sides) == 2 else {None})
        assert len(sides) == 2 or places(everything, chain) == sides
        straddled += len(sides) == 2
    assert 0 < straddled < len(chains)
    alone = split_as_before(None, [text for chain in chains for text in chain])
    assert any(alone[text]["cluster"] != row["cluster"] for text, row in first.items())  # what would happen otherwise
