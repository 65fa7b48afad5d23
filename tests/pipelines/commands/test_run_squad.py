"""Recipes with several criteria: a run for each, the squad that they make, and the same responses aligned twice."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import yaml
from safetensors.numpy import load_file, save_file

from pipelines.commands import check, show, status
from pipelines.commands import run as recipe
from pipelines.commands.evaluate import find_alignment
from pipelines.report.page import main
from pipelines.runtime.runs import open_run
from schemas.errors import StageError
from schemas.settings import read_yaml
from schemas.squads import load_squad
from transforms.engines.weights import find_weights
from transforms.tables.table import read_table

TEACHER = {"engine": "scripted", "args": {"function": "tests.scripted_models:teacher"}}
ALIGNER = {"engine": "scripted", "args": {"function": "tests.scripted_models:aligner"}}
CRITERIA = ("ethical", "factual", "helpful")
OF_ONE = ["questions", "triples", "curate", "train_inspector", "train_aligner"]
OF_ALL = ["respond", "align", "align_compared", "evaluate", "evaluate_compared"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Folders of the bases that all tests here train on, and held-out questions."""
    folder = tmp_path_factory.mktemp("bases")
    rows = [{"question": f"What about case {number} of {number % 7}?"} for number in range(20)]
    (folder / "heldout.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tiny_models.llama(folder / "base")
    tiny_models.encoder(folder / "encoder")
    return folder


def recipe_of(bases):
    """A recipe of three criteria."""
    return {
        "name": "test",
        "criterion": list(CRITERIA),
        "heldout": str(bases / "heldout.jsonl"),
        "models": {"teacher": TEACHER, "upstream": TEACHER, "aligner": ALIGNER},
        "stages": {
            "questions": {"count": 40, "topic_rounds": 1, "hints": 5},
            "train_inspector": {"base": str(bases / "encoder")},
            "train_aligner": {"base": str(bases / "base")},
            "align": {"rounds": 2, "guard": False, "threshold": 0.9, "compare": {"guard": True, "guard_margin": 0.1}},
        },
    }


def stand_in(patch, folder, bases):
    """Have trainers write untrained models, and note what they were asked for in `folder`, as the teacher does."""
    patch.setenv("ALIGNBEAM_TEST_LOG", str(folder / "requests.log"))

    def train(method, arguments):
        given = read_yaml(arguments[-1])
        output, name = Path(given["output"]), Path(given["output"]).parent.parent.name
        with open(folder / "trained.log", "a") as log:
            log.write(f"{name}/{method} {given.get('adapter')}\n")
        if method == "inspector":
            tiny_models.classifier(output)
            weights = load_file(output / "model.safetensors")
            turn = CRITERIA.index(name) + 1 if name in CRITERIA else 0  # no two inspectors find alike
            weights["classifier.weight"] = np.roll(weights["classifier.weight"], turn)
            save_file(weights, output / "model.safetensors", {"format": "pt"})
        else:
            output.mkdir()
            (output / "adapter_model.safetensors").write_bytes(b"")
            adapter = {"base_model_name_or_path": str(bases / "base"), "r": given["lora_rank"]}
            (output / "adapter_config.json").write_text(json.dumps(adapter))
        metrics = {"rows": {"train": 8, "validation": 2}, "steps": 1, "validation": {"loss": 1.0}}
        (output / "metrics.json").write_text(json.dumps(metrics))

    patch.setattr("pipelines.recipe.job.run_trainer", train)


def run_recipe(settings, folder, *flags):
    (folder / "r.yaml").write_text(yaml.safe_dump(settings))
    return recipe.main([str(folder / "r.yaml"), "-o", str(folder / "run"), *flags])


@pytest.fixture
def settings(tmp_path, monkeypatch, bases):
    stand_in(monkeypatch, tmp_path, bases)
    return recipe_of(bases)


@pytest.fixture
def run(tmp_path, settings):
    """Runs the recipe with flags; gives the exit code."""
    return lambda *flags, changed=settings: run_recipe(changed, tmp_path, *flags)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, bases):
    """The recipe done once, with its logs."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch, folder, bases)
        assert run_recipe(recipe_of(bases), folder) == 0
    return folder


@pytest.fixture
def done(whole, tmp_path):
    """Where it lies; what a test does to it is undone."""
    shutil.copytree(whole, tmp_path / "before")
    yield whole
    shutil.rmtree(whole)
    shutil.move(tmp_path / "before", whole)


def lines(path):
    return path.read_text().splitlines()


def stages_of(folder):
    return [stage.name for stage in open_run(str(folder)).stages]


def test_each_criterion_is_a_run_of_its_own_and_together_they_are_a_squad(done, capsys):
    folder = done / "run"
    assert stages_of(folder) == OF_ALL
    assert lines(done / "trained.log") == [
        f"{criterion}/{method}" for criterion in CRITERIA for method in ("inspector None", "aligner True")
    ]
    squad = load_squad(str(folder / "squad.yaml"))
    assert (squad.routing, squad.rounds, squad.guard, squad.guard_margin) == ("worst", 2, False, 0.0)
    assert [member.criterion for member in squad.members] == list(CRITERIA)
    for member in yaml.safe_load((folder / "squad.yaml").read_text())["members"]:
        assert member["threshold"] == 0.9
        assert member["inspector"].startswith(f"{member['criterion']}/train_inspector/")
    for member in squad.members:
        assert stages_of(folder / member.criterion) == OF_ONE
        assert (folder / member.criterion / "report.html").is_file()
        assert find_weights(member.aligner).adapter == member.aligner
    compared = load_squad(str(folder / "squad_compared.yaml"))
    assert (compared.rounds, compared.guard, compared.guard_margin) == (2, True, 0.1)

    stages = {stage.name: stage for stage in open_run(str(folder)).stages}
    assert {name: stage.kind for name, stage in stages.items()} == {
        name: name.removesuffix("_compared") for name in OF_ALL
    }
    models = sorted(f"{criterion}/train_{method}" for criterion in CRITERIA for method in ("inspector", "aligner"))
    assert stages["align_compared"].inputs == (*models, "respond")
    assert stages["evaluate_compared"].inputs[0] == "align_compared"
    of_one = {stage.name: stage for stage in open_run(str(folder / "ethical")).stages}
    [heldout] = (folder / "heldout").iterdir()
    read = [(), ("questions",), (str(heldout), "triples"), ("curate",), ("curate",)]
    assert [of_one[name].inputs for name in OF_ONE] == read
    assert stages["respond"].inputs == (f"heldout/{heldout.name}",)
    assert of_one["train_aligner"].manifest["seconds"] > 0
    tables = [read_table(stages[name].path) for name in ("align", "align_compared")]
    free, guarded = (table.to_arrow().to_pylist() for table in tables)
    assert [row["response"] for row in free] == [row["response"] for row in guarded]
    assert "refused" not in {row["decision"] for row in free}
    assert "refused" in {row["decision"] for row in guarded}
    for name, rows in (("evaluate", free), ("evaluate_compared", guarded)):
        level = stages[name].read_json("metrics.json")["score_level"]
        assert list(level) == list(CRITERIA)
        mean = sum(row["scores_after"]["factual"] for row in rows) / len(rows)
        assert level["factual"]["after"]["mean"] == pytest.approx(mean, abs=1e-5)

    capsys.readouterr()
    assert status.main([str(folder)]) == 0
    shown = capsys.readouterr().out
    counted = Counter(line.split()[0] for line in shown.splitlines() if " complete " in line)
    assert counted == Counter({**dict.fromkeys(OF_ONE, 3), **dict.fromkeys(OF_ALL, 1)})
    assert show.main([str(folder)]) == 0


def test_nothing_is_asked_or_trained_twice_and_an_edit_redoes_only_what_it_touches(done, bases, monkeypatch):
    stand_in(monkeypatch, done, bases)
    settings = recipe_of(bases)
    trained, requests = lines(done / "trained.log"), lines(done / "requests.log")
    assert run_recipe(settings, done) == 0
    assert (lines(done / "trained.log"), lines(done / "requests.log")) == (trained, requests)
    before = {stage.name: stage.path for stage in open_run(str(done / "run")).stages}
    settings["stages"]["align"]["compare"] = {"guard": True, "guard_margin": 0.5}
    assert run_recipe(settings, done) == 0
    after = {stage.name: stage.path for stage in open_run(str(done / "run")).stages}
    assert {name for name in before if before[name] != after[name]} == {"align_compared", "evaluate_compared"}
    assert lines(done / "trained.log") == trained


def test_one_stage_is_done_for_every_criterion_or_for_the_squad(tmp_path, run, capsys):
    assert run("--only", "questions", "--limit", "25") == 0
    for criterion in CRITERIA:
        assert stages_of(tmp_path / "run" / criterion) == ["questions"]
        [stage] = open_run(str(tmp_path / "run" / criterion)).stages
        assert stage.rows.kept == 25
    assert run("--only", "triples") == 0
    assert stages_of(tmp_path / "run") == []
    assert run("--only", "align") == 2
    assert "--only align: stage respond is not complete" in capsys.readouterr().err
    assert run() == 0
    assert run("--only", "evaluate_compared") == 0
    (tmp_path / "run" / "report.html").unlink()
    assert run("--only", "report") == 0
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_criterion_may_have_settings_of_its_own(tmp_path, run, settings, capsys):
    settings["stages_of"] = {"factual": {"questions": {"count": 30}, "train_aligner": {"lora_rank": 4}}}
    assert run("--plan", "--model", "none-7B") == 0
    said = capsys.readouterr().err
    assert re.search(r"factual: triples +│ none-7B +│ +30 ", said)
    assert re.search(r"helpful: triples +│ none-7B +│ +40 ", said)
    assert run() == 0
    for criterion, count, rank in (("ethical", 40, 16), ("factual", 30, 4), ("helpful", 40, 16)):
        stages = {stage.name: stage for stage in open_run(str(tmp_path / "run" / criterion)).stages}
        assert stages["questions"].rows.kept == count
        assert stages["train_aligner"].read_json("adapter_config.json")["r"] == rank


def test_a_recipe_of_one_criterion_can_be_compared_too(tmp_path, run, settings):
    settings["criterion"] = "ethical"
    settings["stages"]["align"] = {"every_row": True, "guard": False, "compare": {"every_row": False, "threshold": 0.0}}
    settings["stages"]["train_aligner"]["lora_rank"] = 8
    assert run() == 0
    assert stages_of(tmp_path / "run") == [*OF_ONE, *OF_ALL]
    stages = {stage.name: stage.path for stage in open_run(str(tmp_path / "run")).stages}
    decisions = {name: set(read_table(stages[name]).to_arrow()["decision"].to_pylist()) for name in OF_ALL[1:3]}
    assert decisions == {"align": {"rewritten"}, "align_compared": {"above_threshold"}}
    assert not (tmp_path / "run" / "squad.yaml").exists()


def test_a_criterion_that_fails_is_told_by_the_status_of_the_whole(tmp_path, run, monkeypatch, capsys):
    def broken(method, arguments):
        raise StageError("no")

    monkeypatch.setattr("pipelines.recipe.job.run_trainer", broken)
    assert run() == 1
    capsys.readouterr()
    assert status.main([str(tmp_path / "run")]) == 1
    assert "train_inspector  failed" in capsys.readouterr().out


def test_a_plan_has_the_data_of_each_criterion_and_the_turns_of_the_squad(tmp_path, run, settings, capsys):
    assert run("--plan", "--model", "none-7B") == 0
    said = capsys.readouterr().err
    for criterion in CRITERIA:
        assert f"{criterion}: triples" in said
    assert not (tmp_path / "run").exists()
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(settings))
    assert check.main([str(tmp_path / "r.yaml")]) == 0
    assert "a recipe for a squad of ethical, factual, helpful" in capsys.readouterr().err


def test_the_report_shows_both_alignments_beside_the_responses(done):
    html = (done / "run" / "report.html").read_text()
    for text in ("Mean score, with 95 % intervals", "Share of rows that score 0.5 or more", "<th>compared</th>"):
        assert text in html
    run_directory = open_run(str(done / "run"))
    for stage in ("evaluate", "evaluate_compared"):
        level = run_directory.stage(stage).read_json("metrics.json")["score_level"]["ethical"]["after"]
        low, high = level["mean_interval"]
        assert f"{level['mean']:.3f} ({low:.3f}–{high:.3f})" in html
    assert main([str(done / "run")]) == 0
    assert read_table(find_alignment(str(done / "run")).path).rows == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heldout": None}, "heldout: several criteria need questions of their own"),
        ({"criterion": ["ethical"]}, "criterion: a list has at least two packs"),
        ({"criterion": ["ethical", "ethical"]}, "criterion: two packs have one name: ethical, ethical"),
        ({"criterion": ["ethical", "absent.yaml"]}, "absent.yaml"),
        ({"stages_of": {"polite": {}}}, "stages_of: no criterion polite; there are ethical, factual, helpful"),
        ({"stages_of": {"ethical": {"align": {}}}}, "stages_of.ethical: align: is done once, for all criteria"),
        ({"stages_of": {"ethical": {"triple": {}}}}, "stages_of.ethical: triple: unknown setting"),
        ({"stages_of": {"ethical": {"train_aligner": {"lora_rank": 0}}}}, "lora_rank = 0: an adapter has one from 1"),
        ({"criterion": "ethical", "stages_of": {"ethical": {}}}, "stages_of: is for several criteria"),
        ({"criterion": "ethical"}, "routing and rounds are for several criteria"),
        ({"stages": {"align": {"routing": "best"}}}, "stages.align.routing: .*'worst', 'fixed'"),
        (
            {"stages": {"align": {"routing": "fixed", "rounds": 2}}},
            "rounds: must be positive, and is for routing worst",
        ),
        (
            {"stages": {"align": {"compare": {"routing": "paper-002", "guard": True}}}},
            "guard: routing paper-002 has none.*stages.align.compare",
        ),
        (
            {"stages": {"align": {"routing": "paper-002", "threshold": 0.7}}},
            "threshold: routing paper-002 has 0.5 for all, not 0.7",
        ),
        ({"stages": {"align": {"compare": {"gard": True}}}}, "compare: gard: unknown setting .did you mean 'guard'"),
        ({"stages": {"align": {"compare": {"compare": {}}}}}, "compare: has no comparison of its own"),
        ({"stages": {"train_aligner": {"lora_rank": 0}}}, "lora_rank = 0: an adapter has one from 1"),
        ({"only": "align_compared", "stages": {"align": {}}}, "only: align_compared needs stages.align.compare"),
    ],
)
def test_wrong_use_is_told_before_any_work(tmp_path, run, settings, capsys, change, message):
    changed = {**settings, **change}
    assert run(changed=changed) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(message, said), said
    assert not (tmp_path / "requests.log").exists()
