"""The rows that several tables share, whatever the order of their rows."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from transforms.evaluation.shared_rows import shared_rows

ALL = object()


def shared(ids, is_counted=ALL):
    counted = {label: [True] * len(rows) for label, rows in ids.items()} if is_counted is ALL else is_counted
    columns = {label: pa.array(rows, pa.string()) for label, rows in ids.items()}
    return shared_rows(columns, {label: np.array(rows, dtype=bool) for label, rows in counted.items()})


def numbers(result):
    return {label: rows.tolist() for label, rows in result.numbers.items()}


def test_rows_of_one_id_are_told_apart_by_their_occurrence():
    result = shared({"a": ["x", "y", "x"], "b": ["x", "x"]})
    assert numbers(result) == {"a": [0, 2], "b": [0, 1]}
    assert (result.rows, result.total, result.lacking) == (2, 3, {"a": 0, "b": 1})


def test_a_row_that_does_not_count_shifts_no_later_occurrence():
    result = shared({"a": ["x", "x"], "b": ["x", "x"]}, {"a": [False, True], "b": [True, True]})
    assert numbers(result) == {"a": [1], "b": [1]}
    assert (result.total, result.lacking) == (2, {"a": 1, "b": 0})


def test_rows_are_in_the_order_of_the_label_that_sorts_first_and_labels_in_their_own():
    result = shared({"b": ["x", "y", "z"], "a": ["z", "y", "x"]})
    assert numbers(result) == {"b": [2, 1, 0], "a": [0, 1, 2]}
    assert list(result.numbers) == list(result.lacking) == ["b", "a"]


def test_one_table_keeps_its_order_and_its_rows_that_count():
    result = shared({"number 0": ["y", "x", "y", "z"]}, {"number 0": [True, True, False, True]})
    assert numbers(result) == {"number 0": [0, 1, 3]}
    assert result.lacking == {"number 0": 1}


def test_tables_may_share_nothing():
    for ids, total in (({"a": [], "b": []}, 0), ({"a": ["x"], "b": ["y"]}, 2)):
        result = shared(ids)
        assert (numbers(result), result.rows, result.total) == ({"a": [], "b": []}, 0, total)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), max_size=20), st.randoms())
def test_the_order_of_a_tables_rows_changes_only_where_they_lie(rows, random):
    """Rows of an id all count in a table, or none, so that occurrences are the same in any order."""
    ids = [str(number) for number, _, _ in rows]
    counts = {
        name: {id_: row[column] for id_, row in zip(ids, rows, strict=True)} for column, name in ((1, "a"), (2, "b"))
    }
    order = random.sample(range(len(ids)), len(ids))
    shuffled = [ids[number] for number in order]
    tables = {"a": ids, "b": shuffled}
    result = shared(tables, {label: [counts[label][id_] for id_ in rows] for label, rows in tables.items()})
    pairs = [(ids[row], shuffled[other]) for row, other in zip(result.numbers["a"], result.numbers["b"], strict=True)]
    assert pairs == [(id_, id_) for id_ in ids if counts["a"][id_] and counts["b"][id_]]
    assert len(set(result.numbers["b"].tolist())) == result.rows
    assert result.lacking == {label: len(ids) - sum(of_label[id_] for id_ in ids) for label, of_label in counts.items()}
