"""What `alignbeam clean` would free, and what it keeps."""

import json
import os
from pathlib import Path

import pytest
from recipe_runs import Runs, finished, questions, restored, scripted

from pipelines.commands.clean import main
from pipelines.runtime.at_work import at_work
from transforms.engines.engine import Completion
from transforms.generation.cache_index import segment_names
from transforms.generation.response_cache import ResponseCache

STEPS = {
    "heldout": {"stage": "import", "corpus": "heldout.jsonl", "kind": "questions"},
    "answers": {"stage": "respond", "questions": "heldout", "model": "teacher"},
    "more": {"stage": "derive", "tables": ["answers"]},
}
RECIPE = {"name": "small", "models": {"teacher": scripted("teacher")}, "steps": STEPS}


@pytest.fixture(scope="module")
def done_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean")
    return finished(folder, RECIPE, {"heldout.jsonl": questions("What is a cat?", "What is a dog?")})


@pytest.fixture
def done(done_once, tmp_path):
    with restored(done_once, tmp_path / "before") as runs:
        yield runs


def files(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}


def edited(runs: Runs) -> list[str]:
    """Do two steps anew with other settings; returns the directories that are stale then."""
    before = runs.of_steps("directory")
    assert runs("--set", "steps.answers.sampling.max_tokens=99", "--set", "steps.more.limit=1") == 0
    after = runs.of_steps("directory")
    return sorted(before[name] for name in before if before[name] != after[name])


def test_a_run_that_has_nothing_to_free(done, capsys):
    before = files(done.run)
    assert main([str(done.run), "--yes"]) == 0
    assert capsys.readouterr().err == "0 removed, 0.0 MB\n"
    assert files(done.run) == before


def test_stale_results_are_named_first_and_removed_when_told_so(done, capsys):
    stale = edited(done)
    assert [path.split("/")[0] for path in stale] == ["derive", "respond"]
    (done.run / stale[0] / "large").write_bytes(bytes(1_250_000))
    before = files(done.run)
    capsys.readouterr()
    assert main([str(done.run)]) == 0
    said = capsys.readouterr()
    lines = [line.split() for line in said.out.splitlines()]
    assert [line[0] for line in lines[1:]] == stale
    assert [line[-1] for line in lines] == ["MB", "1.3", "0.0"]
    assert " ".join(lines[1][1:-1]) == "made with other settings or inputs"
    assert said.err == "2 to remove, 1.3 MB; nothing was removed (--yes removes them)\n"
    assert files(done.run) == before
    assert main([str(done.run), "--yes"]) == 0
    assert capsys.readouterr().err == "2 removed, 1.3 MB\n"
    assert files(done.run) == {path for path in before if not path.startswith(tuple(stale))}


@pytest.mark.parametrize("typed", ["run", "./run/", "{folder}/run/", "file://{folder}/run"])
def test_what_the_run_lists_stays_however_its_path_is_typed(done, monkeypatch, typed):
    monkeypatch.chdir(done.folder)
    before = files(done.run)
    assert main([typed.format(folder=done.folder), "--yes"]) == 0
    assert files(done.run) == before
    asked = len(done.asked())
    assert done() == 0
    assert len(done.asked()) == asked


def test_results_that_are_stale_or_unfinished_and_listed_stay(done):
    written = done.change_times()
    assert done("--only", "heldout", "--set", "steps.answers.sampling.max_tokens=99") == 0
    assert done.of_steps("status") == {"heldout": "done", "answers": "stale", "more": "stale"}
    (done.run / done.of_steps("directory")["answers"] / "manifest.json").unlink()
    assert main([str(done.run), "--yes"]) == 0
    assert len(done.change_times()) == len(written) - 1


def test_a_step_that_is_gone_from_the_recipe_goes_with_its_pointer(done, capsys):
    directory = done.of_steps("directory")["more"]
    del done.recipe["steps"]["more"]
    assert done() == 0
    capsys.readouterr()
    assert main([str(done.run)]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["what", directory, "steps/more.json"]
    assert main([str(done.run), "--yes"]) == 0
    assert sorted(path.name for path in (done.run / "steps").iterdir()) == ["answers.json", "heldout.json"]
    assert not (done.run / directory).exists()


def test_what_a_trainer_keeps_beside_its_newest_model_stays(done, capsys):
    about = done.about
    about["stages"].append({"stage": "model", "kind": "train_aligner", "directory": "train_aligner/new"})
    (done.run / "run.json").write_text(json.dumps(about))
    for name in ("new", "new.training", "new.data", "newer", "old", "old.training", "old.data"):
        (done.run / "train_aligner" / name).mkdir(parents=True)
        (done.run / "train_aligner" / name / "file").write_text("")
    for name in ("new.yaml", "old.yaml"):
        (done.run / "train_aligner" / name).write_text("")
    capsys.readouterr()
    assert main([str(done.run), "--yes"]) == 0
    assert sorted(os.listdir(done.run / "train_aligner")) == ["new", "new.data", "new.training", "new.yaml"]


def test_cache_segments_that_answer_nothing_are_removed(done, capsys):
    directory = str(done.run / "cache")
    [name] = segment_names(directory)
    before = (done.run / "cache" / name).read_bytes()
    (done.run / "cache" / f"9{name}").write_bytes(before)  # the same answers, under a higher name
    (done.run / "cache" / "5-broken.arrow").write_bytes(b"no segment")
    other = ResponseCache(directory)
    other.put(b"k" * 16, Completion("an answer to something else"))
    other.close()
    [living] = set(segment_names(directory)) - {name, f"9{name}", "5-broken.arrow"}
    capsys.readouterr()
    assert main([str(done.run), "--yes"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert sorted(line.split()[0] for line in lines) == ["cache/5-broken.arrow", f"cache/9{name}"]
    assert all("answers nothing that another segment does not" in line for line in lines)
    assert segment_names(directory) == sorted([name, living])
    assert (done.run / "cache" / name).read_bytes() == before
    assert done("--redo", "answers") == 0
    assert len(done.asked()) == 2


def test_a_folder_that_is_no_run_is_left_as_it_is(tmp_path, capsys):
    (tmp_path / "respond" / "1a2b").mkdir(parents=True)
    assert main([str(tmp_path), "--yes"]) == 2
    assert main([str(tmp_path / "nowhere"), "--yes"]) == 2
    assert "no run.json there" in capsys.readouterr().err
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["respond", "respond/1a2b"]


def test_a_damaged_file_of_the_run_removes_nothing(done, capsys):
    edited(done)
    (done.run / "run.json").write_text("{")
    before = files(done.run)
    assert main([str(done.run), "--yes"]) == 2
    assert "run.json" in capsys.readouterr().err
    assert files(done.run) == before


def test_a_run_at_work_is_left_alone(done, capsys):
    edited(done)
    before = files(done.run)
    with at_work(str(done.run)):
        assert main([str(done.run), "--yes"]) == 2
    assert "is at work there" in capsys.readouterr().err
    assert files(done.run) == before
