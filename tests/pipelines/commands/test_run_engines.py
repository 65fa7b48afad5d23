"""Which engines are open as a step starts: those that it uses, and before a trainer none."""

import pytest
from recipe_runs import CURATED, RECIPE, questions, scorer, scripted, write_model

from pipelines.runtime import steps as runtime_steps
from pipelines.runtime import trainers
from transforms.engines import encoder, running

STEPS = {
    "heldout": {"stage": "import", "corpus": "heldout.jsonl", "kind": "questions"},
    "curated": {"stage": "import", "corpus": "curated.jsonl", "kind": "triples"},
    "first": {"stage": "respond", "questions": "heldout", "model": "teacher"},
    "second": {"stage": "respond", "questions": "heldout", "model": "teacher", "sampling": {"max_tokens": 9}},
    "scores": {"stage": "score", "responses": "first", "inspectors": {"vowels": "judge"}, "after": ["second"]},
    "third": {"stage": "respond", "questions": "heldout", "model": "teacher", "after": ["scores"], "seed": 3},
    "inspector": {"stage": "train_inspector", "data": "curated", "base": "encoder", "after": ["third"]},
    "aligned": {
        "stage": "align",
        "responses": "first",
        "members": [{"criterion": "vowels", "inspector": "judge", "aligner": "aligner"}],
        "every_row": True,
        "guard": False,
        "after": ["inspector"],
    },
}


def open_functions() -> list[str]:
    """The functions of the engines that are open."""
    return sorted(config.args["function"].rpartition(":")[2] for config, _ in running._engines.values())


@pytest.fixture
def before_and_after(monkeypatch):
    """The engines that are open as a step is begun, after what it does not use was closed, and as it ends; by step."""
    seen, make_room, say = {}, runtime_steps._make_room, runtime_steps._say_results

    def noted(planned, step):
        make_room(planned, step)
        seen[planned.name] = [open_functions()]

    def ended(planned, stage):
        seen.setdefault(planned.name, [[]]).append(open_functions())
        say(planned, stage)

    monkeypatch.setattr(runtime_steps, "_make_room", noted)
    monkeypatch.setattr(runtime_steps, "_say_results", ended)
    return seen


@pytest.fixture
def ready(runs):
    write_model(runs.folder / "encoder")
    runs.write_rows("heldout.jsonl", *questions("What is a cat?", "What is a dog?"))
    runs.write_rows("curated.jsonl", *CURATED)
    runs.recipe = {**RECIPE, "steps": STEPS}
    runs.recipe["models"] = {
        "teacher": scripted("teacher"),
        "aligner": scripted("aligner"),
        "judge": scorer("vowels"),
        "encoder": {"model": "encoder"},
    }
    running.close_engines()
    return runs


def test_a_step_finds_no_engine_that_it_does_not_use_and_a_trainer_none(ready, trainer, before_and_after):
    assert ready() == 0
    assert list(before_and_after) == list(STEPS)
    assert before_and_after == {
        "heldout": [[], []],
        "curated": [[], []],
        "first": [[], ["teacher"]],
        "second": [["teacher"], ["teacher"]],
        "scores": [[], []],
        "third": [[], ["teacher"]],
        "inspector": [[], []],
        "aligned": [[], ["aligner"]],
    }
    assert trainer.engines == [[]]


def test_an_engine_of_the_same_weights_run_otherwise_is_closed_too(ready, trainer, before_and_after):
    ready.recipe["models"]["aligner"] = {**scripted("teacher"), "style": "chat"}
    steps = {name: STEPS[name] for name in ("heldout", "first")}
    steps["other"] = {"stage": "respond", "questions": "heldout", "model": "aligner", "after": ["first"]}
    ready.recipe["steps"] = steps
    ready.recipe["models"] = {name: ready.recipe["models"][name] for name in ("teacher", "aligner")}
    assert ready() == 0
    assert before_and_after["other"] == [[], ["teacher"]]


def test_a_trainer_finds_no_model_that_scores(ready, trainer, monkeypatch):
    monkeypatch.setattr(encoder, "_opened", {("inspector", "folder"): object()})
    opened = []

    def noted(*arguments, **more):
        opened.append(dict(encoder._opened))
        trainer(*arguments, **more)

    monkeypatch.setattr(trainers, "run_trainer", noted)
    assert ready("--until", "inspector") == 0
    assert opened == [{}]


def test_what_is_done_opens_nothing(ready, trainer, before_and_after):
    assert ready() == 0
    running.close_engines()
    before_and_after.clear()
    assert ready() == 0
    assert {name: ends for name, (_, ends) in before_and_after.items()} == {name: [] for name in STEPS}
    assert ready("--redo", "first", "--only", "first") == 0
    assert open_functions() == ["teacher"]
