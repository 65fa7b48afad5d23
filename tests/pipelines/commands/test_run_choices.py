"""Flags of a run: which steps are done, with which models, settings and arguments; nothing is done for a wrong one."""

import copy
import re

import pytest
from recipe_runs import RECIPE, finished, questions, restored, scorer, scripted, write_model

from pipelines.runtime import steps as runtime_steps
from pipelines.runtime.at_work import at_work

STEPS = {
    "heldout": {"stage": "import", "corpus": "heldout.jsonl", "kind": "questions"},
    "few": {"stage": "derive", "tables": ["heldout"], "limit": 2},
    "groups": {
        "each": {"item": ["a", "b"]},
        "steps": {
            "answers": {"stage": "respond", "questions": "few", "model": "teacher", "minimum_yield": 0.0},
            "scores": {"stage": "score", "responses": "answers", "inspectors": {"vowels": "judge"}},
        },
    },
    "b/answers": {"sampling": {"max_tokens": 9}},
    "together": {"stage": "derive", "tables": {"a": "a/answers", "b": "b/answers"}},
}
ORDER = ["heldout", "few", "a/answers", "a/scores", "b/answers", "b/scores", "together"]
MODELS = {"teacher": scripted("teacher"), "judge": scorer("vowels")}
FILES = {"heldout.jsonl": questions("What is a cat?", "What is a dog?", "What is a hen?", "What is a pig?")}


def words(capsys) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture
def choices(runs):
    """A recipe of two branches, a group's items."""
    for name, rows in FILES.items():
        runs.write_rows(name, *rows)
    runs.recipe |= copy.deepcopy({"models": MODELS, "steps": STEPS})
    return runs


@pytest.fixture(scope="module")
def done_once(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("done"), {**RECIPE, "models": MODELS, "steps": STEPS}, FILES)


@pytest.fixture
def done(done_once, tmp_path):
    """The same, done."""
    with restored(done_once, tmp_path / "before") as runs:
        yield runs


@pytest.fixture
def did(monkeypatch):
    """The steps that were gone through, done already or not, with their arguments for Beam."""
    told, do = {}, runtime_steps._do

    def noted(planned, step, *rest, **flags):
        told[planned.name] = step.beam_arguments
        do(planned, step, *rest, **flags)

    monkeypatch.setattr(runtime_steps, "_do", noted)
    return told


def test_until_a_step_is_what_it_needs_and_the_step(choices, did):
    assert choices("--until", "a/answers") == 0
    assert list(did) == ["heldout", "few", "a/answers"]
    assert choices.of_steps("status") == {
        name: "done" if name in ("heldout", "few", "a/answers") else "to do" for name in ORDER
    }


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--until", "*/scores"], ORDER[:-1]),
        (["--from", "a/answers"], ["a/answers", "a/scores", "together"]),
        (["--from", "few", "--until", "b/answers"], ["few", "b/answers"]),
        (["--from", "?/answers", "--until", "together"], ["a/answers", "b/answers", "together"]),
        (["--only", "b/*"], ["b/answers", "b/scores"]),
        (["--only", "together"], ["together"]),
        ([], ORDER),
    ],
)
def test_flags_choose_steps(done, did, flags, names):
    assert done(*flags) == 0
    assert list(did) == names


def test_only_a_step_whose_input_is_missing_or_stale_is_refused_by_name(choices, capsys):
    assert choices("--only", "a/scores") == 2
    assert "a/scores: its input a/answers is not complete (to do); do it too: --until a/scores" in words(capsys)
    assert not (choices.run / "run.json").exists()
    assert choices("--until", "a/answers") == 0
    assert choices("--only", "a/scores", "--set", "steps.few.seed=1") == 2
    assert "a/scores: its input a/answers is not complete (stale: few is not done)" in words(capsys)
    assert choices("--only", "?/*", "--set", "steps.few.seed=1") == 2
    assert "a/answers: its input few is not complete (stale: seed: 0 → 1)" in words(capsys)
    assert len(choices.asked()) == 2


def test_redo_makes_a_result_anew_and_asks_nothing_anew(done, did):
    asked, written = done.asked(), done.change_times()
    rows = done.table("a/answers")
    assert done("--redo", "a/answers", "--only", "a/answers") == 0
    assert list(did) == ["a/answers"]
    assert done.asked() == asked
    after = done.change_times()
    assert {path.split("/")[0] for path in written if after.get(path) != written[path]} == {"respond"}
    assert done.table("a/answers").equals(rows)
    assert set(done.of_steps("status").values()) == {"done"}


def test_a_limit_caps_what_is_said_already_too(choices):
    assert choices("--limit", "1") == 0
    assert {step: choices.counts(step)["kept"] for step in ORDER} == {
        **dict.fromkeys(("few", "a/answers", "a/scores", "b/answers", "b/scores"), 1),
        "heldout": 4,
        "together": 2,
    }
    assert choices("--limit", "3") == 0
    assert choices.counts("a/answers")["kept"] == 2
    assert len(choices.asked()) == 4


def test_settings_over_the_recipe(choices):
    assert choices("--set", "steps.few.limit=3", "--set", "steps.a/answers.limit=1", "--until", "?/answers") == 0
    assert [choices.counts(f"{item}/answers")["kept"] for item in "ab"] == [1, 3]
    assert [choices.of_steps("identity")[f"{item}/answers"]["sampling"]["max_tokens"] for item in "ab"] == [256, 9]


def test_models_over_the_recipe(choices, capsys):
    choices.recipe["models"]["nameless"] = {"style": "chat"}
    choices.recipe["steps"]["b/answers"]["model"] = "nameless"
    judge = ("--model", "judge=scripted:tests.scripted_models:lengths")
    assert choices(*judge, "--print-steps") == 2
    assert "models.nameless.model: names no model; give one here or with --model NAME=ID" in words(capsys)
    assert choices(*judge, "--model", "B/m", "--print-steps") == 0
    shown = capsys.readouterr().out
    assert "b/answers: respond\n  questions <- few\n" in shown
    assert "  model <- B/m (style: chat)\n" in shown
    assert "scripted_models:lengths" in shown
    assert "scripted_models:vowels" not in shown
    assert "  sampling.max_tokens = 9\n" in shown
    assert not choices.run.exists()
    assert choices(*judge, "--model", "nameless=A/m", "--only", "heldout") == 0
    assert choices.about["models"] == {
        "a/answers model": "",
        "b/answers model": "A/m",
        **{f"{item}/scores inspectors.vowels": "scripted:tests.scripted_models:lengths" for item in "ab"},
    }


def test_a_bare_model_where_every_entry_names_one_is_an_error(choices, capsys):
    assert choices("--model", "B/m") == 2
    assert "--model: no entry of models lacks a model; say --model NAME=ID" in words(capsys)


def test_arguments_for_beam_reach_the_steps_that_match(done, did):
    assert (
        done("--beam", "a/*=--job_name=a --flink_master=h:1", "--beam", "?/answers=--job_name=b", "--", "--dry_run=t")
        == 0
    )
    every, own = ("--dry_run=t",), ("--job_name=a", "--flink_master=h:1")
    assert did["a/answers"] == (*every, *own, "--job_name=b")
    assert did["a/scores"] == (*every, *own)
    assert did["b/answers"] == (*every, "--job_name=b")
    assert did["b/scores"] == every
    assert did["few"][:2] == (*every, "--direct_num_workers=2")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--only", "nothing"], "--only nothing: no such step; there are heldout, few"),
        (["--until", "a/answer"], "--until a/answer: no such step; did you mean 'a/answers'?"),
        (["--from", "together", "--until", "few"], "--from together --until few: no step lies between them"),
        (["--only", "few", "--until", "few"], "only: does these steps alone; leave out --from and --until"),
        (["--redo", "togehter"], "--redo togehter: no such step; did you mean 'together'?"),
        (["--redo", "few", "--only", "heldout"], "--redo few: none of these steps is to be done"),
        (["--limit", "0"], "limit: must be at least 1"),
        (["--limit", "ten"], "limit: .*integer"),
        (["--set", "steps.few.limt=1"], r"--set.*: steps.few.limt: unknown setting \(did you mean 'limit'\?\)"),
        (["--set", "step.few.limit=1"], "step: unknown; did you mean 'steps'"),
        (["--set", "models.teacher.stle=chat"], r"models.teacher.stle: unknown setting \(did you mean 'style'\?\)"),
        (["--set", "steps.few.tables=null"], "steps.few.tables: has no value"),
        (["--model", "teecher=A/m"], "--model teecher: no such entry of models; did you mean 'teacher'?"),
        (["--beam", "few"], "beam: expected PATTERN=ARGS"),
        (["--beam", "few=--runnner=FlinkRunner"], "Beam knows no option --runnner"),
        (["--", "--runnner=FlinkRunner"], "Beam knows no option --runnner"),
        (["-o", "/proc/nowhere"], "cannot write there"),
        (["--set", "steps.heldout.corpus=absent.jsonl"], "steps.heldout.*: absent.jsonl: no such file"),
        (["--set", "models.judge.model=./no"], "steps.a/scores.inspectors.vowels: ./no: no such model folder"),
        (
            ["--set", "models.teacher={engine: vllm, args: null, model: /no}"],
            "steps.a/answers.model: /no: no such",
        ),
        (
            ["--set", "steps.m={stage: train_inspector, data: together, base: judge}"],
            "steps.m.data: 'together' has no splits; curate it first",
        ),
    ],
)
def test_wrong_use_is_told_before_any_work(choices, capsys, flags, message):
    files = set(choices.folder.rglob("*"))
    assert choices(*flags) == 2
    assert re.search(message, words(capsys))
    assert choices.asked() == []
    assert set(choices.folder.rglob("*")) - files <= {choices.folder / "r.yaml"}


def test_an_output_within_a_corpus_is_refused(choices, capsys):
    choices.write_rows("corpus/q.jsonl", *questions("Why?"))
    choices.recipe["steps"]["late"] = {"stage": "import", "corpus": "corpus", "kind": "questions", "after": ["few"]}
    choices.output = "corpus/run"
    assert choices() == 2
    assert "corpus/run: lies in the corpus" in words(capsys)
    assert not choices.run.exists()


def test_an_output_at_which_another_process_is_at_work_is_refused(choices, capsys):
    with at_work(str(choices.run)):
        assert choices() == 2
    assert "is at work there; wait for it, or choose another output" in words(capsys)
    assert choices.asked() == []


def test_trainers_need_a_local_place_and_a_launcher_that_is_there(choices, capsys):
    write_model(choices.folder / "encoder")
    choices.recipe["models"]["encoder"] = {"model": "encoder"}
    choices.recipe["steps"] = {
        "pairs": {"stage": "import", "corpus": "pairs.jsonl", "kind": "triples"},
        "curated": {"stage": "curate", "table": "pairs"},
        "inspector": {"stage": "train_inspector", "data": "curated", "base": "encoder"},
    }
    choices.write_rows("pairs.jsonl", {"question": "Why?", "response": "No.", "correction": "Because."})
    assert choices("-o", "memory://x") == 2
    assert "output = memory://x: trainers write to a local disk" in words(capsys)
    assert choices("-o", "memory://x", "--only", "pairs") == 0
    assert choices("--launch", "nowhere-run -n 8") == 2
    assert "launch = 'nowhere-run -n 8': there is no program 'nowhere-run'" in words(capsys)
