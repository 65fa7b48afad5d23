"""Which column is read as the response, and what is kept of an earlier alignment: literal tables in and out."""

import pyarrow as pa
import pytest
from cutting import assert_cuts_never_matter

from schemas.errors import UsageError
from transforms.alignment.layers import check_responses, guess_answer, read_answer, read_responses, with_layer

ONCE = {
    "id": "1",
    "response": "r",
    "question": "q",
    "aligned": "a",
    "topic": "t",
    "decision": "rewritten",
    "scores_before": {"kind": 0.1},
    "scores_after": {"kind": 0.9},
}
LAYER_1 = {
    "response": "r",
    "aligned": "a",
    "decision": "rewritten",
    "scores_before": {"kind": 0.1},
    "scores_after": {"kind": 0.9},
}


def batch(*rows):
    return pa.RecordBatch.from_pylist(list(rows))


def read(row, answer):
    """The row as it is aligned next; its columns are those that are foretold."""
    given = batch(row)
    got = read_answer(given, answer)
    assert got.schema.equals(with_layer(given.schema, answer))
    return got.to_pylist()[0]


def test_an_aligned_text_is_the_response_of_the_next_layer():
    first = read(ONCE, "aligned")
    assert first == {"id": "1", "response": "a", "question": "q", "topic": "t", "layer_1": LAYER_1}
    assert list(first) == ["id", "response", "question", "topic", "layer_1"]
    twice = first | {"aligned": "b", "decision": "refused", "scores_before": {"true": 0.2}, "scores_after": None}
    layer_2 = {"response": "a", **{name: twice[name] for name in list(LAYER_1)[1:]}}
    assert read(twice, "aligned") == first | {"response": "b", "layer_2": layer_2}


def test_the_response_of_an_aligned_table_may_be_aligned_anew():
    assert read(ONCE, "response") == {"id": "1", "response": "r", "question": "q", "topic": "t", "layer_1": LAYER_1}


@pytest.mark.parametrize(
    ("row", "answer", "added"),
    [
        ({"response": "r"}, "response", {}),
        ({"response": "r", "correction": "c"}, "correction", {"response": "c", "layer_1": {"response": "r"}}),
        ({"correction": "c"}, "correction", {"response": "c"}),
        ({"response": "r", "aligned": "x", "layer_7": 1}, "aligned", {"layer_8": {"response": "r", "aligned": "x"}}),
    ],
)
def test_another_column_is_read_and_nothing_is_lost(row, answer, added):
    expected = {"id": "1", "question": "q", **row, "response": row[answer], **added}
    if answer == "aligned":
        del expected["aligned"]
    assert read({"id": "1", "question": "q", **row}, answer) == expected


def test_cutting_a_batch_changes_nothing():
    rows = [ONCE | {"id": str(number), "aligned": f"a{number}"} for number in range(3)]
    for cut in range(4):
        assert_cuts_never_matter(lambda part: read_answer(part, "aligned"), batch(*rows), cut)


def test_columns_in_the_way_are_an_error_unless_somebody_chose_the_answer():
    schema = batch(ONCE).schema
    with pytest.raises(UsageError, match="t: has 'aligned', 'decision', 'scores_before', 'scores_after' already"):
        check_responses("t", schema, "response")
    check_responses("t", schema, "response", is_chosen=True)
    check_responses("t", schema, "aligned")
    with pytest.raises(UsageError, match="t: has no column 'correction'"):
        check_responses("t", schema, "correction")
    assert [guess_answer(batch(row).schema) for row in (ONCE, {"aligned": "x", "response": "r"})] == [
        "aligned",
        "response",
    ]


def test_responses_alone_are_id_question_and_the_answer():
    assert read_responses(batch(ONCE), "aligned").to_pylist() == [{"id": "1", "question": "q", "response": "a"}]
