"""Prompts, word for word. After a wanted change: ALIGNBEAM_UPDATE_GOLDEN=1 pytest tests/transforms/test_prompts.py"""

import os
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from jinja2.exceptions import SecurityError

from schemas.criteria.pack import load_pack
from transforms.prompts import environment, render

GOLDEN = Path(__file__).parent.parent / "golden"
HINTS = ["Forks | tools", "Bees | animals", "Rain | weather", "Spoons | tools"]
TYPE = "advice on a quarrel"
QUESTION = "May I feed the ducks?"

PROMPTS = {
    "topics_one": lambda: render("topics", question_type=TYPE, topics=["Shared kitchens"], count=10),
    "topics_five": lambda: render("topics", question_type=TYPE, topics=["A", "B", "C", "D", "E"], count=12),
    "questions": lambda: render(
        "questions", failure="too long", hints=HINTS, examples=["What is a fork?", "What is a bee?"]
    ),
    "questions_bare": lambda: render("questions", failure="too long", hints=HINTS[:1], examples=[]),
    "triples_ethical": lambda: render("triples", pack=load_pack("ethical"), question=QUESTION),
    "triples_factual": lambda: render("triples", pack=load_pack("factual"), question=QUESTION),
    "triples_helpful": lambda: render("triples", pack=load_pack("helpful"), question=QUESTION),
    "rewrite_ethical": lambda: render(
        "rewrite", pack=load_pack("ethical"), question=QUESTION, response="No.\n\nGo away."
    ),
    "answer": lambda: render("answer", question=QUESTION),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_the_prompt_reads_as_the_golden_file(name):
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("ALIGNBEAM_UPDATE_GOLDEN"):
        golden.write_text(PROMPTS[name]() + "\n", encoding="utf-8")
    assert PROMPTS[name]() + "\n" == golden.read_text(encoding="utf-8")


def test_the_rewrite_prompt_continues_the_triples_prompt():
    pack = load_pack("helpful")
    triples = render("triples", pack=pack, question=QUESTION)
    assert render("rewrite", pack=pack, question=QUESTION, response="Yes.") == f"{triples}\nYes.\nCritique:"


def test_a_missing_variable_is_an_error():
    with pytest.raises(UndefinedError):
        render("topics", question_type=TYPE, topics=[])


def test_text_that_looks_like_a_template_is_only_text():
    hostile = "{{ 7 * 7 }} {% for x in y %} <b>&amp;"
    assert render("answer", question=hostile) == f"Question: {hostile}\nAnswer:"


def test_a_value_cannot_reach_out_of_the_sandbox():
    with pytest.raises(SecurityError):
        environment().from_string("{{ ''.__class__.__mro__ }}").render()
