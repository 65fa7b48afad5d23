"""Validity: each rule by name, what identity triples may do, and which rules are for English alone."""

import pyarrow as pa
import pytest
from cutting import assert_cuts_never_matter
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.curation.validity import TEXT_COLUMNS, Validity, drop_invalid, explain, readable_text, rules_for
from transforms.tables.marks import drop_where

TRIPLE = {
    "question": "May I ask?",
    "response": "No.",
    "critique": "It is rude to the person who asks, against principle 2 (respect).",
    "correction": "Of course.",
    "identity": False,
}
SCHEMA = pa.schema([(name, pa.bool_() if name == "identity" else pa.string()) for name in TRIPLE])
UNIVERSAL = rules_for(Validity(max_chars=50))
ENGLISH = rules_for(Validity(max_chars=50, english_plain_text=True))
LOOP = "the cat sat on the mat and " * 8


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
        ({"response": "<|im_end|>"}, "leaked_marker"),
        ({"correction": "Yes.\n### Response: no"}, "leaked_marker"),
        ({"correction": "Issue ### 3: <s"}, None),
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
    rules = rules_for(Validity(english_plain_text=True, skip=("markup", "non_ascii")))
    assert reason(rules, response="<é>") is None
    batch = pa.RecordBatch.from_pylist([{"question": "Why?"}, {"question": ""}])
    assert drop_invalid(batch, ENGLISH).column("drop_reason").to_pylist() == [None, "empty_text"]


@pytest.mark.parametrize(
    ("settings", "changes", "expected"),
    [
        ({"chars": {"question": (5, 12)}}, {"question": "Why?"}, "too_short"),
        ({"chars": {"question": (4, 12)}}, {"question": "Why?"}, None),
        ({"chars": {"question": (5, 12)}}, {"question": "Why is it so?"}, "too_long"),
        ({"words": {"question": (2, 3)}}, {"question": "Why?"}, "too_few_words"),
        ({"words": {"question": (2, 3)}}, {"question": "Why is that so?"}, "too_many_words"),
        ({"words": {"question": (2, 3)}}, {"question": "为什么"}, None),
        ({"words": {"critique": (1, 9)}}, {"critique": None}, None),
        ({"scripts": ("Latin",)}, {"response": "Нет, спасибо"}, "other_script"),
        ({"scripts": ("Latin",)}, {"response": "Нет is Russian for no"}, None),
        ({"scripts": ("Latin",)}, {"response": "12 + 3 = 15"}, None),
        ({"scripts": ("Latin", "Cyrillic")}, {"response": "Нет, спасибо"}, None),
        ({}, {"response": LOOP}, "repetitive"),
        ({"max_repetition": 0.9}, {"response": LOOP}, None),
        ({}, {"response": "no no no no no no"}, None),
        ({"banned_words": ("kill",)}, {"correction": "Kill it."}, "banned_word"),
        ({"banned_words": ("kill",)}, {"correction": "A skill."}, None),
        ({"json_columns": ("response",)}, {"response": '{"a": 1'}, "malformed_json"),
        ({"json_columns": ("response",)}, {"response": '{"a": 1}'}, None),
        ({"json_columns": ("response",)}, {"response": "[" * 100_000}, "malformed_json"),
        ({"also": ("refusal",)}, {"correction": "I'm sorry, but I cannot help."}, "refusal"),
        ({"also": ("refusal",)}, {"correction": "She said: I can help."}, None),
        ({"also": ("placeholder",)}, {"correction": "Dear [Your Name],"}, "placeholder"),
        ({"also": ("unfinished",)}, {"correction": "It is because of the"}, "unfinished"),
        ({"also": ("unfinished",)}, {"correction": "It is because of that.\n"}, None),
        ({"also": ("unfinished",)}, {"correction": "1. Salt\n2. Pepper"}, None),
        ({"also": ("refusal",)}, {"correction": "As an AI model, I have no opinion. But many say yes."}, None),
        ({"also": ("markup",)}, {"response": "<b>"}, "markup"),
        ({}, {"correction": "I cannot help, [Your Name]"}, None),
    ],
)
def test_rules_that_settings_ask_for(settings, changes, expected):
    assert reason(rules_for(Validity(**settings)), **changes) == expected


def test_an_answer_that_was_cut_is_dropped():
    batch = pa.RecordBatch.from_pylist(
        [{"question": "Why?", "finish_reason": "length"}, {"question": "Why?", "finish_reason": "stop"}]
    )
    assert drop_invalid(batch, UNIVERSAL).column("drop_reason").to_pylist() == ["truncated", None]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_chars": 0}, "max_chars: must be at least 1, not 0"),
        ({"max_repetition": 1.5}, "max_repetition: 1.5 is not a share"),
        ({"words": {"question": (3, 2)}}, r"words.question: \[3, 2\] is not a range"),
        ({"scripts": ("latin1",)}, "scripts: 'latin1' is no Unicode script"),
        ({"scripts": ("L",)}, "scripts: 'L' is no Unicode script"),
        ({"also": ("refusals",)}, "also: no rule 'refusals'; the rules are .*refusal"),
        ({"skip": ("marckup",)}, "skip: no rule 'marckup'; the rules are .*markup"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Validity(**settings)


def test_explain_says_what_every_rule_saw():
    rules = rules_for(Validity(max_chars=50, words={"question": (1, 9)}, also=("refusal",)))
    batch = pa.RecordBatch.from_pylist([TRIPLE | {"response": "x" * 60, "correction": "I cannot help you."}], SCHEMA)
    seen = {(name, columns): (broken, what) for name, columns, broken, what in explain(batch, rules)}
    assert seen["too_long", "response"] == (True, "60 (at most 50 characters)")
    assert seen["too_few_words", "question"] == (False, "3 (at least 1 words)")
    assert seen["refusal", "correction"] == (True, "'I cannot help'")
    assert seen["refusal", "response"] == (False, "no match")
    assert seen["repetitive", "response"] == (False, "0.00 (at most 0.7 of its 3-grams repeated)")
    assert seen["unchanged_correction", "response, correction"][0] is False
    empty = pa.RecordBatch.from_pylist([TRIPLE | {"question": None}], SCHEMA)
    assert ("empty_text", "question", True, "no text") in explain(empty, rules)


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
        assert set(rule.columns) <= {*TEXT_COLUMNS, "critique", "finish_reason"}


ALL = rules_for(
    Validity(
        max_chars=50,
        words={"question": (1, 3)},
        scripts=("Latin",),
        json_columns=("critique",),
        banned_words=("no",),
        english_plain_text=True,
        also=("refusal", "placeholder", "unfinished"),
    )
)
TEXT = st.one_of(st.none(), st.sampled_from(["No.", "None", "", "Nothing <é>", "Input: x", "May I ask?"]), st.text())


@settings(deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, TEXT, TEXT, st.one_of(st.none(), st.booleans())), max_size=8), st.integers(0, 8))
def test_cuts_never_matter(rows, cut):
    batch = pa.RecordBatch.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], SCHEMA)
    assert_cuts_never_matter(lambda part: drop_invalid(part, ALL), batch, cut)
