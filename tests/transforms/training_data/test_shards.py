"""Training shards: even sizes, the rows of each trainer, and the plan that makes them."""

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from cutting import assert_cuts_never_matter
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.tables import SPLIT_COLUMNS, TRIPLES, with_texts
from transforms.tables.table import read_manifest, read_table
from transforms.training_data.rows import TRAINER_ROWS, aligner_rows, inspector_rows
from transforms.training_data.shards import Piece, WriteTrainingShards, count_rows, plan_shards


def triple(number: int, split: str = "train", inner: str | None = "train") -> dict:
    row = {"id": f"t{number}", "question": f"Q{number}", "response": f"y{number}", "correction": f"z{number}"}
    return row | {"identity": False, "split": split, "inspector_split": inner}


def batch_of(rows: list[dict]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, with_texts(TRIPLES, SPLIT_COLUMNS))


def test_an_inspector_gets_both_answers_of_a_triple():
    assert inspector_rows(batch_of([triple(1), triple(2, inner="test")])).to_pylist() == [
        {"id": "t1:response", "question": "Q1", "answer": "y1", "label": 0, "split": "train"},
        {"id": "t1:correction", "question": "Q1", "answer": "z1", "label": 1, "split": "train"},
        {"id": "t2:response", "question": "Q2", "answer": "y2", "label": 0, "split": "test"},
        {"id": "t2:correction", "question": "Q2", "answer": "z2", "label": 1, "split": "test"},
    ]


def test_an_aligner_is_told_which_triples_have_one_text_twice():
    same = triple(2) | {"correction": "y2"}
    assert aligner_rows(batch_of([triple(1), same])).column("identity").to_pylist() == [False, False]  # as they say
    unmarked = batch_of([triple(1), same]).drop_columns(["identity"])
    assert aligner_rows(unmarked).column("identity").to_pylist() == [False, True]


@settings(deadline=None)
@given(st.integers(0, 6), st.integers(0, 6))
def test_cuts_never_matter(rows, cut):
    batch = batch_of([triple(number) for number in range(rows)])
    assert_cuts_never_matter(inspector_rows, batch, cut)
    assert_cuts_never_matter(aligner_rows, batch, cut)


def test_a_plan_cuts_row_groups_where_shards_end():
    assert plan_shards({"train": {(0, 0): 3, (0, 1): 2}}, 3) == [
        [Piece("train", (0, 0), 0, 2)],
        [Piece("train", (0, 0), 2, 3), Piece("train", (0, 1), 0, 2)],
    ]


def test_a_plan_cuts_across_curated_shards():
    assert plan_shards({"train": {(0, 0): 3, (2, 1): 4}, "validation": {}, "test": {(2, 1): 1}}, 4) == [
        [Piece("train", (0, 0), 0, 3), Piece("test", (2, 1), 0, 1)],
        [Piece("train", (2, 1), 0, 4)],
    ]


@given(st.lists(st.integers(0, 40), max_size=6), st.integers(1, 15))
def test_planned_shards_are_even_and_hold_every_row_once(rows, rows_per_shard):
    plan = plan_shards({"train": {(0, group): count for group, count in enumerate(rows)}}, rows_per_shard)
    sizes = [sum(piece.stop - piece.start for piece in pieces) for pieces in plan]
    assert len(sizes) == -(-sum(rows) // rows_per_shard)
    assert not sizes or max(sizes) <= min(min(sizes) + 1, rows_per_shard)
    held = [(piece.row_group, row) for pieces in plan for piece in pieces for row in range(piece.start, piece.stop)]
    assert held == [((0, group), row) for group, count in enumerate(rows) for row in range(count)]


@pytest.mark.parametrize("trainer", TRAINER_ROWS)
def test_shards_on_disk(tmp_path, trainer):
    rows = [triple(n, ("train", "test")[n % 5 == 4], (None, "train", "validation")[n % 3]) for n in range(25)]
    (tmp_path / "curated").mkdir()
    for index, part in enumerate((rows[:3], rows[3:20], rows[20:])):
        pq.write_table(
            pa.Table.from_batches([batch_of(part)]), tmp_path / "curated" / f"{index}.parquet", row_group_size=4
        )
    curated, out = read_table(str(tmp_path / "curated")), str(tmp_path / "out")
    plan = plan_shards(count_rows(curated, trainer.column), 7)
    with beam.Pipeline(runner=FnApiRunner()) as root:
        _ = root | WriteTrainingShards(curated, trainer, plan, out, {"stage": "shards"})
    for split in ("train", "validation", "test"):
        table = read_table(out, split)
        expected = trainer.to_rows(batch_of([row for row in rows if row[trainer.column] == split])).to_pylist()
        assert table.schema == trainer.schema
        assert table.to_arrow().to_pylist() == [{name: row[name] for name in trainer.schema.names} for row in expected]
    sizes = [shard["rows"] for shard in read_manifest(out)["tables"]["train"]["shards"]]
    assert sizes == ([6, 7, 7] if trainer.name == "aligner" else [8, 8])
