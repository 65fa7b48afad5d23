"""Selection by values and by the smallest hashes of ids: nested shares, a row for every split, rows of one id."""

from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from cutting import assert_cuts_never_matter
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import UsageError
from transforms.curation.selection import Smallest, check_where, find_smallest, select_rows, take_smallest

SCHEMA = pa.schema({"id": pa.string(), "split": pa.string(), "topic": pa.string(), "round": pa.int32()})
FIRST = 1 << 63


def batch_of(count: int) -> pa.RecordBatch:
    rows = [
        {
            "id": f"r{n}",
            "split": (None, "train", "train", "test")[n % 4],
            "topic": ("cats", None)[n % 2],
            "round": n % 3,
        }
        for n in range(count)
    ]
    return pa.RecordBatch.from_pylist(rows, SCHEMA)


def taken(hashes: list[int], firsts=(), share=None, limit=None) -> list[int]:
    array = np.array(hashes, np.uint64)
    return array[take_smallest(array, frozenset(firsts), share, limit).holds(array)].tolist()


def test_the_smallest_hashes_are_taken_with_the_first_of_each_split():
    assert taken([7, 2, 9, 2, 5], {9}, limit=4) == [2, 9, 2, 5]
    assert taken([7, 2, 9, 2, 5], {9}, limit=1) == [9]
    assert taken([7, 2, 9, 2, 5], limit=3) == [2, 2, 5]
    assert taken([7, 2, 9, 2, 5], share=0.5) == [2, 2, 5]
    assert taken([7, 2, 9, 2, 5], share=0.2) == [2, 2]  # rows of one id stay together
    assert taken([7, FIRST, 9], share=0.3 + 1e-12, limit=2) == [7]
    assert taken([7, FIRST, 9], {FIRST}, limit=2) == [7, FIRST]
    assert taken([], share=0.5) == []


def test_values_select_rows():
    batch = batch_of(6)
    assert select_rows(batch, {"split": ("test",)}).column("id").to_pylist() == ["r3"]
    assert select_rows(batch, {"split": (None, "test")}).column("id").to_pylist() == ["r0", "r3", "r4"]
    both = select_rows(batch, {"topic": ("cats",), "round": (0, 2)})
    assert both.column("id").to_pylist() == ["r0", "r2"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"topics": ("cats",)}, "where.topics: t has no such column; it has id, split, topic, round"),
        ({"topic": ("cats", 1)}, r"where.topic: \['cats', 1\] is not what t holds there: string"),
        ({"round": (1.5,)}, r"where.round: \[1.5\] is not what t holds there: int32"),
        ({"scores": ("a",)}, "where.scores: .* is not what t holds there: map"),
    ],
)
def test_values_that_a_column_cannot_hold_are_refused(where, message):
    with pytest.raises(UsageError, match=message):
        check_where("t", SCHEMA.append(pa.field("scores", pa.map_("str", "f8"))), where)
    check_where("t", SCHEMA, {"topic": ("cats", None), "round": (1, 2)})


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 3))
def test_shares_nest_and_cuts_never_matter(rows, cut, seed):
    batch, cut = batch_of(rows), min(cut, rows)
    before: set[str] = set()
    for share in (0.02, 0.1, 0.5, 1.0):
        smallest = find_smallest([batch.slice(0, cut), batch.slice(cut)], {}, seed, share, None)
        assert smallest == find_smallest([batch], {}, seed, share, None)
        select = partial(select_rows, where={}, seed=seed, smallest=smallest)
        assert_cuts_never_matter(select, batch, cut)
        selected = select(batch)
        ids = set(selected.column("id").to_pylist())
        assert before <= ids
        before = ids
        wanted = int(np.ceil(share * rows - 1e-9))
        assert wanted <= len(ids) <= max(wanted, 2)
        assert set(selected.column("split").to_pylist()) >= set(batch.column("split").drop_null().to_pylist())
    assert len(before) == rows


def test_another_seed_chooses_other_rows_and_values_are_looked_at_first():
    batch = batch_of(400)
    chosen = []
    for seed in (0, 1):
        smallest = find_smallest([batch], {"split": ("train",)}, seed, None, 50)
        chosen.append(set(select_rows(batch, {"split": ("train",)}, seed, smallest).column("id").to_pylist()))
    assert [len(ids) for ids in chosen] == [50, 50]
    assert len(chosen[0] & chosen[1]) < 30
    assert Smallest(None).holds(np.array([0], np.uint64)).tolist() == [False]
