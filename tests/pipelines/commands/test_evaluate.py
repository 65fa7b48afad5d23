"""What a person types to have a corpus judged: a run or a table, and what is listed in the run."""

import pytest
from example_run import write_about, write_align_run, write_stage

from pipelines import evaluate
from pipelines.commands.evaluate import main
from pipelines.runtime.runs import open_run
from schemas.command_line import DONE, WRONG_USE
from schemas.tables import RESPONSES
from transforms.tables import storage

JUDGE = "judge=scripted:tests.scripted_models:lengths"


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    monkeypatch.setattr(evaluate, "model_config", lambda folder: {})
    monkeypatch.setattr(evaluate, "model_digest", lambda folder: folder)


def test_the_evaluation_of_a_run_is_listed_with_what_it_judged_and_its_time(tmp_path):
    run = str(write_align_run(tmp_path, rows=8))
    assert main([run, "--inspector", JUDGE, "-o", run]) == DONE
    align, judged = open_run(run).stages
    assert (judged.name, judged.kind, judged.inputs, judged.status) == ("evaluate", "evaluate", ("align",), "complete")
    assert storage.read_json(f"{run}/run.json")["stages"][-1]["seconds"] > 0
    assert judged.rows.going_in == align.rows.going_in == 8
    assert judged.read_json("metrics.json")["judges"][0]["judge"] == "judge"
    assert main([run, "--inspector", JUDGE, "-o", run]) == DONE
    assert open_run(run).stages == (align, judged)


def test_the_evaluation_of_a_table_names_the_table(tmp_path):
    align = open_run(str(write_align_run(tmp_path / "there", rows=2))).stages[0]
    assert main([align.path, "--inspector", JUDGE, "-o", str(tmp_path / "here")]) == DONE
    [judged] = open_run(str(tmp_path / "here")).stages
    assert judged.inputs == (align.path,)


def test_a_run_whose_alignment_has_not_finished_is_refused(tmp_path, capsys):
    write_about(tmp_path, [{"stage": "align", "directory": "align/1234", "status": "running"}])
    assert main([str(tmp_path), "--inspector", JUDGE, "-o", str(tmp_path)]) == WRONG_USE
    assert "no aligned corpus in this run; finish alignbeam align first" in capsys.readouterr().err


def test_a_table_without_the_columns_is_refused_before_anything_is_imported(tmp_path, capsys):
    stage = write_stage(tmp_path, "respond", {"responses": RESPONSES.empty_table()})
    arguments = [str(tmp_path / stage["directory"]), "--inspector", JUDGE, "--two-way", "missing.jsonl"]
    assert main([*arguments, "-o", str(tmp_path / "out")]) == WRONG_USE
    assert "has no column aligned" in capsys.readouterr().err


def test_a_judge_is_needed(tmp_path, capsys):
    assert main([str(tmp_path), "-o", str(tmp_path)]) == WRONG_USE
    assert "inspector, pair_ranker: give at least one judge" in capsys.readouterr().err
