"""What a run finds again, and what it does anew: after renaming, moving, damage, new rows and new settings."""

import json
from dataclasses import dataclass

import pytest
from recipe_runs import PAIRS, QUESTIONS, RECIPE, TRIPLES, finished, questions, restored, scorer, scripted, write_model

from pipelines import train
from pipelines.commands.run import main
from pipelines.recipe.registry import STAGES
from schemas.fields import setting
from training import inspector
from transforms.tables.table import read_table

FOLLOWED = {
    "heldout": {"stage": "import", "corpus": "q", "kind": "questions"},
    "others": {"stage": "import", "corpus": "others.jsonl", "kind": "questions"},
    "responses": {"stage": "respond", "questions": "heldout", "model": "teacher"},
    "others_too": {"stage": "respond", "questions": "others", "model": "teacher"},
    "scores": {"stage": "score", "responses": "responses", "inspectors": {"vowels": "judge"}},
    "aligned": {
        "stage": "align",
        "responses": "responses",
        "members": [{"criterion": "vowels", "inspector": "judge", "aligner": "aligner"}],
        "every_row": True,
        "guard": False,
    },
    "evaluation": {"stage": "evaluate", "aligned": "aligned", "inspectors": ["judge"]},
}
BEHIND = ["its inputs have more or other shards"]


def words(capsys) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture(scope="module")
def followed_once(tmp_path_factory):
    recipe = {**RECIPE, "models": {**RECIPE["models"], "judge": scorer("vowels"), "aligner": scripted("aligner")}}
    files = {
        "q/a.jsonl": questions("What is a cat?", "What is a dog?"),
        "q/b.jsonl": questions("What is a hen?"),
        "others.jsonl": questions("What is rain?"),
    }
    return finished(tmp_path_factory.mktemp("followed"), {**recipe, "steps": FOLLOWED}, files)


@pytest.fixture
def followed(followed_once, tmp_path):
    """A recipe that follows a folder of questions, done."""
    with restored(followed_once, tmp_path / "before") as runs:
        yield runs


def test_renaming_and_reordering_does_nothing_anew(followed):
    asked, written, before = followed.asked(), followed.change_times(), followed.of_steps("directory")
    names = {"responses": "answers", "heldout": "tests"}
    renamed = {"answers": {**FOLLOWED["responses"], "questions": "tests"}, "tests": FOLLOWED["heldout"]}
    steps = {**FOLLOWED, **{name: {**FOLLOWED[name], "responses": "answers"} for name in ("scores", "aligned")}}
    steps = renamed | {name: step for name, step in steps.items() if name not in names}
    followed.recipe["steps"] = dict(reversed(steps.items()))
    assert followed() == 0
    assert (followed.asked(), followed.change_times()) == (asked, written)
    assert followed.of_steps("directory") == {names.get(name, name): path for name, path in before.items()}
    assert set(followed.of_steps("status").values()) == {"done"}
    assert followed.of_steps("inputs")["aligned"] == ["answers"]
    for name in ("responses", "answers"):
        assert json.loads((followed.run / "steps" / f"{name}.json").read_text())["directory"] == before["responses"]


def test_the_main_table_is_the_same_by_its_name(followed):
    written = followed.change_times()
    followed.recipe["steps"]["aligned"]["responses"] = "responses.responses"
    assert followed() == 0
    assert followed.change_times() == written


def test_a_shard_added_to_a_corpus_redoes_only_what_it_must(followed, capsys):
    asked, written, before = len(followed.asked()), followed.change_times(), followed.of_steps("directory")
    followed.write_rows("q/c.jsonl", *questions("What is a cow?", "What is a pig?"))
    capsys.readouterr()
    assert followed("--only", "heldout") == 0
    assert words(capsys).startswith(f"heldout stale: {BEHIND[0]}; those are done, the others stay 5 of 5 rows")
    done, stale = "done", "stale"
    assert followed.of_steps("status") == {
        **dict.fromkeys(("heldout", "others", "others_too"), done),
        **dict.fromkeys(("responses", "scores", "aligned", "evaluation"), stale),
    }
    because = followed.of_steps("because")
    assert because["responses"] == BEHIND
    assert because["scores"] == because["aligned"] == ["responses is not done"]
    assert because["evaluation"] == ["aligned is not done"]
    assert followed() == 0
    assert len(followed.asked()) == asked + 2 + 2  # by `responses` and by `aligned`
    after = followed.of_steps("directory")
    assert [name for name in before if after[name] != before[name]] == ["evaluation"]
    for step in ("responses", "scores", "aligned"):
        assert followed.counts(step)["in"] == 5
    tables = {path: time for path, time in written.items() if path.endswith(".parquet")}
    assert {path: time for path, time in followed.change_times().items() if path in tables} == tables
    metrics = json.loads((followed.directory("evaluation") / "metrics.json").read_text())
    assert metrics["shared_rows"] == 5
    assert set(followed.of_steps("status").values()) == {"done"}


def test_a_shard_that_changed_is_asked_for_again(followed):
    asked = len(followed.asked())
    followed.write_rows("q/b.jsonl", *questions("What is a goose?"))
    assert followed() == 0
    assert len(followed.asked()) == asked + 2
    assert sorted(followed.table("aligned")["question"].to_pylist()) == [
        *("What is a cat?", "What is a dog?", "What is a goose?")
    ]


@pytest.mark.parametrize("text", ["{", "[]", '{"stages": [{"stage": 3}]}'])
def test_a_damaged_file_of_the_run_costs_nothing(followed, capsys, text):
    asked, written, before = followed.asked(), followed.change_times(), followed.of_steps("directory")
    (followed.run / "run.json").write_text(text)
    capsys.readouterr()
    assert followed() == 0
    assert words(capsys).count("it is written anew, and results are found by their directories") == 1
    assert (followed.asked(), followed.change_times()) == (asked, written)
    assert followed.of_steps("directory") == before
    assert set(followed.of_steps("status").values()) == {"done"}
    assert (followed.run / "run.json.damaged").read_text() == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"digest": "1', "not a JSON file"),
        ("{}", "says nothing of digest, counts"),
        ('{"digest": "1", "counts": 3}', "counts: expected names and values"),
        ('{"digest": "1", "counts": {}, "tables": []}', "tables: expected names and values"),
    ],
)
def test_a_damaged_manifest_is_told_with_what_to_do(followed, capsys, text, message):
    manifest, asked = followed.directory("responses") / "manifest.json", followed.asked()
    whole = manifest.read_text()
    manifest.write_text(text)
    assert followed() == 2
    said = words(capsys)
    assert f"{manifest}: {message}" in said
    assert "remove this file, and the command that wrote it goes on from what is there" in said
    manifest.unlink()
    assert followed() == 0
    assert json.loads(manifest.read_text())["tables"] == json.loads(whole)["tables"]
    assert followed.asked() == asked


@pytest.mark.parametrize(  # the report reads the second
    ("step", "table", "reader"),
    [("heldout", "questions", "responses: questions"), ("aligned", "aligned", "evaluation: aligned")],
)
def test_a_shard_that_is_gone_is_told_with_its_step(followed, capsys, step, table, reader):
    asked, shard = followed.asked(), followed.directory(step) / table / "a.jsonl.parquet"
    shard.unlink()
    assert followed() == 2
    assert words(capsys).endswith(f"error: {reader}: {shard}: no such file; do that step anew: --redo {step}")
    assert followed("--redo", step) == 0
    assert set(followed.of_steps("status").values()) == {"done"}
    assert followed.asked() == asked


def test_the_file_of_a_trained_model_is_no_run_and_is_left_alone(runs, capsys):
    runs.run.mkdir()
    (runs.run / "run.json").write_text('{"method": "inspector", "models": []}')
    assert runs() == 2
    assert "is a trained model's" in words(capsys)
    assert (runs.run / "run.json").read_text() == '{"method": "inspector", "models": []}'
    assert runs.asked() == []


def test_a_run_that_was_moved_is_found_again(followed, monkeypatch):
    asked, written = followed.asked(), followed.change_times()
    followed.run.rename(followed.folder / "moved")
    monkeypatch.chdir(followed.folder)
    for output in ("moved", "./moved/", str(followed.folder / "moved")):
        assert main(["r.yaml", "-o", output]) == 0
    followed.output = "moved"
    assert (followed.asked(), followed.change_times()) == (asked, written)
    assert set(followed.of_steps("status").values()) == {"done"}


def test_a_step_that_was_killed_is_interrupted_and_goes_on(followed):
    asked, before = len(followed.asked()), followed.of_steps("directory")
    (followed.run / before["responses"] / "manifest.json").unlink()
    about = followed.about
    entry = next(entry for entry in about["stages"] if entry["stage"] == "responses")
    entry["status"] = "running"
    (followed.run / "run.json").write_text(json.dumps(about))
    assert followed("--only", "heldout") == 0
    assert followed.of_steps("status")["responses"] == "interrupted"
    assert followed() == 0
    assert len(followed.asked()) == asked
    assert followed.of_steps("directory") == before


def test_a_file_that_is_gone_is_told_by_the_steps_that_read_it_alone(followed, capsys):
    (followed.folder / "others.jsonl").unlink()
    capsys.readouterr()
    assert followed("--until", "evaluation") == 0
    assert followed.of_steps("status") == {
        **dict.fromkeys(FOLLOWED, "done"),
        "others": "stale",
        "others_too": "stale",
    }
    assert "others.jsonl: no such file" in followed.of_steps("because")["others"][0]
    assert followed() == 2
    assert "steps.others" in (said := words(capsys))
    assert "others.jsonl: no such file" in said


def test_a_result_of_before_is_found_when_an_edit_is_taken_back(followed):
    asked, before = len(followed.asked()), followed.of_steps("directory")
    assert followed("--set", "steps.responses.sampling.max_tokens=99") == 0
    assert len(followed.asked()) == asked + 3 + 0  # the same answers to be aligned
    assert followed.of_steps("directory")["responses"] != before["responses"]
    assert followed() == 0
    assert followed.of_steps("directory") == before
    assert len(followed.asked()) == asked + 3


@dataclass(frozen=True, kw_only=True)
class OtherDefault(inspector.Config):
    """The inspector's settings after somebody chose another default."""

    learning_rate: float = setting("peak learning rate", 3e-5)


@dataclass(frozen=True, kw_only=True)
class OneMore(inspector.Config):
    """The inspector's settings after somebody added one."""

    smoothing: float = setting("of labels", 0.0, was=0.0)


TRAINED = {
    "pairs": {"stage": "import", "corpus": "pairs.jsonl", "kind": "triples"},
    "curated": {"stage": "curate", "table": "pairs"},
    "first": {"stage": "train_inspector", "data": "curated", "base": "encoder"},
    "second": {"stage": "train_inspector", "data": "curated", "base": "first", "learning_rate": 1.0e-5},
}


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    write_model(folder / "encoder")
    recipe = {"name": "trained", "models": {"encoder": {"model": "encoder"}}, "steps": TRAINED}
    return finished(folder, recipe, {"pairs.jsonl": PAIRS})


@pytest.fixture
def trained(trained_once, trainer, tmp_path):
    """A recipe that trains two models, the second from the first, done."""
    with restored(trained_once, tmp_path / "before") as runs:
        yield runs


def test_another_default_of_a_trainer_makes_its_model_stale(trained, trainer, monkeypatch, capsys):
    before = trained.of_steps("directory")
    monkeypatch.setitem(STAGES, "train_inspector", train.kind("inspector", OtherDefault))
    assert trained("--only", "curated") == 0
    assert trained.of_steps("status") == {"pairs": "done", "curated": "done", "first": "stale", "second": "stale"}
    assert trained.of_steps("because") == {
        "first": ["learning_rate: 2e-05 → 3e-05"],
        "second": ["first is not done"],
    }
    assert trainer.told == []
    capsys.readouterr()
    assert trained() == 0
    assert "first stale: learning_rate: 2e-05 → 3e-05; done again" in words(capsys)
    assert [told["learning_rate"] for told in trainer.told] == [3e-5, 1e-5]
    after = trained.of_steps("directory")
    assert [name for name in before if after[name] != before[name]] == ["first", "second"]


def test_a_setting_that_is_added_with_its_old_value_makes_nothing_stale(trained, trainer, monkeypatch):
    written = trained.change_times()
    monkeypatch.setitem(STAGES, "train_inspector", train.kind("inspector", OneMore))
    assert trained() == 0
    assert (trained.change_times(), trainer.told) == (written, [])
    assert trained("--set", "steps.second.smoothing=0.1") == 0
    assert [told["smoothing"] for told in trainer.told] == [0.1]


def test_the_seed_of_a_recipe_is_that_of_every_step_but_where_one_says_another(trained, trainer):
    assert {trained.of_steps("identity")[name]["seed"] for name in ("first", "second")} == {0}
    trained.recipe["steps"]["second"]["seed"] = 7
    assert trained("--set", "seed=5") == 0
    assert [told["seed"] for told in trainer.told] == [5, 7]


def test_equal_trainings_are_done_once_and_redone_once(trained, trainer):
    trained.recipe["steps"]["fellow"] = TRAINED["first"]
    assert trained() == 0
    assert trainer.told == []
    assert trained.of_steps("directory")["fellow"] == trained.of_steps("directory")["first"]
    assert trained("--redo", "f*", "--launch", "env A=1") == 0
    assert (len(trainer.told), trainer.launched) == (1, ["env A=1"])
    assert set(trained.of_steps("status").values()) == {"done"}


def test_other_data_makes_models_stale(trained, trainer):
    assert trained("--set", "steps.curated.shares=[0.5, 0.25, 0.25]") == 0
    bases = [str(trained.folder / "encoder"), str(trained.directory("first"))]
    assert [(told["method"], told["base"]) for told in trainer.told] == [("inspector", base) for base in bases]


def test_a_training_that_was_stopped_goes_on_from_the_same_shards(trained, trainer):
    trainer.error = KeyboardInterrupt()
    assert trained("--set", "steps.second.epochs=9") == 130
    assert trained.of_steps("status")["second"] == "interrupted"
    shards = {path: time for path, time in trained.change_times().items() if ".data/" in path}
    assert shards
    trainer.error = None
    assert trained("--set", "steps.second.epochs=9") == 0
    assert trainer.told[-1] == trainer.told[-2]
    assert not [path for path in trained.change_times() if ".data/" in path]
    assert trained.of_steps("status")["second"] == "done"


def test_a_cache_elsewhere_serves_another_run(runs):
    runs.recipe["steps"] = {"questions": {**QUESTIONS, "count": 30}, "triples": TRIPLES}
    cache = ("--cache", str(runs.folder / "shared"))
    assert runs(*cache) == 0
    asked, rows = len(runs.asked()), runs.table("triples")
    assert not (runs.run / "cache").exists()
    runs.output = "other"
    assert runs(*cache) == 0
    assert len(runs.asked()) == asked
    assert read_table(str(runs.directory("triples"))).to_arrow().equals(rows)
