"""Triples: what a completion must hold, what is cleaned away, and what an identity triple may do."""

import time
from dataclasses import replace

import pyarrow as pa
import pytest
from cutting import assert_cuts_never_matter
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.criteria.pack import load_pack, pack_names
from transforms.prompts import render
from transforms.synthesis.triples import (
    TRIPLE_STOP,
    clean_triples,
    parse_rewrite,
    parse_triples,
    rewrite_prompts,
    triple_prompts,
)
from transforms.tables.identity import content_id

PACK = load_pack("ethical")
COMPLETED = pa.schema({name: pa.string() for name in ("id", "question", "completion", "finish_reason", "error")})
TRIPLE = pa.schema(
    [pa.field(name, pa.string()) for name in ("question", "response", "critique", "correction")]
    + [pa.field("identity", pa.bool_()), pa.field("error", pa.string())]
)
BLAME = "It insults the asker and so breaks principle 2 (respect)."
FINE = "There is nothing wrong with it."


def completed(completion: str | None, finish_reason: str = "stop", error: str | None = None) -> pa.RecordBatch:
    row = {"id": "q", "question": "Why?", "completion": completion, "finish_reason": finish_reason, "error": error}
    return pa.RecordBatch.from_pylist([row], COMPLETED)


def parsed(completion: str | None, finish_reason: str = "stop") -> tuple:
    row = parse_triples(completed(completion, finish_reason), PACK).to_pylist()[0]
    return row["response"], row["critique"], row["correction"], row["drop_reason"]


def reason(english: bool = True, pack=PACK, **texts: object) -> str | None:
    """The drop reason of one triple that is good but for the texts given."""
    row = {
        "question": "May I ask?",
        "response": "No.",
        "critique": BLAME,
        "correction": "Of course.",
        "identity": False,
    }
    batch = pa.RecordBatch.from_pylist([row | texts], TRIPLE)
    return clean_triples(batch, pack, english=english).to_pylist()[0]["drop_reason"]


def test_a_prompt_is_given_to_every_question_with_text():
    batch = pa.RecordBatch.from_pylist([{"question": " Why? "}, {"question": " \n"}, {"question": None}])
    assert triple_prompts(batch, PACK).to_pylist() == [
        {"question": " Why? ", "prompt": render("triples", pack=PACK, question="Why?"), "drop_reason": None},
        {"question": " \n", "prompt": None, "drop_reason": "empty_question"},
        {"question": None, "prompt": None, "drop_reason": "empty_question"},
    ]


def test_a_whole_completion_becomes_a_triple():
    batch = completed(f"\nGo away.\n\nNow.\nCritique:\n{BLAME}\nCorrection:\nPlease wait.\n")
    assert parse_triples(batch, PACK).select(
        ["id", "question_id", "question", "response", "critique", "correction", "identity", "drop_reason"]
    ).to_pylist() == [
        {
            "id": content_id("q", "Go away.\n\nNow.", BLAME, "Please wait."),
            "question_id": "q",
            "question": "Why?",
            "response": "Go away.\n\nNow.",
            "critique": BLAME,
            "correction": "Please wait.",
            "identity": False,
            "drop_reason": None,
        }
    ]


@pytest.mark.parametrize(
    ("completion", "sections"),
    [
        ("A\r\nCritique:\r\nB\r\nCorrection:\r\nC\r\n", ("A", "B", "C")),
        ("A\nCritique: B\nCorrection: C", ("A", "B", "C")),
        ("Response:\nA\nCritique:\nB\nCorrection:\nC", ("A", "B", "C")),
        ("A\nCritique:\nB\nCorrection:\nC\n\nInput:\nD\nResponse:\nE\nCritique:\n", ("A", "B", "C")),
        ("A Critique: a\nCritique:\nmy Input: B\nCorrection:\nC", ("A Critique: a", "my Input: B", "C")),
    ],
)
def test_sections_may_be_set_a_little_differently(completion, sections):
    assert parsed(completion) == (*sections, None)


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (None, "empty_completion"),
        (" \n", "empty_completion"),
        ("\n\nInput:\nWhat?", "empty_completion"),
        ("A", "missing_critique"),
        ("A\nCorrection:\nC", "missing_critique"),
        ("A\nCritique:\nB\n\nInput:\nD\nCorrection:\nC", "missing_correction"),
        ("A\nCritique:\nB\nCritique:\nB\nCorrection:\nC", "repeated_section"),
        ("A\nCritique:\nB\nCorrection:\nC\nCorrection:\nC", "repeated_section"),
        ("A\nResponse:\nA\nCritique:\nB\nCorrection:\nC", "repeated_section"),
        ("A\nCorrection:\nC\nCritique:\nB", "wrong_order"),
        ("\nCritique:\nB\nCorrection:\nC", "empty_response"),
        ("A\nCritique:\nCorrection:\nC", "empty_critique"),
        ("A\nCritique:\nB\nCorrection:\n \n", "empty_correction"),
    ],
)
def test_a_completion_that_is_not_a_triple_says_why(completion, expected):
    assert parsed(completion) == (None, None, None, expected)


def test_a_completion_that_broke_off_is_truncated_unless_the_next_example_had_begun():
    whole = "A\nCritique:\nB\nCorrection:\nC"
    assert parsed(whole, "length") == (None, None, None, "truncated")
    assert parsed("A", "length") == (None, None, None, "truncated")
    assert parsed(f"{whole}{TRIPLE_STOP[0]}\nD", "length") == ("A", "B", "C", None)


def test_a_row_that_failed_keeps_its_error_and_its_question_id():
    row = parse_triples(completed(None, "error", "prompt_too_long"), PACK).to_pylist()[0]
    assert (row["id"], row["question_id"], row["error"], row["drop_reason"], row["identity"]) == (
        "q",
        "q",
        "prompt_too_long",
        None,
        False,
    )


def test_a_row_dropped_before_keeps_its_reason():
    batch = completed(None).append_column("drop_reason", pa.array(["empty_question"]))
    assert parse_triples(batch, PACK).column("drop_reason").to_pylist() == ["empty_question"]


@pytest.mark.parametrize(
    ("critique", "correction", "identity"),
    [
        (FINE, "Blue  sky.", True),
        (PACK.demonstrations[3].critique, "Blue sky.", True),
        (FINE, "Grey sky.", False),
        (BLAME, "Blue sky.", False),
        ("There is nothing wrong with the tone, but it breaks principle 3 (fairness).", "Blue sky.", False),
    ],
)
def test_an_identity_triple_repeats_the_response_and_finds_no_fault(critique, correction, identity):
    batch = completed(f"Blue sky.\nCritique:\n{critique}\nCorrection:\n{correction}")
    row = parse_triples(batch, PACK).to_pylist()[0]
    assert row["identity"] is identity
    assert row["correction"] == ("Blue sky." if identity else correction)


def test_another_language_finds_no_fault_in_the_words_of_its_pack():
    shown = replace(PACK.demonstrations[3], critique="Es gibt hier keinen Grund zur Klage.")
    batch = completed("Blau.\nCritique:\nEs gibt hier keinen\nGrund zur Klage.\nCorrection:\nBlau.")
    pack = replace(PACK, demonstrations=(shown,))
    assert parse_triples(batch, pack).column("identity").to_pylist() == [True]
    assert parse_triples(batch, PACK).column("identity").to_pylist() == [False]
    praise = {"critique": "Es gibt hier keinen\nGrund zur Klage.", "correction": "Grau."}
    assert reason(pack=pack, english=False, **praise) == "vague_critique"
    assert reason(pack=PACK, english=False, **praise) is None


def test_words_of_a_critique_are_counted_in_english_alone():
    assert reason(english=True, critique="It is bad.") == "vague_critique"
    assert reason(english=False, critique="It is bad.") is None


@pytest.mark.parametrize("name", pack_names())
def test_bundled_demonstrations_pass_every_rule(name):
    pack = load_pack(name)
    rows = [
        {
            "id": shown.question,
            "question": shown.question,
            "completion": f"\n{shown.response}\nCritique:\n{shown.critique}\nCorrection:\n{shown.correction}\n",
            "finish_reason": "stop",
        }
        for shown in pack.demonstrations
    ]
    batch = clean_triples(parse_triples(pa.RecordBatch.from_pylist(rows, COMPLETED), pack), pack, english=True)
    assert batch.column("drop_reason").to_pylist() == [None] * len(rows)
    assert batch.column("identity").to_pylist() == [shown.identity for shown in pack.demonstrations]


@pytest.mark.parametrize(
    ("texts", "english", "plain"),
    [
        ({}, None, None),
        ({"question": None}, "empty_text", "empty_text"),
        ({"response": " "}, "empty_text", "empty_text"),
        ({"correction": None}, "empty_text", "empty_text"),
        ({"correction": "Of\x00 course."}, "unreadable_character", "unreadable_character"),
        ({"response": "No\ufffd"}, "unreadable_character", "unreadable_character"),
        ({"response": "Line\n\tline."}, None, None),
        ({"correction": " None."}, "none_text", "none_text"),
        ({"response": "none"}, "none_text", "none_text"),
        ({"correction": "None of them."}, None, None),
        ({"correction": "No."}, "unchanged_correction", "unchanged_correction"),
        ({"correction": "May I  ask?"}, "copied_question", "copied_question"),
        ({"response": "May I ask?"}, "copied_question", "copied_question"),
        ({"critique": FINE}, "vague_critique", "vague_critique"),
        ({"critique": "The response is wrong."}, "vague_critique", None),
        ({"critique": "It breaks principle 2."}, None, None),
        ({"critique": None}, None, None),
        ({"correction": "Nothing could be easier."}, "nothing_in_correction", None),
        ({"question": "Topic: rain. Why?"}, "leaked_keyword", None),
        ({"question": "What archetype: a hero?"}, None, None),
        ({"response": "No. Response: no."}, "leaked_keyword", None),
        ({"correction": "corrector: yes"}, "leaked_keyword", None),
        ({"correction": "<b>Yes</b>"}, "markup", None),
        ({"question": "Write a Program for me"}, "code_question", None),
        ({"question": "Which programme is on?"}, None, None),
        ({"response": "Não."}, "non_ascii", None),
        ({"question": "Não?", "critique": "Não é bom, breaks principle 1."}, None, None),
    ],
)
def test_each_cleaning_rule(texts, english, plain):
    assert reason(english=True, **texts) == english
    assert reason(english=False, **texts) == plain


def test_identity_triples_pass_the_rules_that_only_concern_changes():
    same = {"response": "Nothing.", "correction": "Nothing.", "critique": "It is fine as is.", "identity": True}
    assert reason(**same) is None
    assert reason(**same, question="Nothing.") is None
    assert reason(**same | {"identity": False}) == "nothing_in_correction"
    assert reason(**same | {"response": "<b>", "correction": "<b>"}) == "markup"


def test_a_banned_word_is_found_whole_in_any_case_in_the_correction():
    pack = replace(PACK, banned_words=("course", "à la carte"))
    assert reason(pack=pack, english=False) == "banned_word"
    assert reason(pack=pack, english=False, correction="Dine À LA CARTE!") == "banned_word"
    assert reason(pack=pack, english=False, correction="Of courses.") is None
    assert reason(pack=pack, english=False, correction="Yes.", response="Of course.") is None


def test_a_row_that_failed_is_not_dropped_as_well():
    assert reason(response=None, critique=None, correction=None, error="server_error") is None


def test_a_rewrite_prompt_needs_both_texts():
    batch = pa.RecordBatch.from_pylist(
        [
            {"question": "Why?", "response": "So."},
            {"question": "Why?", "response": " "},
            {"question": None, "response": "So."},
        ]
    )
    prompt = render("rewrite", pack=PACK, question="Why?", response="So.")
    assert rewrite_prompts(batch, PACK).column("prompt").to_pylist() == [prompt, None, None]


@pytest.mark.parametrize(
    ("completion", "finish_reason", "expected"),
    [
        (f"\n{BLAME}\nCorrection:\nBecause.\n\nInput:\nx", "stop", (BLAME, "Because.", None)),
        ("B\nCorrection:\nC", "length", (None, None, "truncated")),
        ("B", "stop", (None, None, "missing_correction")),
        ("B\nResponse:\nA\nCorrection:\nC", "stop", (None, None, "repeated_section")),
        ("", "stop", (None, None, "empty_completion")),
        (None, None, (None, None, None)),
    ],
)
def test_a_rewrite_is_a_critique_and_a_correction(completion, finish_reason, expected):
    row = parse_rewrite(completed(completion, finish_reason)).to_pylist()[0]
    assert (row["critique"], row["correction"], row["error"]) == expected


def test_a_rewrite_that_failed_before_keeps_its_error():
    assert parse_rewrite(completed("x", "error", "prompt_too_long")).to_pylist()[0]["error"] == "prompt_too_long"


PIECES = ["A", "é", " ", "\n", "\r\n", "\x00", "None", "<", "Why?", "Critique:", FINE, BLAME]
HEADINGS = ["\nCritique:\n", "\nCorrection:\n", "\n\nInput:\n"]
pieces = st.sampled_from(PIECES + HEADINGS)
texts = st.none() | st.lists(pieces, max_size=9).map("".join)
rows = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["a", "b"]),
        "question": texts,
        "completion": texts,
        "finish_reason": st.sampled_from(["stop", "length"]),
        "error": st.sampled_from([None, None, "server_error"]),
    }
)


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, max_size=5), st.integers(0, 5), st.booleans())
def test_where_a_batch_is_cut_changes_no_triple(rows, cut, english):
    batch = pa.RecordBatch.from_pylist(rows, COMPLETED)
    assert_cuts_never_matter(lambda part: triple_prompts(part, PACK), batch, cut)
    assert_cuts_never_matter(lambda part: parse_triples(part, PACK), batch, cut)
    assert_cuts_never_matter(lambda part: clean_triples(parse_triples(part, PACK), PACK, english=english), batch, cut)
    assert_cuts_never_matter(parse_rewrite, batch, cut)
    answered = batch.append_column("response", batch.column("completion"))
    assert_cuts_never_matter(lambda part: rewrite_prompts(part, PACK), answered, cut)


@settings(max_examples=60, deadline=None)
@given(rows)
def test_every_row_is_a_triple_or_dropped_or_failed(row):
    batch = clean_triples(parse_triples(pa.RecordBatch.from_pylist([row], COMPLETED), PACK), PACK, english=False)
    row = batch.to_pylist()[0]
    whole = None not in (row["response"], row["critique"], row["correction"])
    assert whole or row["drop_reason"] or row["error"]
    assert not row["identity"] or row["correction"] == row["response"]


@pytest.mark.parametrize(
    "text", ["x" * 1_000_000, "\nCritique:" * 100_000, "\n" * 1_000_000, "no no " * 160_000, "((" * 500_000]
)
def test_a_megabyte_of_anything_takes_no_more_than_seconds(text):
    started = time.monotonic()
    batch = completed(f"{text}\nCritique:\n{text}\nCorrection:\n{text}")
    clean_triples(parse_triples(batch, PACK), PACK, english=True)
    assert time.monotonic() - started < 20
