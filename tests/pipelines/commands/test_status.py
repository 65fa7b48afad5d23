import pytest
from example_run import entry, write_about, write_full_run

from pipelines.commands import status
from schemas.command_line import DONE, DONE_WITH_REJECTS, FAILED, WRONG_USE
from transforms.tables import storage


def said(capsys, run, code=DONE):
    assert status.main([str(run)]) == code
    return capsys.readouterr().out.splitlines()


def counted(run, name, **counts):
    manifest = {"stage": "x", "digest": "1", "tables": {}, "counts": {"drops": {}, "rejects": {}, **counts}}
    storage.write_json(f"{run}/{name}/1/manifest.json", manifest)


def test_steps_stand_under_the_last_one_that_they_need(tmp_path, capsys):
    counted(tmp_path, "import", **{"in": 12, "kept": 10, "rejects": {"no_question": 2}})
    counted(tmp_path, "curate", **{"in": 1200, "kept": 1000, "drops": {"short": 150, "copy": 50}})
    stages = [
        entry("evaluation", "evaluate", "", status="to do", inputs=("aligned", "inspector")),
        entry("tests", "import", "1", seconds=0.4),
        entry("a/triples", "triples", "1", status="interrupted", seconds=75.0),
        entry("a/curated", "curate", "1", inputs=("a/triples", "tests"), seconds=3.0),
        entry("inspector", "train_inspector", "1", status="running", inputs=("a/curated",)),
        entry("aligned", "align", "2", status="stale", because=["guard: True → False"], inputs=("inspector", "tests")),
    ]
    assert said(capsys, write_about(tmp_path, stages), DONE_WITH_REJECTS) == [
        "kind-answers",
        "step                status                 rows        time",
        "tests               done               10 of 12       0.4 s",
        "    lost: 2 no_question",
        "a/triples           interrupted                  1 min 15 s",
        "  a/curated         done         1,000 of 1,200       3.0 s",
        "      lost: 150 short, 50 copy",
        "      also needs tests",
        "    inspector       running                               –",
        "      aligned       stale                                 –",
        "          stale: guard: True → False",
        "          also needs tests",
        "        evaluation  to do                                 –",
        "            also needs inspector",
    ]


def test_a_step_that_is_under_way_tells_of_its_complete_shards(tmp_path, capsys):
    shard = {"name": "a", "mark": "x", "in": 5, "drops": {}, "rejects": {"server_error": 1}}
    tables = {"responses": {"path": "responses/a.parquet", "rows": 4}}
    storage.write_json(f"{tmp_path}/respond/1/entries/a.json", shard | {"tables": tables})
    run = write_about(tmp_path, [entry("answers", "respond", "1", status="running")])
    assert said(capsys, run, DONE_WITH_REJECTS)[2:] == [
        "answers  running  4 of 5     –",
        "    1 shard is complete",
        "    lost: 1 server_error",
    ]


@pytest.mark.parametrize(
    ("statuses", "code"),
    [(("done", "failed"), FAILED), (("interrupted",), DONE), (("stale", "to do"), DONE), ((), DONE)],
)
def test_the_exit_code_says_whether_a_step_failed(tmp_path, capsys, statuses, code):
    said(capsys, write_about(tmp_path, [entry(text, "respond", "1", status=text) for text in statuses]), code)


def test_a_failure_counts_more_than_rejects(tmp_path, capsys):
    run = write_full_run(tmp_path, rows=12)
    said(capsys, run, DONE_WITH_REJECTS)
    content = storage.read_json(f"{run}/run.json")
    content["stages"].append(entry("late", "respond", "1", status="failed"))
    storage.write_json(f"{run}/run.json", content)
    said(capsys, run, FAILED)


def test_steps_in_a_circle_are_all_told(tmp_path, capsys):
    stages = [entry("a", "respond", "1", inputs=("b",)), entry("b", "respond", "1", inputs=("a",))]
    assert [line.split()[0] for line in said(capsys, write_about(tmp_path, stages))[2:]] == ["a", "b"]


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert status.main([str(tmp_path)]) == WRONG_USE
    assert "no run.json" in capsys.readouterr().err
