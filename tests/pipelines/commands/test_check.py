"""`alignbeam check` of a recipe: what is wrong inside and outside of it in one go, and what is left to a flag."""

import pytest

from pipelines.commands.check import main
from schemas.command_line import DONE, WRONG_USE

WRONG = """\
name: mine
models: {teacher: {model: ./absent}}
steps:
  questions: {stage: questions, model: teacher, pack: gone.yaml}
  answers: {stage: respond, questions: question, model: teacher}
"""


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """Return how a check of a recipe ends, and what it says."""
    monkeypatch.chdir(tmp_path)

    def check(text):
        (tmp_path / "mine.yaml").write_text(text)
        return main(["mine.yaml"]), capsys.readouterr().err

    return check


def test_a_wrong_name_does_not_hide_what_is_wrong_outside(said):
    assert said(WRONG) == (
        WRONG_USE,
        "error: mine.yaml:5: steps.answers.questions: no step or model 'question'; did you mean 'questions'?\n"
        "mine.yaml:4: steps.questions.model: ./absent: no such model folder\n"
        "mine.yaml:4: steps.questions: criterion pack 'gone.yaml' has 1 error(s):\n"
        "gone.yaml:1: error: no such file; bundled packs: ethical, factual, helpful\n"
        "mine.yaml:5: steps.answers.model: ./absent: no such model folder\n",
    )


def test_models_that_a_flag_has_to_name_are_no_mistake_and_are_listed(said):
    ethical = WRONG.replace("gone.yaml", "ethical").replace("question,", "questions,")
    code, text = said(ethical.replace("model: ./absent", "style: chat"))
    assert (code, text.rpartition("; ")[2]) == (DONE, "--model has to name teacher\n")
    code, text = said(ethical.replace("./absent", "some/model"))
    assert (code, text.rpartition("; ")[2]) == (DONE, "nothing wrong\n")
