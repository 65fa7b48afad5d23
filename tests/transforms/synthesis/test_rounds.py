"""Rounds: which candidates live, and how they are counted."""

import pyarrow as pa
import pytest

from transforms.synthesis.rounds import Candidates

SCHEMA = pa.schema({name: pa.string() for name in ("id", "drop_reason", "error")})
ROWS = [
    {"id": "a", "drop_reason": None, "error": None},
    {"id": "b", "drop_reason": "too_long", "error": None},
    {"id": "c", "drop_reason": None, "error": "server_error: 500"},
    {"id": "d", "drop_reason": None, "error": "server_error: 503"},
    {"id": "e", "drop_reason": None, "error": None},
    {"id": "f", "drop_reason": "truncated", "error": None},
    {"id": "g", "drop_reason": "truncated", "error": None},
]
CANDIDATES = Candidates(pa.Table.from_pylist(ROWS, SCHEMA))


def test_rows_are_live_dropped_or_failed():
    assert CANDIDATES.kept.to_pylist() == [{"id": "a"}, {"id": "e"}]
    assert CANDIDATES.dropped.to_pylist() == [
        {"id": "b", "drop_reason": "too_long"},
        {"id": "f", "drop_reason": "truncated"},
        {"id": "g", "drop_reason": "truncated"},
    ]
    assert CANDIDATES.failed.to_pylist() == [
        {"id": "c", "error": "server_error: 500"},
        {"id": "d", "error": "server_error: 503"},
    ]


def test_more_rows_come_last_with_nulls_in_columns_that_they_lack():
    topics = pa.table({"id": ["x"], "error": ["engine_died"]})
    more = Candidates(CANDIDATES.table.slice(0, 1)).plus(topics)
    assert more.table.schema == SCHEMA
    assert more.table.to_pylist() == [ROWS[0], {"id": "x", "drop_reason": None, "error": "engine_died"}]
    assert Candidates(SCHEMA.empty_table()).plus(pa.table({"id": ["y"]})).kept.to_pylist() == [{"id": "y"}]


@pytest.mark.parametrize(
    ("at_most", "kept", "drops"),
    [
        (None, 2, [("truncated", 2), ("too_long", 1)]),
        (5, 2, [("truncated", 2), ("too_long", 1)]),
        (1, 1, [("truncated", 2), ("too_long", 1), ("over_count", 1)]),
    ],
)
def test_counts_are_by_reason_most_first(at_most, kept, drops):
    counts = CANDIDATES.counts(at_most)
    assert counts | {"drops": list(counts["drops"].items())} == {
        "in": 7,
        "kept": kept,
        "drops": drops,
        "rejects": {"server_error": 2},
    }


def test_a_failure_that_costs_nothing_is_a_drop():
    without = CANDIDATES.without_failures()
    assert without.kept.to_pylist() == CANDIDATES.kept.to_pylist()
    assert without.failed.num_rows == 0
    assert without.counts()["drops"] == {"server_error": 2, "truncated": 2, "too_long": 1}
    assert without.table.schema == SCHEMA
