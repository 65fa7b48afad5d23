import pytest

from pipelines.report.formats import cell, change, date, duration, is_numeric, share
from pipelines.report.numbers import numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (0.12345, "0.123"),
        (-0.5, "−0.500"),
        (15.123, "15.1"),
        (123456.7, "123,457"),
        ([0.1, 0.25], "0.100 – 0.250"),
        ("x" * 300, "x" * 199 + "…"),
    ],
)
def test_cell(value, text):
    assert cell(value) == text


def test_change_has_a_sign():
    assert [change(0.1, 0.35), change(0.5, 0.25), change(0.5, 0.5), change(None, 1.0)] == ["+0.250", "−0.250", "0", "–"]


def test_duration_date_and_share():
    assert [duration(s) for s in (None, 3.21, 74.2, 3725.0)] == ["–", "3.2 s", "1 min 14 s", "1 h 02 min"]
    assert date("2026-03-04T05:06:07Z") == "4 March 2026, 05:06 UTC"
    assert [date(text) for text in ("soon", None)] == ["soon", "–"]
    assert [share(1, 3), share(0, 0)] == ["33.3 %", "–"]


def test_numbers_stand_to_the_right():
    assert [is_numeric(value) for value in (1, None, [0.1, 0.2], "33.3 %", "33 rows")] == [True] * 4 + [False]


def test_numbers_of_a_list_have_a_row_for_each_object():
    table = numbers("Two way", [{"file": "a", "ci95": [0, 1]}, {"file": "b", "more": {"n": 2}}])
    assert table.columns == ["file", "95 % interval", "more, n"]
    assert table.rows == [["a", [0, 1], None], ["b", None, 2]]


def test_numbers_of_objects_by_name_have_a_row_for_each():
    table = numbers("Splits", {"test_split": {"auc": 0.5}})
    assert (table.columns, table.rows) == (["", "auc"], [["test split", 0.5]])


def test_numbers_of_one_object_have_a_row_for_each_value():
    assert numbers("Loss", {"final_loss": 0.5}, "A note.").rows == [("final loss", 0.5)]


def test_numbers_of_distributions_have_a_row_for_each_and_the_rest_in_the_note():
    words = {"rows": 2, "mean": 3.0, "sd": None, "quantiles": {"0.05": 1.0, "0.5": 3.0}}
    empty = {"rows": 0, "mean": None, "sd": None, "quantiles": None}
    table = numbers("Change", {"judge": {"words": words, "shift_interval": [0.1, 0.2]}, "none": empty})
    assert table.columns == ["", "rows", "mean", "sd", "5 %", "50 %"]
    assert table.rows == [["judge, words", 2, 3.0, None, 1.0, 3.0], ["none", 0, None, None, None, None]]
    assert table.note == "judge, shift interval: 0.100 – 0.200"
