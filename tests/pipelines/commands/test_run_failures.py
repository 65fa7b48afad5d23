"""Rows and steps that fail in a run: rejects, asking again, branches that need them, and what exit codes say."""

import json
import re

import pytest
from recipe_runs import QUESTIONS, TRIPLES, scripted

from pipelines import questions
from pipelines.commands import status
from transforms.tables import storage
from transforms.tables.table import read_manifest

QUIET = {**QUESTIONS, "count": 20}  # the seeds are questions enough, so that triples alone are asked for
AGAIN = "--retry-failed"


def words(capsys) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture
def healed(monkeypatch):
    """A call, from which on no request fails."""
    return lambda: monkeypatch.setenv("ALIGNBEAM_TEST_HEALED", "1")


@pytest.fixture
def failing(runs):
    """The recipe with a model that fails for every third prompt, and the same answers downstream."""
    runs.recipe["models"] = {"teacher": scripted("failing")}
    runs.recipe["steps"] = {"questions": QUIET, "triples": TRIPLES}
    return runs


def test_failed_rows_are_rejects_and_can_be_asked_again(failing, healed, capsys):
    assert failing() == 3
    counts, asked = failing.counts("triples"), len(failing.asked())
    rejects = counts["rejects"]["server_error"]
    assert rejects > 0
    assert status.main([str(failing.run)]) == 3
    assert f"{rejects} server_error" in capsys.readouterr().out
    healed()
    assert failing() == 3
    assert (failing.counts("triples"), len(failing.asked())) == (counts, asked)
    assert failing(AGAIN) == 0
    assert failing.counts("triples")["rejects"] == {}
    assert len(failing.asked()) == asked + rejects


def test_what_asking_again_makes_stale_is_said_first(failing, healed, capsys):
    failing.recipe["steps"] |= {
        "curated": {"stage": "curate", "table": "triples"},
        "more": {"stage": "derive", "tables": ["curated"]},
        "others": {"stage": "derive", "tables": ["questions"]},
    }
    assert failing() == 3
    capsys.readouterr()
    healed()
    before = failing.of_steps("directory")
    assert failing(AGAIN) == 0
    said = words(capsys)
    assert said.startswith("asked again: triples stale where that brings rows: curated, more questions ")
    after = failing.of_steps("directory")
    assert [name for name in before if after[name] != before[name]] == ["curated", "more"]
    assert failing(AGAIN) == 0
    assert words(capsys).startswith("asked again: nothing failed questions ")


def test_steps_without_failed_rows_are_left_alone_when_others_are_asked_again(failing, healed):
    rows = [{"question": "Why so?", "response": "So."}, {"question": "", "response": "So."}]
    (failing.folder / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)))
    failing.recipe["steps"] |= {
        "answers": {"stage": "import", "corpus": "answers.jsonl"},
        "aligned": {
            "stage": "align",
            "responses": "answers",
            "members": [{"criterion": "any", "aligner": "teacher"}],
            "every_row": True,
            "guard": False,
        },
        "evaluation": {"stage": "evaluate", "aligned": "aligned", "inspectors": ["judge"]},
    }
    failing.recipe["models"]["judge"] = {"model": "scripted:tests.scripted_models:vowels"}
    healed()
    assert failing() == 3
    assert failing.counts("answers")["rejects"] == {"empty_question": 1}
    written, seconds = failing.change_times(), failing.of_steps("seconds")
    assert failing(AGAIN) == 3
    assert failing.change_times() == written
    assert failing.of_steps("seconds") == seconds


def test_a_retry_that_cannot_begin_leaves_a_complete_step_as_it_was(failing, healed, monkeypatch, capsys):
    assert failing() == 3
    counts, rows = failing.counts("triples"), failing.table("triples")
    with monkeypatch.context() as patch:
        patch.setenv("ALIGNBEAM_TEST_GONE", "1")
        assert failing(AGAIN) == 2
    assert "http://gone: no server answers there" in words(capsys)
    assert failing.counts("triples") == counts
    assert failing.table("triples").equals(rows)
    healed()
    assert failing(AGAIN) == 0
    assert failing.counts("triples")["rejects"] == {}


def test_failed_rows_of_an_incomplete_step_are_asked_again(failing, healed, monkeypatch):
    monkeypatch.setattr(questions, "SHARD_ROWS", 7)
    assert failing() == 3
    directory = str(failing.directory("triples"))
    entries = [f"{directory}/entries/shard-{shard:05d}.json" for shard in (0, 1, 2)]
    assert all(storage.read_json(entry)["rejects"] for entry in entries)
    storage.remove(f"{directory}/manifest.json")
    storage.remove(entries[2])
    healed()
    assert failing(AGAIN) == 0
    assert str(failing.directory("triples")) == directory
    assert failing.counts("triples")["rejects"] == {}


def test_what_failed_costs_questions_only_where_too_few_are_left(runs, healed, capsys):
    runs.recipe["models"]["teacher"] = scripted("failing_questions")
    runs.recipe["steps"] = {"questions": QUESTIONS}
    assert runs() == 0
    enough = runs.counts("questions")
    assert enough["kept"] == 60
    assert enough["rejects"] == {}
    assert enough["drops"]["server_error"] > 0
    one_round = ("--set", "steps.questions.question_rounds=1")
    assert runs(*one_round) == 3
    directory, counts = runs.directory("questions"), runs.counts("questions")
    assert counts["kept"] < 60
    assert counts["rejects"]["server_error"] == runs.table("questions", "rejects").num_rows > 0
    assert (
        f"questions: {counts['kept']} of the 60 asked for: the rounds were used up; raise question_rounds (now 1)"
        in words(capsys)
    )
    healed()
    assert runs(*one_round) == 3
    assert runs.counts("questions") == counts
    assert runs(*one_round, AGAIN) == 0
    assert runs.directory("questions") == directory
    assert runs.counts("questions")["rejects"] == {}
    rows = runs.table("questions")
    runs.recipe["models"]["teacher"] = scripted("teacher")
    runs.output = "other"
    assert runs(*one_round) == 0
    assert rows.equals(runs.table("questions"))


def test_failed_topics_are_rejects_too(runs, healed):
    runs.recipe["models"]["teacher"] = scripted("failing")
    runs.recipe["steps"] = {"questions": QUESTIONS}
    assert runs() == 3
    few = runs.counts("questions")
    assert few["kept"] < 60
    assert few["rejects"]["server_error"] > 0
    healed()
    assert runs(AGAIN) == 0
    assert (runs.counts("questions")["kept"], runs.counts("questions")["rejects"]) == (60, {})


BRANCHES = {
    "questions": QUIET,
    "left": {"stage": "respond", "questions": "questions", "model": "gone"},
    "after_left": {"stage": "respond", "questions": "left", "model": "teacher"},
    "right": {"stage": "respond", "questions": "questions", "model": "teacher"},
    "both": {"stage": "derive", "tables": ["left", "right"], "columns": {"response": "response"}},
}


@pytest.fixture
def branches(runs):
    """Two branches, of which the first fails."""
    runs.recipe["models"]["gone"] = scripted("refused")
    runs.recipe["steps"] = BRANCHES
    return runs


def test_a_failure_ends_the_run(branches, capsys):
    assert branches() == 2
    assert words(capsys).endswith("error: http://gone: no server answers there")
    assert branches.of_steps("status") == {
        "questions": "done",
        "left": "failed",
        "after_left": "to do",
        "right": "to do",
        "both": "to do",
    }
    assert (branches.run / "report.html").is_file()


def test_branches_that_do_not_need_a_failed_step_are_finished(branches, capsys):
    branches.recipe["models"]["gone"] = scripted("mute")
    assert branches("--keep-going") == 1
    said = words(capsys)
    reason = "left: 0 of 20 rows survived, under the floor of 10%: 20 empty_response"
    assert said.count(reason) == 2  # when it happens, and in the end
    assert branches.of_steps("status") == {
        "questions": "done",
        "left": "failed",
        "after_left": "to do",
        "right": "done",
        "both": "to do",
    }
    assert (branches.run / "report.html").is_file()
    assert status.main([str(branches.run)]) == 1
    asked = len(branches.asked())
    branches.recipe["models"]["gone"] = scripted("aligner")
    assert branches() == 0
    assert set(branches.of_steps("status").values()) == {"done"}
    assert len(branches.asked()) == asked + 20  # of left; what comes after it asks what right did


def test_nothing_that_came_back_looks_like_success(runs, capsys):
    """A corpus of which no row can be used is a failure, and what needs it is not begun."""
    (runs.folder / "q.jsonl").write_text('{"question": ""}\n{"question": 1}\n')
    runs.recipe["steps"] = {
        "heldout": {"stage": "import", "corpus": "q.jsonl", "kind": "questions"},
        "answers": {"stage": "respond", "questions": "heldout", "model": "teacher"},
    }
    for _ in range(2):
        assert runs() == 1
        assert re.search("not one row could be used|not one of 2 rows is left", words(capsys))
        assert runs.of_steps("status") == {"heldout": "failed", "answers": "to do"}
    assert runs.asked() == []
    assert read_manifest(str(runs.directory("heldout")))["counts"]["kept"] == 0
