"""Prompts for an upstream model, and what is read from its completions."""

import pyarrow as pa
from cutting import assert_cuts_never_matter
from hypothesis import given
from hypothesis import strategies as st

from pipelines.respond import answer_prompts, read_answers

ASKED = pa.RecordBatch.from_pylist([{"question": " Why? \n"}, {"question": None}, {"question": ""}, {"question": " "}])
COMPLETED = pa.RecordBatch.from_pylist(
    [
        {"completion": " \nBecause it is.\n ", "error": None},
        {"completion": " \n\t", "error": None},
        {"completion": "", "error": None},
        {"completion": None, "error": "prompt_too_long"},
    ]
)


def prompts(style: str) -> list[str | None]:
    return answer_prompts(ASKED, style).column("prompt").to_pylist()


def test_a_chat_model_is_sent_the_bare_question():
    assert prompts("chat") == ["Why?", None, "", ""]


def test_a_base_model_is_sent_a_page_that_breaks_off_at_the_answer():
    assert prompts("completion") == ["Question: Why?\nAnswer:", None, "", "Question: \nAnswer:"]


def test_an_answer_is_stripped_and_an_empty_one_is_dropped():
    assert read_answers(COMPLETED).select(["response", "error", "drop_reason"]).to_pylist() == [
        {"response": "Because it is.", "error": None, "drop_reason": None},
        {"response": "", "error": None, "drop_reason": "empty_response"},
        {"response": "", "error": None, "drop_reason": "empty_response"},
        {"response": None, "error": "prompt_too_long", "drop_reason": None},
    ]


@given(st.sampled_from(["chat", "completion"]), st.integers(0, 4))
def test_cutting_a_batch_changes_nothing(style, cut):
    assert_cuts_never_matter(lambda batch: answer_prompts(batch, style), ASKED, cut)
    assert_cuts_never_matter(read_answers, COMPLETED, cut)
