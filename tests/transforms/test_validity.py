"""Validity: each rule by name, what identity triples may do, and which rules are for English alone."""

import pyarrow as pa
import pytest
from cutting import assert_cuts_never_matter
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.drops import drop_where
from transforms.validity import TEXT_COLUMNS, drop_invalid, readable_text, rules_for

TRIPLE = {
    "question": "May I ask?",
    "response": "No.",
    "critique": "It is rude to the person who asks, against principle 2 (respect).",
    "correction": "Of course.",
    "identity": False,
}
SCHEMA = pa.schema([(name, pa.bool_() if name == "identity" else pa.string()) for name in TRIPLE])
UNIVERSAL = rules_for(english_plain_text=False, max_chars=50)
ENGLISH = rules_for(english_plain_text=True, max_chars=50)


def reason(rules=UNIVERSAL, **changes) -> str | None:
    batch = pa.RecordBatch.from_pylist([TRIPLE | changes], SCHEMA)
    return drop_invalid(batch, rules).to_pylist()[0]["drop_reason"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"question": None}, "empty_text"),
        ({"response": " \n\u3000"}, "empty_text"),
        ({"correction": "x" * 50}, None),
        ({"correction": "日" * 51}, "too_long"),
        ({"response": "a\x00b"}, "unreadable_character"),
        ({"correction": "None."}, "none_text"),
        ({"correction": " No. "}, "unchanged_correction"),
        ({"response": "May I  ask?"}, "copied_question"),
        ({"correction": "May I ask?"}, "copied_question"),
        ({"response": "Use <b>", "correction": "Type: café", "critique": None}, None),
    ],
)
def test_universal_rules(changes, expected):
    assert reason(**changes) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"correction": "Nothing to add"}, "nothing_in_correction"),
        ({"question": "Topic: cats?"}, "leaked_keyword"),
        ({"correction": "Corrector: yes"}, "leaked_keyword"),
        ({"response": "a < b"}, "markup"),
        ({"question": "Can you write a program?"}, "code_question"),
        ({"response": "naïve"}, "non_ascii"),
        ({"question": "What is a naïve answer?"}, None),
        ({"critique": "It is bad."}, "vague_critique"),
        ({"critique": "There is nothing wrong with this answer at all."}, "vague_critique"),
        ({"critique": "Breaks 2 (respect)."}, None),
        ({"critique": None}, None),
    ],
)
def test_english_rules(changes, expected):
    assert reason(ENGLISH, **changes) == expected


def test_identity_triples_pass_what_only_a_change_can_break():
    same = {"response": "Nothing could be nicer.", "correction": "Nothing could be nicer.", "critique": "No fault."}
    assert reason(ENGLISH, identity=True, **same) is None
    assert reason(ENGLISH, identity=False, **same) == "unchanged_correction"
    assert reason(ENGLISH, identity=False, **(same | {"response": "No."})) == "nothing_in_correction"
    assert reason(ENGLISH, identity=True, **(same | {"response": "<b>", "correction": "<b>"})) == "markup"


def test_rules_are_skipped_by_name_and_where_columns_are_missing():
    rules = rules_for(english_plain_text=True, max_chars=50, skip=("markup", "non_ascii"))
    assert reason(rules, response="<é>") is None
    batch = pa.RecordBatch.from_pylist([{"question": "Why?"}, {"question": ""}])
    assert drop_invalid(batch, ENGLISH).column("drop_reason").to_pylist() == [None, "empty_text"]
    with pytest.raises(ValueError, match="no rule 'marckup'; the rules are .*markup"):
        rules_for(english_plain_text=False, max_chars=50, skip=("marckup",))


def test_a_row_keeps_the_first_reason():
    batch = drop_where(pa.RecordBatch.from_pylist([TRIPLE | {"response": ""}], SCHEMA), pa.array([True]), "before")
    assert drop_invalid(batch, UNIVERSAL).column("drop_reason").to_pylist() == ["before"]
    assert reason(response="", correction="None") == "empty_text"


def test_bytes_that_are_not_utf8_cost_one_row():
    broken = pa.array([b"fine", b"\xff\xfe", None], pa.binary()).view(pa.string())
    batch = pa.RecordBatch.from_arrays([pa.array(["a", "b", "c"]), broken], ["question", "topic"])
    assert drop_invalid(batch, UNIVERSAL).column("drop_reason").to_pylist() == [None, "invalid_utf8", None]
    assert readable_text(batch).column("topic").to_pylist() == ["fine", "\ufffd\ufffd", None]


def test_every_rule_names_text_columns():
    for rule in ENGLISH:
        assert set(rule.columns) <= {*TEXT_COLUMNS, "critique"}


TEXT = st.one_of(st.none(), st.sampled_from(["No.", "None", "", "Nothing <é>", "Input: x", "May I ask?"]), st.text())


@settings(deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, TEXT, TEXT, st.one_of(st.none(), st.booleans())), max_size=8), st.integers(0, 8))
def test_cuts_never_matter(rows, cut):
    batch = pa.RecordBatch.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], SCHEMA)
    assert_cuts_never_matter(lambda part: drop_invalid(part, ENGLISH), batch, cut)
