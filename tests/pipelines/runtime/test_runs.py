"""run.json: what is written of steps, what of it is read, also in damaged files."""

import json
from dataclasses import dataclass

import pyarrow as pa
import pytest

from pipelines.commands import show, status
from pipelines.report import page
from pipelines.runtime.runs import Record, RecordedStage, Rows, open_run
from pipelines.runtime.stage import Stage
from pipelines.runtime.step import ModelSource, PlannedStep, StageKind, TableSource
from schemas.command_line import WRONG_USE
from schemas.errors import UsageError
from schemas.fields import setting, takes, uses
from transforms.tables import storage


@dataclass(frozen=True, kw_only=True)
class Config:
    questions: str = takes("questions", "id")
    model: str = uses("generator", "who answers")
    count: int = setting("how many", 1)


def kind(name: str) -> StageKind:
    return StageKind(
        name=name,
        about="of a test",
        config=Config,
        do=lambda config, step: None,
        gives=lambda config, inputs: {"rows": pa.schema([])},
    )


def planned(name: str, kind_name: str = "respond", needs: str = "", model: str = "a") -> PlannedStep:
    sources = {"model": ModelSource({"model": model})}
    if needs:
        sources["questions"] = TableSource(step=needs)
    return PlannedStep(name, kind(kind_name), Config(questions="q", model="m"), sources)


def stage_of(run, step: PlannedStep, **identity) -> Stage:
    return Stage.under(str(run), step.name, identity, kind=step.kind.name)


def write_manifest(stage: Stage, kept: int = 3) -> None:
    counts = {"in": 3, "kept": kept, "drops": {}, "rejects": {}}
    storage.write_json(f"{stage.directory}/manifest.json", {**stage.about, "tables": {}, "counts": counts})


def write_shard(directory: str, name: str, kept: int, **lost) -> None:
    shard = {"name": name, "mark": "x", "in": 5, "drops": {}, "rejects": {}, **lost}
    tables = {"rows": {"path": f"rows/{name}.parquet", "rows": kept}}
    storage.write_json(f"{directory}/entries/{name}.json", shard | {"tables": tables})


def write_file(folder, **content):
    (folder / "run.json").write_text(json.dumps(content))
    return str(folder)


def test_a_step_is_recorded_with_its_kind_and_what_it_needs(tmp_path):
    run, step = str(tmp_path), planned("aligned", "align", "answers")
    record, stage = Record(run, name="mine", seed=7, toy=True), stage_of(tmp_path, step, guard=True)
    record.write_step(step, stage, "running")
    write_manifest(stage)
    record.write_step(step, stage, "done", 2.5)
    opened = open_run(run)
    assert (opened.name, opened.seed, opened.toy, opened.models) == ("mine", 7, True, {"aligned model": "a"})
    manifest, identity = stage.read_manifest(), {"guard": True}
    assert opened.stages == (
        RecordedStage("aligned", stage.directory, "done", 2.5, manifest, "align", ("answers",), (), identity),
    )
    assert opened.stages[0].rows == Rows(3, 3, 0, 0)
    assert opened.of_kind("align")[0] == opened.stages[0]
    pointer = {"kind": "align", "directory": f"align/{stage.digest}", "digest": stage.digest}
    assert storage.read_json(f"{run}/steps/aligned.json") == pointer


def test_steps_are_listed_before_the_first_is_done_and_keep_what_is_told_of_them(tmp_path):
    steps = [planned("a", "questions"), planned("b", needs="a"), planned("c", needs="b")]
    record = Record(str(tmp_path))
    record.write_step(steps[1], stage_of(tmp_path, steps[1]), "done", 9.0)
    record.open(steps, {"name": "mine"}, {"a model": "m"})
    record.write_standing("c", "stale", ["b is not done"])
    opened = open_run(str(tmp_path))
    assert [(stage.name, stage.status, stage.seconds, stage.because) for stage in opened.stages] == [
        ("a", "to do", None, ()),
        ("b", "done", 9.0, ()),
        ("c", "stale", None, ("b is not done",)),
    ]
    assert (opened.recipe, opened.models) == ({"name": "mine"}, {"a model": "m"})
    record.open(steps[1:], {}, {})
    assert [stage.name for stage in open_run(str(tmp_path)).stages] == ["b", "c"]


def test_a_step_that_is_done_keeps_the_time_that_it_took_and_one_of_another_digest_does_not(tmp_path):
    step, record = planned("a"), Record(str(tmp_path))
    record.write_step(step, stage_of(tmp_path, step, count=1), "done", 60.0)
    record.write_step(step, stage_of(tmp_path, step, count=1), "done")
    assert open_run(str(tmp_path)).stages[0].seconds == 60.0
    record.write_step(step, stage_of(tmp_path, step, count=2), "running")
    [stage] = open_run(str(tmp_path)).stages
    assert (stage.seconds, stage.status, stage.setting("count")) == (None, "running", 2)


def test_an_unfinished_step_counts_its_complete_shards(tmp_path):
    step, record = planned("a"), Record(str(tmp_path))
    stage = stage_of(tmp_path, step)
    record.write_step(step, stage, "interrupted", 1.0)
    [recorded] = open_run(str(tmp_path)).stages
    assert (recorded.rows, recorded.shards, recorded.has_tables) == (None, 0, False)
    write_shard(stage.directory, "a", 3, drops={"short": 1}, rejects={"timeout": 1})
    write_shard(stage.directory, "b", 4, drops={"short": 1})
    [recorded] = open_run(str(tmp_path)).stages
    assert (recorded.rows, recorded.shards, recorded.has_tables) == (Rows(10, 7, 2, 1), 2, True)
    assert recorded.counts == {"in": 10, "kept": 7, "drops": {"short": 2}, "rejects": {"timeout": 1}}
    write_manifest(stage)
    [recorded] = open_run(str(tmp_path)).stages
    assert (recorded.rows, recorded.shards) == (Rows(3, 3, 0, 0), 0)


def test_rows_that_were_rejected_are_not_kept_although_align_has_them_in_its_table():
    counts = {"in": 10, "kept": 10, "drops": {}, "rejects": {"timeout": 2}}
    assert RecordedStage("a", "a", "done", 1.0, {"counts": counts}).rows == Rows(10, 8, 0, 2)


def test_a_trained_models_file_is_no_runs(tmp_path):
    (tmp_path / "run.json").write_text('{"method": "inspector", "settings": {}}')
    with pytest.raises(UsageError, match=r"run.json: is a trained model's; name a directory that `alignbeam run`"):
        open_run(str(tmp_path))


def test_steps_are_found_by_kind_in_the_runs_order(tmp_path):
    entries = [("bold", "align"), ("align", "align"), ("inspector", "train_inspector")]
    opened = open_run(write_file(tmp_path, stages=[{"stage": name, "kind": kind} for name, kind in entries]))
    assert [stage.name for stage in opened.of_kind("align")] == ["bold", "align"]
    assert [opened.stage("inspector")] == opened.of_kind("train_inspector")
    assert opened.of_kind("curate") == []


DAMAGED = [
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
    ({"stages": [{"stage": "align", "because": "a"}]}, r"stages\[0\].because: expected list, found str"),
]


@pytest.mark.parametrize(("content", "message"), DAMAGED)
def test_a_damaged_file_is_an_error_in_words_and_is_written_anew(tmp_path, content, message, capsys):
    run = write_file(tmp_path, **content)
    with pytest.raises(UsageError, match=message):
        open_run(run)
    assert [main([run]) for main in (status.main, show.main, page.main)] == [WRONG_USE] * 3
    capsys.readouterr()
    step = planned("aligned", "align")
    Record(run).write_step(step, stage_of(tmp_path, step), "failed", 1.0)
    assert "it is written anew, and results are found by their directories" in capsys.readouterr().err
    assert [(stage.name, stage.status) for stage in open_run(run).stages] == [("aligned", "failed")]


def test_nulls_are_as_if_they_were_not_there(tmp_path):
    entry = {"stage": "align", "status": None, "seconds": None, "directory": None, "kind": None, "inputs": None}
    run = write_file(tmp_path, name=None, models=None, seed=None, stages=[entry | {"because": None, "identity": None}])
    opened = open_run(run)
    assert (opened.name, opened.models) == ("run", {})
    assert opened.stages == (RecordedStage("align", f"{run}/align", "unknown", None, None, "align"),)
