"""What a person types to have a corpus judged: a run or a table, and what is listed in the run."""

import json
import random

import pytest
from example_run import align_stage, aligned_rows, write_about, write_stage

from pipelines.commands.evaluate import main
from pipelines.runtime.runs import open_run
from schemas.command_line import DONE, DONE_WITH_REJECTS, WRONG_USE
from schemas.tables import RESPONSES, with_texts
from transforms.tables import storage

JUDGE = "judge=scripted:tests.scripted_models:lengths"


def write_run(run, *names, rows=8, status="done"):
    """A run with alignments of these names, all of the same responses."""
    stages = []
    for name in names:
        entry = align_stage(run, *aligned_rows(random.Random(3), rows))
        directory = f"align/{name}"
        (run / entry["directory"]).rename(run / directory)
        stages.append({**entry, "stage": name, "kind": "align", "directory": directory, "status": status})
    return str(write_about(run, stages))


def metrics_of(run, name="evaluate"):
    return open_run(run).stage(name).read_json("metrics.json")


def test_the_evaluation_of_a_run_is_listed_with_what_it_judged_and_its_time(tmp_path, capsys):
    run = write_run(tmp_path, "align")
    assert main([run, "--inspector", JUDGE, "-o", run]) == DONE
    align, judged = open_run(run).stages
    assert (judged.name, judged.kind, judged.inputs, judged.status) == ("evaluate", "evaluate", ("align",), "done")
    assert storage.read_json(f"{run}/run.json")["stages"][-1]["seconds"] > 0
    assert judged.rows.going_in == align.rows.going_in == 8
    assert list(judged.read_json("metrics.json")["labels"]) == ["aligned"]
    capsys.readouterr()
    assert main([run, "--inspector", JUDGE, "-o", run]) == DONE
    assert open_run(run).stages == (align, judged)
    assert "aligned against original" in capsys.readouterr().err


def test_all_alignments_of_a_run_are_judged_by_the_names_of_their_steps(tmp_path):
    run = write_run(tmp_path, "unguarded", "guarded")
    assert main([run, "--inspector", JUDGE, "-o", run, "--by", "question_type"]) == DONE
    assert open_run(run).stage("evaluate").inputs == ("unguarded", "guarded")
    metrics = metrics_of(run)
    assert list(metrics["labels"]) == ["unguarded", "guarded"]
    assert metrics["shared_rows"] == 8
    by = metrics["labels"]["guarded"]["by"]["question_type"]
    assert sum(part["judges"][0]["n"] for part in by.values()) == 8


def test_an_alignment_that_has_not_finished_is_left_out_beside_one_that_has(tmp_path, capsys):
    run = write_run(tmp_path, "first", "second")
    about = storage.read_json(f"{run}/run.json")
    about["stages"][1]["status"] = "failed"
    storage.write_json(f"{run}/run.json", about)
    assert main([run, "--inspector", JUDGE, "-o", run]) == DONE
    assert "left out: second is failed" in capsys.readouterr().err
    assert list(metrics_of(run)["labels"]) == ["aligned"]
    assert open_run(run).stage("evaluate").inputs == ("first",)


def test_a_table_is_judged_into_a_run_of_its_own(tmp_path):
    align = open_run(write_run(tmp_path / "there", "align", rows=2)).stages[0]
    assert main([align.path, "--inspector", JUDGE, "-o", str(tmp_path / "here")]) == DONE
    [judged] = open_run(str(tmp_path / "here")).stages
    assert (judged.inputs, judged.rows.going_in) == ((), 2)
    assert main([str(tmp_path / "there"), "--inspector", JUDGE, "-o", str(tmp_path / "here")]) == DONE
    assert open_run(str(tmp_path / "here")).stages == (judged,)


def test_a_run_whose_alignment_has_not_finished_is_refused(tmp_path, capsys):
    write_about(tmp_path, [{"stage": "align", "directory": "align/1234", "status": "running"}])
    assert main([str(tmp_path), "--inspector", JUDGE, "-o", str(tmp_path)]) == WRONG_USE
    assert "no aligned corpus in this run; finish alignbeam align first" in capsys.readouterr().err


def write_items(path, *rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


PAIR = {"prompt": "q?", "chosen": "a longer one", "rejected": "one"}


def test_a_table_without_the_columns_is_refused_before_anything_is_imported(tmp_path, capsys):
    stage = write_stage(tmp_path, "respond", {"responses": RESPONSES.empty_table()})
    items = write_items(tmp_path / "hhh.jsonl", PAIR)
    arguments = [str(tmp_path / stage["directory"]), "--inspector", JUDGE, "--two-way", items]
    assert main([*arguments, "-o", str(tmp_path / "out")]) == WRONG_USE
    assert "has no column 'aligned'" in capsys.readouterr().err
    assert not (tmp_path / "out" / "import").exists()


def test_two_way_files_are_steps_and_those_of_one_name_are_both_measured(tmp_path, capsys):
    run = write_run(tmp_path / "run", "align", rows=2)
    good = write_items(tmp_path / "a" / "hhh.jsonl", PAIR)
    bad = write_items(tmp_path / "b" / "hhh.jsonl", PAIR | {"chosen": "one", "rejected": "a longer one"}, "{")
    other = write_items(tmp_path / "b" / "honest.old.jsonl", PAIR)
    arguments = [run, "--inspector", JUDGE, "-o", run, "--two-way", good, "--two-way", bad, "--two-way", good]
    assert main([*arguments, "--two-way", other]) == DONE_WITH_REJECTS
    two_way = metrics_of(run)["two_way"]
    assert [(one["file"], one["accuracy"]) for one in two_way] == [(good, 1.0), (bad, 0.0), ("honest", 1.0)]
    steps = [(stage.name, stage.kind, stage.status) for stage in open_run(run).stages[1:]]
    names = ["two_way/hhh-1", "two_way/hhh-2", "two_way/honest"]
    assert steps == [*((name, "import", "done") for name in names), ("evaluate", "evaluate", "done")]
    assert open_run(run).stage("evaluate").inputs == (*names, "align")
    before = storage.read_json(f"{run}/run.json")["stages"]
    assert main([*arguments, "--two-way", other]) == DONE_WITH_REJECTS
    assert storage.read_json(f"{run}/run.json")["stages"] == before
    capsys.readouterr()
    assert main([*arguments, "--two-way", str(tmp_path / "missing.jsonl")]) == WRONG_USE
    assert "missing.jsonl: no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "inspector, pair_ranker: give at least one judge"),
        (["--inspector", "a/m", "--inspector", "b/m"], "inspector: two are called alike: m; give NAME=FOLDER"),
        (["--inspector", "j=./judge"], "inspectors.j: ./judge: no such model folder"),
        (["--pair-ranker", "./r"], "pair_ranker: ./r: no such model folder"),
        (
            ["--inspector", "pair-ranker=i", "--pair-ranker", "r"],
            "inspectors: pair-ranker is what the pair-ranker is called",
        ),
        (["--inspector", JUDGE, "--by", "x", "--by", "x"], "by: a column is there twice: x, x"),
        (
            ["--inspector", JUDGE, "--by", "kind"],
            "by: {table} has no column 'kind'; it has id, question, response, aligned",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, capsys, flags, message):
    table = str(
        tmp_path / write_stage(tmp_path, "t", {"t": with_texts(RESPONSES, ["aligned"]).empty_table()})["directory"]
    )
    assert main([table, "-o", str(tmp_path / "out"), *flags]) == WRONG_USE
    assert message.format(table=table) in " ".join(capsys.readouterr().err.split())
