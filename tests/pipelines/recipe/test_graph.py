"""Wrong recipes: every mistake is told at once, by file, line and key; no model is loaded, no file written."""

import re
from pathlib import Path

import pytest
import yaml

from pipelines.recipe.graph import Told, print_steps, read_graph
from pipelines.recipe.registry import STAGES
from schemas.errors import UsageError
from transforms.engines import running

RECIPE = """\
name: mine
seed: 7
values: {pack: ethical}
models:
  teacher: {model: teacher-1B}
  encoder: {model: encoder}
  judge: {model: judge}
steps:
  heldout: {stage: import, corpus: heldout.jsonl, kind: questions}
  criteria:
    each: {criterion: [civic, polite]}
    steps:
      questions: {stage: questions, model: teacher, pack: "{pack}", count: 10}
      triples: {stage: triples, questions: questions, model: teacher, pack: "{pack}"}
      curated: {stage: curate, table: triples, heldout: [heldout]}
      inspector: {stage: train_inspector, data: curated, base: encoder}
      aligner: {stage: train_aligner, data: curated, base: teacher}
  responses: {stage: respond, questions: heldout, model: teacher}
  aligned:
    stage: align
    responses: responses
    members:
      - {criterion: civic, inspector: civic/inspector, aligner: civic/aligner}
      - {criterion: polite, inspector: polite/inspector, aligner: polite/aligner}
  evaluation: {stage: evaluate, aligned: aligned, inspectors: {judge: judge}}
"""
# An edit of the recipe (old text, new text), and what is said of it, after the file's name.
VERBATIM = {
    "a typo in a name": (
        "questions: questions, model: teacher",
        "questions: question, model: teacher",
        [
            "14: steps.civic/triples.questions: no step or model 'question'; did you mean 'questions'?",
            "14: steps.polite/triples.questions: no step or model 'question'; did you mean 'questions'?",
        ],
    ),
    "a typo in a stage": (
        "stage: respond",
        "stage: responds",
        [
            "18: steps.responses.stage: no stage 'responds'; did you mean 'respond'?",
        ],
    ),
    "a typo in a setting": (
        "questions: heldout, model: teacher}",
        "questions: heldout, model: teacher, limits: 3}",
        ["18: steps.responses.limits: unknown setting (did you mean 'limit'?)"],
    ),
    "a model where a table is due": (
        "questions: heldout, model: teacher}",
        "questions: teacher, model: teacher}",
        ["18: steps.responses.questions: 'teacher' is a model; a table is due here"],
    ),
    "a table where a model is due": (
        "questions: heldout, model: teacher}",
        "questions: heldout, model: heldout}",
        ["18: steps.responses.model: 'heldout' gives a table; a model is due here"],
    ),
    "a trainer's table": (
        "questions: heldout, model: teacher}",
        "questions: civic/aligner, model: teacher}",
        ["18: steps.responses.questions: 'civic/aligner' trains a model; a table is due here"],
    ),
    "uncurated data": (
        "inspector: {stage: train_inspector, data: curated,",
        "inspector: {stage: train_inspector, data: triples,",
        [
            "16: steps.civic/inspector.data: 'civic/triples' has no splits; "
            "curate it first: {stage: curate, table: civic/triples}",
            "16: steps.polite/inspector.data: 'polite/triples' has no splits; "
            "curate it first: {stage: curate, table: polite/triples}",
        ],
    ),
    "an aligner that inspects": (
        "inspector: civic/inspector,",
        "inspector: civic/aligner,",
        ["23: steps.aligned.members.0.inspector: 'civic/aligner' trains no inspector, but: generator, base"],
    ),
    "a circle": (
        "questions: heldout, model: teacher}",
        "questions: evaluation, model: teacher}",
        ["18: steps.responses: a circle: responses needs evaluation needs aligned needs responses"],
    ),
    "an unknown table of a step": (
        "questions: questions, model: teacher",
        "questions: questions.topic, model: teacher",
        [
            "14: steps.civic/triples.questions: 'civic/questions' gives no table 'topic'; "
            "did you mean civic/questions.topics?",
            "14: steps.polite/triples.questions: 'polite/questions' gives no table 'topic'; "
            "did you mean polite/questions.topics?",
        ],
    ),
    "a value out of range": (
        "count: 10}",
        "count: 0}",
        [
            "13: steps.civic/questions.count: must be at least 1, not 0",
            "13: steps.polite/questions.count: must be at least 1, not 0",
        ],
    ),
    "a model that is nowhere": (
        "teacher: {model: teacher-1B}",
        "teacher: {}",
        ["5: models.teacher.model: names no model; give one here or with --model NAME=ID"],
    ),
}
# Further mistakes, and a part of what is said.
MISTAKES = {
    "unknown top-level key": ("seed: 7", "sead: 7", "sead: unknown; did you mean 'seed'?"),
    "no name": ("name: mine", "toy: true", "name: expected a text"),
    "seed is a text": ("seed: 7", "seed: seven", "seed: expected a whole number"),
    "seed of a step is a text": ("count: 10}", "seed: x}", "steps.civic/questions.seed: "),
    "two steps of one name": ("  heldout: {stage", "  responses: {stage", "responses: is in line"),
    "a step and a model of one name": ("  judge: {model", "  aligned: {model", "aligned: steps.aligned is called so"),
    "a name with a space": ("  heldout: {", "  held out: {", "steps.held out: is no name"),
    "an item twice": ("[civic, polite]", "[civic, civic]", "civic"),
    "an item that is a step": ("[civic, polite]", "[responses, polite]", ""),
    "a group in a group": (
        "      questions: {stage: questions, model: teacher,",
        "      questions: {each: {a: [b]}, model: teacher,",
        "steps.criteria",
    ),
    "an override of nothing": (
        "  responses: {",
        "  civic/question: {count: 3}\n  responses: {",
        "civic/question: no step to change",
    ),
    "an override with a stage": (
        "  responses: {",
        "  civic/questions: {stage: derive}\n  responses: {",
        "civic/questions",
    ),
    "previous outside a group": (
        "questions: heldout, model",
        "questions: previous/curated, model",
        "only steps of a group",
    ),
    "previous with no first": ("heldout: [heldout]}", "heldout: [previous/curated]}", "nothing is before 'civic'"),
    "a value that nothing says": (
        "values: {pack: ethical}",
        "values: {pack: ethical, other: 1}",
        "no text says {other}",
    ),
    "a stage that is missing": ("responses: {stage: respond,", "responses: {", "no `stage` to make one"),
    "a setting that is missing": (
        "questions: heldout, model: teacher}",
        "questions: heldout}",
        "steps.responses.model: has no value",
    ),
    "a list where a name is due": (
        "questions: heldout, model",
        "questions: [heldout], model",
        "steps.responses.questions",
    ),
    "a step with no settings": (
        "  responses: {stage: respond, questions: heldout, model: teacher}",
        "  responses: respond",
        "steps.responses: expected the settings",
    ),
    "a column that is not there": (
        "table: triples, heldout: [heldout]",
        "table: triples, heldout: [heldout], quotas: {colour: 3}",
        "colour",
    ),
    "an answer where none is read": (
        "questions: heldout, model",
        "questions: {table: heldout, answer: question}, model",
        "steps.responses.questions",
    ),
    "an answer that is not there": (
        "aligned: aligned, inspectors",
        "aligned: {table: aligned, answer: corrected}, inspectors",
        "has no column corrected",
    ),
    "a judge that answers": (
        "inspectors: {judge: judge}",
        "inspectors: {judge: responses}",
        "gives a table; a model is due",
    ),
    "no judge": (", inspectors: {judge: judge}", "", "give at least one judge"),
    "a served base": (
        "teacher: {model: teacher-1B}",
        'teacher: {engine: server, model: m, base_url: "http://h:1/v1"}',
        "is a served model, which cannot be a base",
    ),
    "an engine's argument that loads code": (
        "{model: teacher-1B}",
        "{model: teacher-1B, args: {worker_cls: a.b}}",
        "no file may set it",
    ),
    "a step that is no step": (
        "judge: {model: judge}",
        "judge: {step: inspectors}",
        "models.judge.step: no step or model 'inspectors'",
    ),
    "a step that is a model": ("judge: {model: judge}", "judge: {step: teacher}", "is a model itself"),
    "a step and a model": ("judge: {model: judge}", "judge: {step: civic/inspector, model: judge}", "has a model too"),
    "adapters of an entry": (
        "{model: teacher-1B}",
        "{model: teacher-1B, adapters: [a]}",
        "models.teacher.adapters: unknown setting",
    ),
    "a style that is none": ("{model: teacher-1B}", "{model: teacher-1B, style: poem}", "models.teacher.style"),
    "two members of one criterion": (
        "criterion: polite, inspector",
        "criterion: civic, inspector",
        "have one criterion",
    ),
    "a member without an inspector that is guarded": ("inspector: polite/inspector, ", "", "polite"),
    "rounds of a fixed routing": (
        "    responses: responses\n",
        "    responses: responses\n    routing: fixed\n    rounds: 2\n",
        "rounds",
    ),
    "a routing that is none": (
        "    responses: responses\n",
        "    responses: responses\n    routing: best\n",
        "steps.aligned.routing",
    ),
    "scores that are missing": (
        "    responses: responses\n",
        "    responses: responses\n    routing: corpus-mean\n",
        "scores",
    ),
    "a trainer's own output": (
        "data: curated, base: encoder}",
        "data: curated, base: encoder, output: x}",
        "filled in by the run",
    ),
    "a trainer's setting out of range": (
        "data: curated, base: encoder}",
        "data: curated, base: encoder, batch_size: 0}",
        "must be above 0",
    ),
    "after nothing": (
        "model: teacher}\n  aligned",
        "model: teacher, after: [nothing]}\n  aligned",
        "steps.responses.after: no step or model 'nothing'",
    ),
    "after what is no name": (
        "model: teacher}\n  aligned",
        "model: teacher, after: 0}\n  aligned",
        "steps.responses.after: expected names of steps, not 0",
    ),
    "after a model": (
        "model: teacher}\n  aligned",
        "model: teacher, after: teacher}\n  aligned",
        "steps.responses.after: 'teacher' is a model; name steps",
    ),
    "arguments that are none, beside a revision": (
        "{model: teacher-1B}",
        "{model: teacher-1B, args: [1], revision: abc}",
        "models.teacher.args: Input should be a valid dictionary",
    ),
    "the answer of a two-way table": (
        "inspectors: {judge: judge}}",
        "inspectors: {judge: judge}, two_way: {table: civic/curated, answer: correction}}",
        "steps.evaluation.two_way.answer: no answer is read here; name the table alone",
    ),
    "a seed that numpy takes not": (
        "inspectors: {judge: judge}}",
        "inspectors: {judge: judge}, seed: -1}",
        "steps.evaluation.seed: Input should be greater than or equal to 0",
    ),
    "a trainer's seed that is too large": (
        "data: curated, base: encoder}",
        "data: curated, base: encoder, seed: 4294967296}",
        "seed: Input should be less than 4294967296",
    ),
    "a base that is empty": (
        "data: curated, base: encoder}",
        'data: curated, base: ""}',
        "steps.civic/inspector.base: names nothing",
    ),
    "a judge that is empty": (
        "inspectors: {judge: judge}}",
        'inspectors: {judge: judge, strict: ""}}',
        "steps.evaluation.inspectors.strict: names nothing",
    ),
    "held-out questions that are empty": (
        "heldout: [heldout]}",
        'heldout: [heldout, ""]}',
        "steps.civic/curated.heldout.1: names nothing",
    ),
    "an input that is empty": (
        "questions: heldout, model: teacher}",
        'questions: "", model: teacher}',
        "steps.responses.questions: names nothing; a table or model is due here",
    ),
    "a member's aligner that is empty": (
        "aligner: civic/aligner}",
        'aligner: ""}',
        "steps.aligned.members.0.aligner: names nothing",
    ),
    "a pack that is none": ("values: {pack: ethical}", "values: {pack: nowhere.yaml}", ""),
}


@pytest.fixture(autouse=True)
def loads_no_model(monkeypatch):
    def refuse(*_):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(running, "_start", refuse)
    monkeypatch.setattr("transforms.engines.encoder.open_once", refuse)


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A function that writes the recipe with an edit."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "heldout.jsonl").write_text('{"question": "Why is it so?"}\n')

    def write(*edits: tuple[str, str]) -> str:
        text = RECIPE
        for old, new in edits:
            assert old in text, old
            text = text.replace(old, new, 1)
        (tmp_path / "mine.yaml").write_text(text)
        return "mine.yaml"

    return write


def complaints(path: str, **told) -> list[str]:
    before = set(Path().rglob("*"))
    with pytest.raises(UsageError) as caught:
        read_graph(path, STAGES, Told(**told)).check_outside()
    assert set(Path().rglob("*")) == before
    return str(caught.value).splitlines()


def test_the_recipe_is_right(recipe):
    graph = read_graph(recipe(), STAGES)
    assert [step.name for step in graph.steps][:6] == [
        *("heldout", "civic/questions", "civic/triples", "civic/curated", "civic/inspector", "civic/aligner"),
    ]
    assert len(graph.steps) == 14


@pytest.mark.parametrize("name", VERBATIM)
def test_a_mistake_is_told_word_for_word(recipe, name):
    old, new, said = VERBATIM[name]
    assert complaints(recipe((old, new))) == [f"mine.yaml:{line}" for line in said]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_its_line(recipe, name):
    old, new, said = MISTAKES[name]
    lines = complaints(recipe((old, new)))
    assert any(said in line for line in lines), lines
    assert all(re.match(r"mine\.yaml:\d+: ", line) for line in lines if not line.startswith("nowhere.yaml")), lines


PAIRS = [
    ("a typo in a name", "a typo in a stage"),
    ("a typo in a setting", "uncurated data"),
    ("an aligner that inspects", "a value out of range"),
    ("a model that is nowhere", "a model where a table is due"),
    ("an unknown table of a step", "a trainer's table"),
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_two_mistakes_are_told_at_once(recipe, first, second):
    lines = complaints(recipe(VERBATIM[first][:2], VERBATIM[second][:2]))
    for name in (first, second):
        assert {f"mine.yaml:{said}" for said in VERBATIM[name][2]} <= set(lines)


def test_what_is_outside_is_told_by_key(recipe, tmp_path):
    (tmp_path / "heldout.jsonl").unlink()
    lines = complaints(recipe())
    assert any("steps.heldout" in line and "heldout.jsonl" in line for line in lines), lines
    assert any(line.startswith("mine.yaml:") and "steps.evaluation.inspectors.judge" in line for line in lines), lines


def test_a_model_whose_name_is_too_long_for_a_file_is_told_by_key(recipe):
    for old in ("teacher: {model: teacher-1B}", "encoder: {model: encoder}", "judge: {model: judge}"):
        name = "x" * 300
        lines = complaints(recipe((old, f"{old.partition(':')[0]}: {{model: ./{name}}}")))
        assert any(f"{name}: no such model folder" in line for line in lines), lines


def test_a_reference_of_no_form_is_told_with_what_is_wrong_outside(recipe):
    edit = ("inspectors: {judge: judge}}", "inspectors: {judge: judge}, two_way: {table: heldout, answer: question}}")
    with pytest.raises(UsageError) as caught:
        read_graph(recipe(edit), STAGES, looks_outside=True)
    assert "steps.evaluation.two_way.answer: no answer is read here; name the table alone" in str(caught.value)


def test_a_typed_setting_is_named_as_one(recipe):
    lines = complaints(recipe(), sets={"steps": {"responses": {"limt": 3}}})
    assert lines == ["--set: steps.responses.limt: unknown setting (did you mean 'limit'?)"]


def test_a_bare_model_fills_entries_that_name_none(recipe):
    path = recipe(("teacher: {model: teacher-1B}", "teacher: {style: chat}"))
    graph = read_graph(path, STAGES, Told(models={"": "other-1B"}))
    source = next(step for step in graph.steps if step.name == "responses").sources["model"]
    assert source.settings == {"style": "chat", "model": "other-1B"}


def test_a_bare_model_where_none_is_missing_is_an_error(recipe):
    assert complaints(recipe(), models={"": "other"}) == [
        "--model: no entry of models lacks a model; say --model NAME=ID"
    ]


def test_a_limit_caps_every_number_of_rows(recipe):
    graph = read_graph(recipe(), STAGES, Told(limit=3))
    configs = {step.name: step.config for step in graph.steps}
    assert configs["civic/questions"].count == 3
    assert configs["civic/triples"].limit == configs["responses"].limit == configs["aligned"].limit == 3
    assert configs["heldout"].limit is None


def test_choices(recipe):
    graph = read_graph(recipe(), STAGES)
    assert graph.chosen(only="civic/t*") == {"civic/triples"}
    assert graph.chosen(until="civic/triples") == {"civic/questions", "civic/triples"}
    assert graph.chosen(from_="aligned") == {"aligned", "evaluation"}
    assert graph.chosen(from_="civic/curated", until="aligned") == {
        *("civic/curated", "civic/inspector", "civic/aligner", "aligned"),
    }
    with pytest.raises(UsageError, match="--until alined: no such step; did you mean 'aligned'"):
        graph.chosen(until="alined")


def test_a_trained_model_is_run_as_its_base_says(recipe, tmp_path):
    (tmp_path / "teacher-1B").mkdir()
    path = recipe(("{model: teacher-1B}", "{model: teacher-1B, args: {dtype: float32}, revision: abc}"))
    aligned = next(step for step in read_graph(path, STAGES).steps if step.name == "aligned")
    source = aligned.sources["members.0.aligner"]
    assert (source.step, source.settings) == ("civic/aligner", {"args": {"dtype": "float32", "revision": "abc"}})


def test_a_revision_counts_where_a_model_generates(recipe, tmp_path):
    path = recipe(("{model: encoder}", "{model: hub/encoder, revision: abc}"))
    with pytest.raises(UsageError) as caught:
        read_graph(path, STAGES)
    assert str(caught.value).splitlines() == [
        f"mine.yaml:16: steps.{name}/inspector.base: 'encoder' has revision abc, which counts only where a model "
        "generates; download that revision and name its folder"
        for name in ("civic", "polite")
    ]
    (tmp_path / "hub" / "encoder").mkdir(parents=True)
    assert len(read_graph(path, STAGES).steps) == 14


def test_files_of_a_list_are_looked_for_beside_the_recipe(recipe, tmp_path, monkeypatch):
    text = ("heldout: [heldout]}", "heldout_files: [heldout.jsonl, none.jsonl]}")
    path = str(tmp_path / recipe(text))
    monkeypatch.chdir("/")
    curated = next(step for step in read_graph(path, STAGES).steps if step.name == "civic/curated")
    assert curated.config.heldout_files == (str(tmp_path / "heldout.jsonl"), "none.jsonl")


def test_steps_are_printed_without_secrets(recipe, capsys):
    url = "http://me:SECRET@host/heldout.jsonl?sig=SECRET"
    edits = ("corpus: heldout.jsonl", f'corpus: "{url}"'), ("{model: judge}", f'{{model: "{url}"}}')
    print_steps(read_graph(recipe(*edits), STAGES))
    printed = capsys.readouterr().out
    assert "  corpus = 'http://***@host/heldout.jsonl?sig=***'\n" in printed
    assert "inspectors.judge <- " in printed
    assert "SECRET" not in printed


def test_reordering_a_recipe_changes_no_step(recipe, tmp_path):
    values = yaml.safe_load(RECIPE)
    values["steps"] = dict(reversed(values["steps"].items()))
    as_written, reversed_ = (read_graph(source, STAGES) for source in (recipe(), values))
    assert {step.name: step.config for step in as_written.steps} == {step.name: step.config for step in reversed_.steps}
