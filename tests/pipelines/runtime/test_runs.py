"""run.json: what is written of stages, what of it is read, also in files from before and in damaged ones."""

import json

import pytest

from pipelines.commands import show, status
from pipelines.report import page
from pipelines.runtime.runs import Record, RecordedStage, Rows, open_run
from pipelines.runtime.stage import Stage
from schemas.command_line import WRONG_USE
from schemas.errors import UsageError
from transforms.tables import storage


def write_manifest(stage: Stage, kept: int = 3) -> None:
    counts = {"in": 3, "kept": kept, "drops": {}, "rejects": {}}
    storage.write_json(f"{stage.directory}/manifest.json", {**stage.about, "tables": {}, "counts": counts})


def write_file(folder, **content):
    (folder / "run.json").write_text(json.dumps(content))
    return str(folder)


def test_a_stage_is_recorded_with_its_kind_and_what_it_read(tmp_path):
    run = str(tmp_path)
    record = Record(run, name="mine", criterion="kind", seed=7)
    stage = Stage.under(run, "align_compared", {"guard": True}, kind="align")
    record.write_stage(stage, "running", 0.0, {"aligner kind": "a"}, inputs=["respond"])
    write_manifest(stage)
    record.write_stage(stage, "complete", 2.5)
    opened = open_run(run)
    assert (opened.name, opened.criterion, opened.seed, opened.models) == ("mine", "kind", 7, {"aligner kind": "a"})
    assert opened.stages == (
        RecordedStage("align_compared", stage.directory, "complete", 2.5, stage.read_manifest(), "align", ("respond",)),
    )
    assert opened.stages[0].rows == Rows(3, 3, 0, 0)
    assert opened.first_of("align") == opened.stages[0]
    assert record.directory_of("align_compared") == stage.directory
    assert record.directory_of("align") is None


def test_a_stage_of_another_digest_forgets_what_the_one_before_read(tmp_path):
    record = Record(str(tmp_path))
    record.write_stage(Stage.under(str(tmp_path), "curate", {"seed": 1}), "complete", 1.0, inputs=["triples"])
    record.write_stage(Stage.under(str(tmp_path), "curate", {"seed": 2}), "running", 0.0)
    [stage] = open_run(str(tmp_path)).stages
    assert (stage.inputs, stage.status) == ((), "running")


def test_a_stage_keeps_its_position_and_once_complete_its_seconds(tmp_path):
    record = Record(str(tmp_path))
    first, second = (Stage.under(str(tmp_path), name, {}) for name in ("questions", "triples"))
    record.write_stage(first, "complete", 60.0)
    record.write_stage(second, "complete", 9.0)
    record.write_stage(first, "complete", 0.1)
    assert [(stage.name, stage.seconds) for stage in open_run(str(tmp_path)).stages] == [
        ("questions", 60.0),
        ("triples", 9.0),
    ]


def test_a_failure_is_listed_also_where_nothing_was(tmp_path):
    record = Record(str(tmp_path))
    with pytest.raises(RuntimeError), record.watched(Stage.under(str(tmp_path), "triples", {}), inputs=["questions"]):
        raise RuntimeError
    record.write_failure("curate", 1.0)
    stages = open_run(str(tmp_path)).stages
    assert [(stage.name, stage.kind, stage.status) for stage in stages] == [
        ("triples", "triples", "failed"),
        ("curate", "curate", "failed"),
    ]
    assert stages[0].inputs == ("questions",)


def test_a_trained_models_file_is_no_runs(tmp_path):
    (tmp_path / "run.json").write_text('{"method": "inspector", "settings": {}}')
    with pytest.raises(UsageError, match=r"run.json: is a trained model's; name a directory that `alignbeam run`"):
        open_run(str(tmp_path))


def test_a_file_from_before_names_no_kinds(tmp_path):
    run = write_file(tmp_path, stages=[{"stage": "align_compared"}, {"stage": "align"}, {"stage": "train_aligner"}])
    opened = open_run(run)
    assert [(stage.name, stage.kind) for stage in opened.stages] == [
        ("align_compared", "align"),
        ("align", "align"),
        ("train_aligner", "train_aligner"),
    ]
    assert [stage.name for stage in opened.of_kind("align")] == ["align", "align_compared"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"stages": {}}, "run.json: stages: expected list, found dict"),
        ({"stages": ["align"]}, r"run.json: stages\[0\]: names no stage"),
        ({"stages": [{"stage": "a"}, {"directory": "b"}]}, r"run.json: stages\[1\]: names no stage"),
        ({"stages": [{"stage": ["align"]}]}, r"stages\[0\].stage: expected str, found list"),
        ({"stages": [{"stage": "align", "seconds": "long"}]}, r"stages\[0\].seconds: expected int or float, found str"),
        (
            {"stages": [{"stage": "align", "directory": "../else"}]},
            r"stages\[0\].directory: names '../else', which does not lie below",
        ),
        (
            {"stages": [{"stage": "align", "directory": "/else"}]},
            r"stages\[0\].directory: names '/else', which does not lie below",
        ),
        ({"stages": [{"stage": "align", "directory": "s3://else"}]}, "'s3://else', which does not lie below"),
        ({"models": ["a"]}, "run.json: models: expected dict, found list"),
        ({"criteria": ["."]}, "run.json: criteria: names '.', which does not lie below"),
        ({"criteria": ["../else"]}, "run.json: criteria: names '../else', which"),
    ],
)
def test_a_damaged_file_is_an_error_in_words(tmp_path, content, message):
    run = write_file(tmp_path, **content)
    with pytest.raises(UsageError, match=message):
        open_run(run)
    with pytest.raises(UsageError, match=message):
        Record(run).write_failure("align", 1.0)
    assert [main([run]) for main in (status.main, show.main, page.main)] == [WRONG_USE] * 3


def test_nulls_are_as_if_they_were_not_there(tmp_path):
    entry = {"stage": "align", "status": None, "seconds": None, "directory": None, "kind": None, "inputs": None}
    run = write_file(tmp_path, name=None, models=None, criteria=None, seed=None, stages=[entry])
    opened = open_run(run)
    assert (opened.name, opened.models, opened.criteria) == ("run", {}, ())
    assert opened.stages == (RecordedStage("align", f"{run}/align", "unknown", None, None, "align"),)
    Record(run).write_failure("align", 1.0)
    assert open_run(run).stages[0].status == "failed"
