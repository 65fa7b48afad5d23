"""Semantic duplicates: what the kernels find, and that neither places nor clusters of one part copies."""

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.curation import semantic
from transforms.curation.preference import Preference
from transforms.curation.semantic import DropSameMeaning, Semantic, centres_of, same_kept
from transforms.tables.read import ReadTable
from transforms.tables.shards import Shard
from transforms.tables.table import Table, read_table

ROWS = [
    {"id": "a", "question": "How can I learn to cook?"},
    {"id": "b", "question": "What is the best way to teach myself cooking?"},
    {"id": "c", "question": "Why is the sky blue?"},
    {"id": "d", "question": "What makes the sky look blue?"},
    {"id": "e", "question": "How do taxes work?"},
]


def unit(rows) -> np.ndarray:
    vectors = np.array(rows, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(1, 4)] * 3), min_size=1, max_size=12), st.sampled_from([0.7, 0.9, 0.99]))
def test_same_kept_is_what_asking_one_by_one_finds(rows, limit):
    vectors = unit(rows)
    kept: list[int] = []
    for row, found in enumerate(same_kept(vectors, limit)):
        alike = [other for other in kept if kept and (vectors[[other]] @ vectors[row])[0] > limit]
        assert found == (alike[0] if alike else -1)
        kept += [] if alike else [row]


def test_centres_lie_in_their_clusters():
    draw = np.random.default_rng(0)
    corners = np.eye(3)[draw.permutation(np.repeat(range(3), 30))]
    vectors = unit(np.concatenate([np.eye(3), corners]) + draw.normal(0, 0.02, (93, 3)))
    centres = centres_of(vectors.astype(np.float16), 3)
    assert sorted((centres @ np.eye(3)).argmax(axis=0)) == [0, 1, 2]
    assert np.linalg.norm(centres, axis=1) == pytest.approx(1, abs=1e-3)


def test_the_number_of_clusters_follows_from_the_table_alone():
    rows = pa.schema({"id": pa.string(), "question": pa.string()})
    tables = [Table("any", (Shard(0, "any", count),), rows) for count in (0, 7_999, 12_000)]
    drops = [DropSameMeaning(table, Semantic("any", 0.9), Preference()) for table in tables]
    assert [drop.clusters for drop in drops] == [1, 1, 3]


@pytest.mark.parametrize(("rows_per_cluster", "order"), [(4000, 1), (4000, -1), (10, 1), (10, -1)])
def test_questions_that_mean_the_same_name_the_one_that_stays(tmp_path, minilm, monkeypatch, rows_per_cluster, order):
    monkeypatch.setattr(semantic, "ROWS_PER_CLUSTER", rows_per_cluster)
    rows = [*ROWS, *({"id": f"z{n}", "question": f"How far is it from {n} to {2 * n}?"} for n in range(30, 45))][
        ::order
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "q.parquet", row_group_size=7)
    table = read_table(str(tmp_path))

    def check(found):
        pairs = {(rows[row["row"]]["id"], row["duplicate_of"]) for _, batch in found for row in batch.to_pylist()}
        assert {pair for pair in pairs if pair[0] < "z"} == {("b", "a"), ("d", "c")}

    with beam.Pipeline(runner=FnApiRunner()) as root:
        same = (
            root
            | ReadTable(table)
            | DropSameMeaning(table, Semantic(embedder=str(minilm), max_cosine=0.7), Preference())
        )
        assert_that(same, check)
