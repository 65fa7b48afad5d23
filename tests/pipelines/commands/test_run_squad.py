"""A recipe of several criteria: a group that trains a squad's models, and the same responses aligned twice."""

import copy
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import yaml
from recipe_runs import QUESTIONS, TRIPLES, Runs, Trainer, finished, questions, restored, scripted
from safetensors.numpy import load_file, save_file

from pipelines.commands import align, check, show, status
from pipelines.commands.evaluate import find_alignments
from pipelines.report.page import main as report
from pipelines.runtime import trainers
from pipelines.runtime.runs import open_run
from schemas.errors import StageError
from schemas.squads import load_squad
from transforms.engines.weights import find_weights
from transforms.tables.table import read_table

CRITERIA = ("ethical", "factual")
OF_ONE = ("questions", "triples", "curated", "inspector", "aligner")
OF_ALL = ("responses", "free", "guarded", "evaluation")
MEMBERS = [
    {"criterion": name, "inspector": f"{name}/inspector", "aligner": f"{name}-rewriter", "threshold": 0.9}
    for name in CRITERIA
]
ALIGN = {"stage": "align", "responses": "responses", "members": MEMBERS, "rounds": 2, "guard": False}
STEPS = {
    "heldout": {"stage": "import", "corpus": "heldout.jsonl", "kind": "questions"},
    "criteria": {
        "each": {"criterion": list(CRITERIA)},
        "steps": {
            "questions": {**QUESTIONS, "pack": "{criterion}", "count": 20},
            "triples": {**TRIPLES, "pack": "{criterion}"},
            "curated": {"stage": "curate", "table": "triples", "heldout": ["heldout"]},
            "inspector": {"stage": "train_inspector", "data": "curated", "base": "encoder"},
            "aligner": {"stage": "train_aligner", "data": "curated", "base": "base", "adapter": True, "lora_rank": 16},
        },
    },
    "responses": {"stage": "respond", "questions": "heldout", "model": "teacher"},
    "free": ALIGN,
    "guarded": {**ALIGN, "guard": True, "guard_margin": 0.1},
    "evaluation": {
        "stage": "evaluate",
        "aligned": {"guard off": "free", "guard on": "guarded"},
        "inspectors": {name: f"{name}/inspector" for name in CRITERIA},
    },
}
HELDOUT = questions(*(f"What about case {number} of {number % 7}?" for number in range(20)))


class SquadTrainer(Trainer):
    """Writes untrained models, whose inspectors find unlike, and adapters of the base."""

    def __call__(self, method, arguments, data="", launch=""):
        settings = yaml.safe_load(Path(arguments[1]).read_text())
        self.told.append({"method": method, **settings})
        if self.error:
            raise self.error
        output = Path(settings["output"])
        if method == "inspector":
            tiny_models.classifier(output)
            weights = load_file(output / "model.safetensors")
            turn = len({told["output"] for told in self.told if told["method"] == method})
            weights["classifier.weight"] = np.roll(weights["classifier.weight"], turn)
            save_file(weights, output / "model.safetensors", {"format": "pt"})
        else:
            output.mkdir()
            (output / "adapter_model.safetensors").write_bytes(b"")
            adapter = {"base_model_name_or_path": settings["base"], "r": settings["lora_rank"]}
            (output / "adapter_config.json").write_text(json.dumps(adapter))
        metrics = {"rows": {"train": 8, "validation": 2}, "steps": 1, "validation": {"loss": 1.0}}
        (output / "metrics.json").write_text(json.dumps(metrics))


def recipe_of(folder: Path) -> dict:
    models = {"teacher": scripted("teacher"), "base": {"model": "base"}, "encoder": {"model": "encoder"}}
    models |= {f"{name}-rewriter": {"step": f"{name}/aligner", **scripted("aligner")} for name in CRITERIA}
    return copy.deepcopy({"name": "squad", "models": models, "steps": STEPS})


@pytest.fixture(scope="module")
def done_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("squad")
    tiny_models.llama(folder / "base")
    tiny_models.encoder(folder / "encoder")
    return finished(folder, recipe_of(folder), {"heldout.jsonl": HELDOUT}, SquadTrainer())


@pytest.fixture
def trainer(monkeypatch):
    stand_in = SquadTrainer()
    monkeypatch.setattr(trainers, "run_trainer", stand_in)
    return stand_in


@pytest.fixture
def done(done_once, trainer, tmp_path):
    """The recipe of three criteria, done."""
    with restored(done_once, tmp_path / "before") as runs:
        yield runs


@pytest.fixture
def squad(done_once, trainer, tmp_path, monkeypatch):
    """The same, not begun, beside the same bases."""
    monkeypatch.setenv("ALIGNBEAM_TEST_LOG", str(tmp_path / "requests.log"))
    for name in ("base", "encoder"):
        (tmp_path / name).symlink_to(done_once.folder / name)
    runs = Runs(tmp_path, recipe_of(tmp_path))
    runs.write_rows("heldout.jsonl", *HELDOUT)
    return runs


def words(text: str) -> str:
    return " ".join(text.split())


def test_each_criterion_has_its_models_and_together_they_are_a_squad(done, capsys):
    assert list(done.of_steps("status")) == [
        "heldout",
        *(f"{criterion}/{step}" for criterion in CRITERIA for step in OF_ONE),
        *OF_ALL,
    ]
    free, guarded = (load_squad(str(done.directory(name) / "squad.yaml")) for name in ("free", "guarded"))
    assert (free.routing, free.rounds, free.guard, free.guard_margin) == ("worst", 2, False, 0.0)
    assert (guarded.rounds, guarded.guard, guarded.guard_margin) == (2, True, 0.1)
    assert [member.criterion for member in free.members] == list(CRITERIA)
    for member in yaml.safe_load((done.directory("free") / "squad.yaml").read_text())["members"]:
        assert member["threshold"] == 0.9
        inspector = done.of_steps("directory")[f"{member['criterion']}/inspector"]
        assert member["inspector"] == f"../../{inspector}"
    models = [f"{criterion}/{model}" for criterion in CRITERIA for model in ("inspector", "aligner")]
    assert done.of_steps("inputs")["guarded"] == ["responses", *models]
    assert done.of_steps("inputs")["evaluation"] == ["free", "guarded", *(f"{name}/inspector" for name in CRITERIA)]
    assert [done.of_steps("inputs")[f"ethical/{name}"] for name in OF_ONE] == [
        [],
        ["ethical/questions"],
        ["ethical/triples", "heldout"],
        ["ethical/curated"],
        ["ethical/curated"],
    ]
    rows = {name: done.table(name).to_pylist() for name in ("free", "guarded")}
    assert [row["response"] for row in rows["free"]] == [row["response"] for row in rows["guarded"]]
    assert "refused" not in {row["decision"] for row in rows["free"]}
    assert "refused" in {row["decision"] for row in rows["guarded"]}
    labels = json.loads((done.directory("evaluation") / "metrics.json").read_text())["labels"]
    for label, name in (("guard off", "free"), ("guard on", "guarded")):
        level = labels[label]["score_level"]
        assert list(level) == list(CRITERIA)
        mean = sum(row["scores_after"]["factual"] for row in rows[name]) / len(rows[name])
        assert level["factual"]["after"]["mean"] == pytest.approx(mean, abs=1e-5)
    capsys.readouterr()
    assert status.main([str(done.run)]) == 0
    shown = capsys.readouterr().out
    counted = Counter(line.split()[0] for line in shown.splitlines() if " done " in line)
    assert counted == Counter([*done.of_steps("status")])
    assert show.main([str(done.run)]) == 0


def test_the_squad_of_a_step_aligns_another_corpus(done, tmp_path):
    done.write_rows("answers.jsonl", {"question": "What is it?", "response": "Nothing."})
    squad = str(done.directory("guarded") / "squad.yaml")
    assert check.main([squad]) == 0
    assert align.main([str(done.folder / "answers.jsonl"), "--squad", squad, "-o", str(tmp_path / "out")]) == 0
    [stage] = open_run(str(tmp_path / "out")).of_kind("align")
    assert read_table(stage.path).rows == 1
    assert [member["criterion"] for member in stage.setting("members")] == list(CRITERIA)
    assert stage.setting("guard_margin") == 0.1


def test_nothing_is_asked_or_trained_twice_and_an_edit_redoes_only_what_it_touches(done, trainer):
    asked, before, written = done.asked(), done.of_steps("directory"), done.change_times()
    assert done() == 0
    assert (trainer.told, done.asked(), done.change_times()) == ([], asked, written)
    done.recipe["steps"]["guarded"]["guard_margin"] = 0.5
    assert done() == 0
    after = done.of_steps("directory")
    assert [name for name in before if before[name] != after[name]] == ["guarded", "evaluation"]
    assert trainer.told == []


def test_a_criterion_may_be_added_and_changed_without_the_others(done, trainer):
    before = done.of_steps("directory")
    done.recipe["steps"]["ethical/aligner"] = {"lora_rank": 4}
    done.recipe["steps"]["factual/questions"] = {"count": 15}
    assert done("--until", "*/aligner") == 0
    after = done.of_steps("directory")
    again = ["ethical/aligner", "factual/questions", "factual/triples", "factual/curated", "factual/aligner"]
    assert [name for name in before if before[name] != after[name]] == again
    assert done.counts("factual/questions")["kept"] == 15
    assert [(told["method"], told["lora_rank"]) for told in trainer.told] == [("aligner", 4), ("aligner", 16)]
    assert json.loads((done.directory("ethical/aligner") / "adapter_config.json").read_text())["r"] == 4
    standing = done.of_steps("status")
    assert {name for name, how in standing.items() if how == "stale"} == {
        *("factual/inspector", "free", "guarded", "evaluation")
    }


def test_one_step_is_done_for_every_criterion(squad, trainer, capsys):
    assert squad("--only", "*/questions", "--limit", "15") == 0
    standing = squad.of_steps("status")
    assert [name for name, how in standing.items() if how == "done"] == [f"{name}/questions" for name in CRITERIA]
    assert {squad.counts(f"{name}/questions")["kept"] for name in CRITERIA} == {15}
    capsys.readouterr()
    assert squad("--only", "free", "--limit", "15") == 2
    said = words(capsys.readouterr().err)
    for needed in ("responses", "ethical/inspector", "factual/aligner"):
        assert f"free: its input {needed} is not complete (to do); do it too: --until free" in said
    assert trainer.told == []


def test_an_inspector_that_fails_is_told_by_the_status_of_the_run(squad, trainer, capsys):
    trainer.error = StageError("no")
    assert squad("--keep-going", "--until", "ethical/*") == 1
    assert [told["method"] for told in trainer.told] == ["inspector", "aligner"]
    standing = squad.of_steps("status")
    assert (standing["ethical/inspector"], standing["ethical/aligner"]) == ("failed", "failed")
    assert standing["ethical/curated"] == "done"
    capsys.readouterr()
    assert status.main([str(squad.run)]) == 1
    assert re.search(r"ethical/inspector +failed", capsys.readouterr().out)


def test_a_plan_has_the_data_of_each_criterion_and_writes_nothing(squad, capsys):
    squad.recipe["steps"]["factual/questions"] = {"count": 30}
    squad.recipe["models"]["teacher"] = {"model": "none-7B"}
    assert squad("--plan") == 0
    said = capsys.readouterr()
    shown = said.out + said.err
    assert re.search(r"factual/triples[^\n]* none-7B +│? +30 ", shown)
    assert re.search(r"ethical/triples[^\n]* none-7B +│? +20 ", shown)
    assert not squad.run.exists()
    assert check.main([str(squad.folder / "r.yaml")]) == 0
    assert "a recipe of 15 steps" in capsys.readouterr().err


def test_the_report_shows_both_alignments_beside_the_responses(done):
    html = (done.run / "report.html").read_text()
    level = json.loads((done.directory("evaluation") / "metrics.json").read_text())["labels"]
    for label in ("guard off", "guard on"):
        after = level[label]["score_level"]["ethical"]["after"]
        low, high = after["mean_interval"]
        assert f"{after['mean']:.3f} ({low:.3f}–{high:.3f})" in html
        assert label in html
    assert all(find_weights(member.aligner).adapter for member in load_squad(squad_file(done)).members)
    assert report([str(done.run)]) == 0
    assert [stage.name for stage in find_alignments(str(done.run))] == ["free", "guarded"]


def squad_file(runs: Runs) -> str:
    return str(runs.directory("free") / "squad.yaml")


@pytest.mark.parametrize(
    ("step", "change", "message"),
    [
        ("criteria", {"each": {"criterion": ["ethical", "ethical"]}}, "ethical"),
        ("criteria", {"each": {"criterion": ["ethical", "absent.yaml"]}}, "absent.yaml"),
        ("polite/questions", {"count": 3}, "polite/questions: no step to change"),
        ("ethical/align", {"guard": True}, "ethical/align: no step to change"),
        ("ethical/triples", {"limt": 3}, "steps.ethical/triples.limt: unknown setting .did you mean 'limit'"),
        ("ethical/aligner", {"lora_rank": 0}, "lora_rank = 0: an adapter has one from 1"),
        ("free", {"routing": "best"}, "steps.free.routing: .*'worst', 'fixed'"),
        ("free", {"routing": "fixed"}, "rounds: must be positive, and is for routing worst"),
        ("free", {"routing": "paper-002", "rounds": 0, "guard": True}, "guard: routing paper-002 has none"),
        ("guarded", {"routing": "corpus-mean", "rounds": 0}, "routing corpus-mean needs the scores of all rows"),
        ("free", {"gard": True}, "steps.free.gard: unknown setting .did you mean 'guard'"),
        ("free", {"members": [MEMBERS[0], MEMBERS[0]]}, "steps.free.members: 1 and 2 have one criterion, 'ethical'"),
        ("evaluation", {"pair_ranker": "free"}, "'free' gives a table; a model is due here"),
    ],
)
def test_wrong_use_is_told_before_any_work(squad, capsys, step, change, message):
    squad.recipe["steps"][step] = {**squad.recipe["steps"].get(step, {}), **change}
    assert squad() == 2
    said = words(capsys.readouterr().err)
    assert re.search(message, said), said
    assert squad.asked() == []
    assert not squad.run.exists()
