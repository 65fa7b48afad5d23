"""Estimates: what sizes sum up to at most, and how many tokens are likely after a smaller run."""

import pyarrow as pa
import pytest

from pipelines import align
from pipelines.runtime.estimates import (
    Measured,
    Outlook,
    Prospect,
    Sample,
    estimated,
    no_cost,
    one_prompt_a_row,
    parameters_of,
    part_at_most,
    sum_at_most,
    with_answers,
)
from schemas.criteria.pack import load_pack
from schemas.errors import UsageError
from schemas.squads import AlignMember
from transforms.engines.engine import EngineConfig, Sampling
from transforms.tables.chunks import Asked

SAMPLE = Sample(pa.table({"question": ["abc", "abcdef", ""]}))  # 1 and 2 tokens of three bytes; nothing is asked
MODEL = {"model": EngineConfig(model="any/model-8B")}


@pytest.mark.parametrize(
    ("sizes", "number", "is_real", "most"),
    [
        ([1, 2, 6], 3, True, 9),  # of all rows the sum
        ([1, 2, 6], 3, False, 18),
        ([1, 2, 6], 10, True, 60),  # so few tell nothing of the others
        ([4] * 10, 100, True, 400),
        ([3, 5] * 8, 100, True, 478),  # a mean of 4, a deviation of 1.033: 4 + 3 x 1.033 / 4 each
        ([], 10, True, None),
        ([], 0, True, 0),
    ],
)
def test_sizes_sum_up_to_at_most(sizes, number, is_real, most):
    assert sum_at_most(sizes, number, is_real) == most


def test_a_part_of_rows_is_at_most_a_little_more_than_its_share():
    assert part_at_most(1000, 0.15) == 184  # 150 and three deviations of 11.3
    assert part_at_most(10, 1.0) == 10
    assert part_at_most(4, 0.9) == 4


def ask(**known):
    prospect = Prospect(models=MODEL, names={"model": "teacher"}, samples={"questions": SAMPLE}, **known)
    prompts = one_prompt_a_row(
        prospect, "questions", lambda batch: batch.column("question").to_pylist(), 100, needs=("question",), made=None
    )
    return prompts, prompts.estimates[0]


def test_before_anything_has_run_a_request_may_generate_all_it_may():
    outlook, estimate = ask(rows={"questions": 50}, likely={"questions": 40})
    assert (outlook.rows, outlook.likely) == (50, 40)
    assert (estimate.requests, estimate.prompt_tokens, estimate.generated_tokens) == (50, 100, 5000)
    assert (estimate.model, estimate.basis, estimate.is_counted) == ("teacher", "", False)


def test_after_a_smaller_run_tokens_and_rows_are_as_it_found_them():
    run = Measured("", rows=20, kept=15, asked=Asked(10, 500, 300))  # every second row was asked about
    outlook, estimate = ask(rows={"questions": 50}, likely={"questions": 40}, measured=run)
    assert (outlook.rows, outlook.likely) == (50, 30)
    assert (estimate.requests, estimate.prompt_tokens, estimate.generated_tokens) == (50, 100, 600)
    assert estimate.basis == "10 requests"


def test_each_prompt_may_have_a_limit_of_its_own():
    prospect = Prospect(models=MODEL)
    known = {"requests": 3, "max_tokens": [10, 20, 30]}
    assert estimated(prospect, "model", ["a"] * 3, **known, is_real=True).generated_tokens == 60
    assert estimated(prospect, "model", ["a"] * 3, **known).generated_tokens == 90


def test_what_is_not_known_stays_unknown():
    outlook, estimate = ask(rows={"questions": None}, likely={"questions": None})
    assert (outlook.rows, outlook.likely) == (None, None)
    assert (estimate.requests, estimate.prompt_tokens, estimate.generated_tokens) == (None, None, None)
    assert estimate.hours(2e14) is None


def test_hours_are_those_of_two_operations_a_parameter_and_token():
    _, estimate = ask(rows={"questions": 50}, likely={"questions": 40})
    assert estimate.memory_gb == 16
    assert estimate.hours(2e14) == pytest.approx(2 * 8e9 * 5100 / 2e14 / 3600)


def test_a_step_that_asks_nobody_keeps_what_a_smaller_run_kept():
    prospect = Prospect(
        rows={"table": 50, "heldout.0": 7},
        likely={"table": 40, "heldout.0": 7},
        samples={"table": SAMPLE},
        measured=Measured("", rows=20, kept=15),
    )
    assert no_cost(None, prospect) == Outlook(50, likely=30, sample=SAMPLE)


def test_answers_that_are_not_there_are_as_long_as_those_of_the_packs():
    pack = load_pack("ethical")
    shown = [text for one in pack.demonstrations for text in (one.response, one.correction)]
    samples = {"questions": Sample(pa.table({"question": ["a", "b"], "aligned": ["x", "y"]}), is_real=True)}
    made = with_answers(Prospect(samples=samples, packs=(pack,)), "questions", 5, "aligned")
    assert made.rows.to_pylist() == [{"question": name, "aligned": max(shown, key=len)} for name in "ab"]
    assert not made.is_real
    alone = with_answers(Prospect(samples=samples), "questions", 5)
    assert alone.rows.column("response").to_pylist() == [" a a a a a"] * 2
    assert with_answers(Prospect(), "questions", 5) is None


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"not a model folder: it has no config.json"):
        parameters_of(EngineConfig(model=str(tmp_path)))


SQUAD = align.Config(
    responses="answers",
    members=tuple(AlignMember(criterion=name, aligner=name, inspector="i") for name in ("short", "long")),
    rounds=3,
    sampling=Sampling(max_tokens=70),
)


def align_outlook(texts, **facts):
    sample = Sample(pa.table({"question": ["Why?"] * len(texts), "response": texts}), is_real=True)
    prospect = Prospect(
        rows={"responses": 50},
        likely={"responses": 40.0},
        samples={"responses": sample},
        answers={"responses": "response"},
        models={f"members.{number}.aligner": MODEL["model"] for number in (0, 1)},
        **facts,
    )
    return align.estimate(SQUAD, prospect)


def test_every_turn_of_a_row_may_be_any_members():
    outlook = align_outlook(["a" * 90])  # 30 tokens, and twice as many in a rewrite: 64, and the sampling has more
    assert outlook.rows == 50
    assert [(one.part, one.requests) for one in outlook.estimates] == [("rewrite short", 75), ("rewrite long", 75)]
    assert outlook.estimates[0].prompt_tokens == 75 * 38  # "Why? [INIT] aaa… [ALIGNED]": 112 bytes
    assert outlook.estimates[0].generated_tokens == 75 * 70
    assert align_outlook(["a" * 99]).estimates[0].generated_tokens == 75 * 128


def test_members_share_what_a_smaller_run_was_asked():
    run = Measured("", rows=20, kept=20, asked=Asked(30, 900, 600))
    estimates = align_outlook(["a"], measured=run).estimates
    assert [one.generated_tokens for one in estimates] == [600, 600]  # 40 rows with 1.5 requests of 20 tokens
