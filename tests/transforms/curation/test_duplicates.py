"""Exact and near-duplicates as Beam transforms: which rows go, what they name, and that places never matter."""

import random

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that
from cutting import assert_cuts_never_matter
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.curation.decisions import DECISIONS, OpenShards, by_bucket, decisions_of, with_decisions
from transforms.curation.duplicates import DropDuplicates
from transforms.curation.preference import row_hashes
from transforms.tables.chunks import BatchCoder, Chunk, Keyed
from transforms.tables.marks import drop_where
from transforms.tables.read import ReadTable
from transforms.tables.table import read_table
from transforms.tables.write import WriteTables
from transforms.texts.near_duplicates import Similarity

SIMILARITY = Similarity(words=2, jaccard=0.7)
OTHER = "a very long way from one, and from all else"
ROW = pa.schema({"id": pa.string(), "question": pa.string(), "topic": pa.string()})
WORDS = [
    "how",
    "may",
    "I",
    "help",
    "my",
    "friend",
    "who",
    "is",
    "so",
    "very",
    "ill",
    "and",
    "alone",
    "at",
    "home",
    "today",
]
ROWS = [
    {"id": "c", "question": "How may I help my friend?", "topic": "x"},
    {"id": "b", "question": "how may i help my FRIEND", "topic": "x"},
    {"id": "d", "question": "how may I help my friend today", "topic": "x"},
    {"id": "e", "question": "how may I help my friend today please", "topic": "x"},
    {"id": "f", "question": "who is there", "topic": "x"},
    {"id": "f", "question": "who is there", "topic": "y"},
    {"id": "g", "question": "你好你好吗", "topic": "x"},
    {"id": "h", "question": "你好，你好吗!", "topic": "x"},
    {"id": "i", "question": "?!", "topic": "x"},
    {"id": "j", "question": "!?", "topic": "x"},
]


def keep_all(chunk: Chunk) -> dict[str, pa.RecordBatch]:
    return {"rows": chunk.batch}


def find(rows, folder, *, shards=1, row_group=1000, columns=("question",), workers=1) -> list[dict]:
    """The rows with their marks, sorted."""
    for index in range(shards):
        part = pa.Table.from_pylist(rows[index::shards], ROW)
        folder.mkdir(exist_ok=True)
        pq.write_table(part, folder / f"{index}.parquet", row_group_size=row_group)
    table = read_table(str(folder)).head(None)
    schema = pa.schema([*ROW, *(DECISIONS.field(name) for name in DECISIONS.names[1:])])
    out = folder.parent / f"{folder.name}-out"
    options = PipelineOptions([], direct_num_workers=workers)
    with beam.Pipeline(runner=FnApiRunner(), options=options) as root:
        chunks = root | ReadTable(table)
        nothing = root | beam.Create([]).with_output_types(Keyed)
        (
            (chunks, nothing)
            | DropDuplicates(table, columns, SIMILARITY)
            | OpenShards(table, "t")
            | WriteTables(str(out), {"rows": schema}, keep_all, table.targets, {})
        )
    return sorted(read_table(str(out)).to_arrow().to_pylist(), key=str)


def marks(found: list[dict]) -> list[tuple]:
    return [(row["id"], row["topic"], row["drop_reason"], row["duplicate_of"]) for row in found]


def test_the_first_by_id_stays_and_is_named(tmp_path):
    last = "y" if row_hashes(pa.RecordBatch.from_pylist(ROWS[4:6], ROW)).argmin() == 0 else "x"
    assert marks(find(ROWS, tmp_path / "rows")) == [
        ("b", "x", None, None),
        ("c", "x", "exact_duplicate", "b"),
        ("d", "x", "near_duplicate", "b"),
        ("e", "x", "near_duplicate", "b"),
        *sorted(
            [("f", "y" if last == "x" else "x", None, None), ("f", last, "exact_duplicate", "f")], key=lambda r: r[1]
        ),
        ("g", "x", None, None),
        ("h", "x", "exact_duplicate", "g"),
        ("i", "x", None, None),
        ("j", "x", None, None),
    ]


def test_all_compared_columns_count(tmp_path):
    rows = [ROWS[0] | {"id": name, "topic": topic} for name, topic in (("a", "one"), ("b", OTHER), ("c", "One!"))]
    found = marks(find(rows, tmp_path / "rows", columns=("question", "topic")))
    assert [row[2:] for row in found] == [(None, None), (None, None), ("exact_duplicate", "a")]


def corpus(seed: int, count: int) -> list[dict]:
    """A few questions with some words changed, so that copies, chains and families abound; some ids come twice."""
    random_ = random.Random(seed)
    originals = [[random_.choice(WORDS) for _ in range(15)] for _ in range(count // 10)]
    rows = []
    for number in range(count):
        words = list(random_.choice(originals))
        for _ in range(random_.randint(0, 3)):
            words[random_.randrange(len(words))] = random_.choice(WORDS)
        rows.append({"id": f"{number % (count - 5):03d}", "question": " ".join(words), "topic": str(number)})
    return rows


@pytest.mark.parametrize(
    "layout",
    [
        {"shards": 5, "row_group": 7},
        {"shards": 3, "row_group": 20, "workers": 4},
    ],
)
def test_shards_order_batches_and_workers_decide_nothing(tmp_path, layout):
    rows = corpus(1, 120)
    expected = find(rows, tmp_path / "one")
    assert {"exact_duplicate", "near_duplicate"} <= {row["drop_reason"] for row in expected}
    random.Random(2).shuffle(rows)
    assert find(rows, tmp_path / "other", **layout) == expected


def test_rows_dropped_before_are_no_ones_original(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS[:2], ROW), tmp_path / "rows.parquet")
    table = read_table(str(tmp_path / "rows.parquet"))
    with beam.Pipeline(runner=FnApiRunner()) as root:
        chunks = root | ReadTable(table) | beam.Map(drop_b).with_output_types(Chunk)
        invalid = chunks | beam.FlatMap(decisions_of).with_output_types(Keyed)
        repeats = (chunks, invalid) | DropDuplicates(table, ("question",), SIMILARITY)
        assert_that((invalid, repeats) | beam.Flatten() | OpenShards(table, "t"), check_only_b_is_dropped)


def drop_b(chunk: Chunk) -> Chunk:
    return chunk.with_batch(drop_where(chunk.batch, pa.compute.equal(chunk.batch.column("id"), "b"), "invalid"))


def check_only_b_is_dropped(chunks: list[Chunk]) -> None:
    rows = [(row["id"], row["drop_reason"]) for chunk in chunks for row in chunk.batch.to_pylist()]
    assert rows == [("c", None), ("b", "invalid")]


def test_text_never_crosses_a_shuffle(tmp_path, monkeypatch):
    """Whatever is encoded between steps holds hashes, ids and places: no question, no word of one."""
    seen = []
    encode = BatchCoder.encode
    monkeypatch.setattr(BatchCoder, "encode", lambda self, batch: seen.append(batch) or encode(self, batch))
    find(corpus(3, 60), tmp_path / "rows")
    assert len(seen) > 10
    names = {name for batch in seen for name in batch.schema.names}
    assert names <= {
        "high",
        "low",
        "name",
        "tie",
        "shard",
        "row",
        "key",
        "position",
        "left",
        "right",
        "cost",
        "group",
        "set",
        "repeats",
        *DECISIONS.names,
    }
    assert not any("friend" in str(batch.to_pydict()) for batch in seen)


def test_row_hashes_are_of_the_content_whatever_the_columns_order():
    batch = pa.RecordBatch.from_pylist([{"a": "1", "b": None, "c": {"x": [1]}}, {"a": "1", "b": "", "c": {"x": [2]}}])
    one, other = row_hashes(batch)
    assert one != other
    assert row_hashes(batch.select(["c", "a", "b"])).tolist() == [one, other]
    assert row_hashes(batch.slice(1)).tolist() == [other]


def test_buckets_keep_equal_keys_together():
    keys = pa.array([5, 4, 5, 9, 4], pa.uint64())
    parts = dict(by_bucket(pa.RecordBatch.from_arrays([keys, keys], ["key", "row"]), keys.to_numpy(), 3))
    assert {bucket: batch.column("row").to_pylist() for bucket, batch in parts.items()} == {
        0: [9],
        1: [4, 4],
        2: [5, 5],
    }


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), unique=True), st.integers(0, 10))
def test_cuts_never_matter_to_decisions(rows, cut):
    decisions = pa.Table.from_pylist([{"row": row + 100, "drop_reason": f"r{row}"} for row in rows], DECISIONS)
    batch = pa.RecordBatch.from_pydict({"n": list(range(10))})
    assert_cuts_never_matter(
        lambda part: with_decisions(part, 100 + (part.column("n")[0].as_py() if part.num_rows else 0), decisions),
        batch,
        cut,
    )
    found = with_decisions(batch, 100, decisions).to_pylist()
    assert [row["drop_reason"] for row in found] == [f"r{n}" if n in rows else None for n in range(10)]
