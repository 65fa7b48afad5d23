"""Plans: bounds that hold, what is likely after a smaller run, what is done, what is not known; no model is loaded."""

import re
from dataclasses import replace

import pyarrow as pa
import pytest

from pipelines import derive, ingest, questions, respond, triples
from pipelines.recipe.outlook import StepOutlook, outlook_of, print_outlooks
from pipelines.runtime.estimates import Estimate, Outlook, Prospect, Sample
from pipelines.runtime.measured import asked_by, measured
from pipelines.runtime.runs import Record
from pipelines.runtime.step import ModelSource, Place, PlannedStep, TableSource
from pipelines.runtime.steps import do_steps
from transforms.engines.engine import Sampling
from transforms.tables.chunks import Asked

TEACHER = ModelSource({"engine": "scripted", "args": {"function": "scripted_models:teacher"}})


def steps_of(count=60, limit=None, **settings):
    """Questions of a pack, triples and answers to them, as a recipe has them under `--limit`."""
    config = questions.Config(
        model="teacher",
        pack="ethical",
        count=min(count, limit or count),
        topic_rounds=1,
        hints=6,
        examples=2,
        **settings,
    )
    asked = {"questions": TableSource(step="questions"), "model": TEACHER}
    return [
        PlannedStep("questions", questions.KIND, config, {"model": TEACHER}),
        PlannedStep(
            "triples",
            triples.KIND,
            triples.Config(questions="questions", model="teacher", pack="ethical", limit=limit),
            asked,
        ),
        PlannedStep(
            "answers",
            respond.KIND,
            respond.Config(questions="questions", model="teacher", sampling=Sampling(max_tokens=30), limit=limit),
            asked,
        ),
    ]


def do(steps, output):
    return do_steps(steps, Record(str(output)), Place(str(output)))


def totals(outlook, name):
    return sum(getattr(estimate, name) for estimate in outlook.estimates)


def test_a_plan_before_a_run_is_a_bound_that_holds(tmp_path):
    place = Place(str(tmp_path))
    planned = outlook_of(steps_of(), place)
    assert not any(tmp_path.iterdir())
    stages = do(steps_of(), tmp_path)
    for outlook in planned:
        asked, manifest = asked_by(stages[outlook.name].directory), stages[outlook.name].read_manifest()
        assert manifest["counts"]["kept"] <= outlook.rows == 60
        assert asked.requests <= totals(outlook, "requests") <= 1.6 * asked.requests
        assert asked.prompt_tokens <= totals(outlook, "prompt_tokens")
        assert asked.completion_tokens <= totals(outlook, "generated_tokens")
        assert not outlook.is_done


def test_a_smaller_run_tells_what_will_be_generated(tmp_path):
    do(steps_of(limit=20), tmp_path)
    place = Place(str(tmp_path))
    planned = outlook_of(steps_of(), place)
    assert [[estimate.basis for estimate in outlook.estimates] for outlook in planned] == [
        ["20 requests", "the seeds"],  # 20 questions are the seeds: no round asked for more
        ["20 requests"],
        ["20 requests"],
    ]
    assert [estimate.requests for estimate in planned[0].estimates] == [20, 11]
    stages = do(steps_of(), tmp_path)
    for outlook in planned:
        asked = asked_by(stages[outlook.name].directory)
        assert totals(outlook, "requests") >= asked.requests
        if outlook.name != "questions":
            assert totals(outlook, "generated_tokens") == pytest.approx(asked.completion_tokens, rel=0.2)


def test_another_seed_model_or_prompt_is_no_measure(tmp_path):
    do(steps_of(limit=20), tmp_path)
    place = Place(str(tmp_path))
    again, other = steps_of()[0], steps_of(seed=1)[0]
    assert measured(again, place).asked == Asked(20, 1178, 220)
    assert measured(other, place) is None
    model = ModelSource({"engine": "scripted", "args": {"function": "scripted_models:aligner"}})
    assert measured(replace(again, sources={"model": model}), place) is None
    assert measured(replace(again, config=replace(again.config, hints=5)), place) is None


def test_what_is_done_is_said_to_be_and_costs_nothing(tmp_path, capsys):
    do(steps_of()[:1], tmp_path)
    outlooks = outlook_of(steps_of(), Place(str(tmp_path)))
    assert [(outlook.is_done, outlook.rows) for outlook in outlooks] == [(True, 60), (False, 60), (False, 60)]
    assert outlooks[0].estimates == ()
    assert print_outlooks(outlooks) == 0
    said = capsys.readouterr().err
    assert re.search(r"^questions +(questions +)?done +60 *$", said, re.MULTILINE)
    assert "at 3 bytes each where a model's tokenizer is not on this machine" in " ".join(said.split())


@pytest.mark.parametrize(("columns", "kind"), [(120, "respond "), (100, "")])
def test_a_plan_fits_the_line_and_cuts_no_number(tmp_path, monkeypatch, capsys, columns, kind):
    monkeypatch.setenv("COLUMNS", str(columns))
    asked = {"requests": 123_456, "prompt_tokens": 98_765_432, "generated_tokens": 87_654_321}
    estimate = Estimate(model="some/model", basis="20 requests", parameters=10_000_000_000, **asked)
    print_outlooks([StepOutlook(steps_of()[2], Outlook(123_456, (estimate,)))])
    said = " ".join(capsys.readouterr().err.split())
    numbers = "123,456 123,456 98,765,432 87,654,321 20 requests 20.0 GB 5.2 5,178.3"
    assert f"answers {kind}some/model {numbers}" in said


def test_too_few_topics_are_told_before_anything_is_asked(tmp_path, capsys):
    print_outlooks(outlook_of(steps_of(count=20000)[:1], Place(str(tmp_path))))
    said = capsys.readouterr().err
    assert "questions: at most, questions: 200 of the 20,000 asked for" in said
    assert "raise topic_rounds (now 1)" in said
    print_outlooks(outlook_of(steps_of(count=200)[:1], Place(str(tmp_path))))
    assert "asked for" not in capsys.readouterr().err


def answers_to(corpus, **settings):
    config = ingest.Config(corpus=str(corpus), kind="questions", **settings)
    source = {"questions": TableSource(step="heldout"), "model": TEACHER}
    return [
        PlannedStep("heldout", ingest.KIND, config),
        PlannedStep("answers", respond.KIND, respond.Config(questions="heldout", model="teacher"), source),
    ]


def test_rows_of_a_file_are_counted_and_those_of_a_missing_one_are_not_known(tmp_path, capsys):
    corpus, place = tmp_path / "heldout.jsonl", Place(str(tmp_path / "run"))
    heldout, answers = outlook_of(answers_to(corpus), place)
    assert (heldout.rows, answers.rows, totals_of(answers)) == (None, None, (None, None, None))
    assert print_outlooks([heldout, answers]) == 0
    assert " ? " in capsys.readouterr().err
    corpus.write_text('{"question": "Why is it?"}\n{"question": "How?"}\n{"question": " "}\n')
    heldout, answers = outlook_of(answers_to(corpus), place)
    # "Question: Why is it?\nAnswer:" has 28 bytes, the other 22: 10 and 8 tokens, each as long as the longer one
    assert (heldout.rows, heldout.outlook.likely) == (3, 2)
    assert totals_of(answers) == (3, 30, 3 * 256)


def totals_of(outlook):
    [estimate] = outlook.estimates
    return estimate.requests, estimate.prompt_tokens, estimate.generated_tokens


def test_a_split_has_its_share_of_the_rows():
    prospect = Prospect(
        rows={"tables.0": 1000},
        likely={"tables.0": 900.0},
        samples={"tables.0": Sample(pa.table({"response": ["a"], "critique": ["b"]}))},
        shares={"tables.0": {"split": {"train": 0.7, "validation": 0.15, "test": 0.15}}},
    )
    config = derive.Config(tables=("curated",), where={"split": ("test",)}, columns={"correction": "response"})
    outlook = derive.estimate(config, prospect)
    assert (outlook.rows, outlook.likely) == (184, 135)
    assert outlook.sample.rows.to_pylist() == [{"correction": "a"}]
    assert derive.estimate(replace(config, where={"source": ("a",)}, sample=0.5), prospect).rows == 500
    assert derive.estimate(replace(config, limit=30), prospect).rows == 30
