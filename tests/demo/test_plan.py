"""The demos' plans against what their steps then ask, with the real teachers; what they train is left out."""

from pathlib import Path

import pytest

from demo.prepare import write_inputs
from pipelines.recipe.graph import Told, read_graph
from pipelines.recipe.outlook import StepOutlook, outlook_of
from pipelines.recipe.registry import STAGES
from pipelines.runtime.measured import asked_by
from pipelines.runtime.runs import Record
from pipelines.runtime.step import Place, PlannedStep
from pipelines.runtime.steps import do_steps

ASKING = ("import", "questions", "triples", "respond")


def steps_of(recipe: Path, fixtures: Path, limit: int | None = None) -> list[PlannedStep]:
    told = Told(sets={"values": {"fixtures": str(fixtures)}}, limit=limit)
    return [step for step in read_graph(str(recipe), STAGES, told).steps if step.kind.name in ASKING]


def total(outlook: StepOutlook, name: str) -> int:
    return sum(getattr(estimate, name) for estimate in outlook.estimates)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("recipe", ["demo/recipe.yaml", "demo/squad/recipe.yaml"])
def test_a_demos_plan_holds_and_is_near(recipe, root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    write_inputs(tmp_path / "fixtures", 240)
    run, place = tmp_path / "run", Place(str(tmp_path / "run"))
    whole, small = (steps_of(root / recipe, tmp_path / "fixtures", limit) for limit in (None, 20))
    before = outlook_of(whole, place)
    do_steps(small, Record(str(run)), place)
    after = outlook_of(whole, place)
    stages = do_steps(whole, Record(str(run)), place)
    asking = [pair for pair in zip(before, after, strict=True) if pair[0].estimates]
    assert len(asking) == (3 if recipe == "demo/recipe.yaml" else 7)
    for bound, likely in asking:
        asked = asked_by(stages[bound.name].directory)
        for outlook in (bound, likely):
            assert asked.requests <= total(outlook, "requests") <= 1.5 * asked.requests, outlook.name
            assert asked.prompt_tokens <= total(outlook, "prompt_tokens") <= 1.5 * asked.prompt_tokens, outlook.name
        assert asked.completion_tokens <= total(bound, "generated_tokens")
        assert total(likely, "generated_tokens") == pytest.approx(asked.completion_tokens, rel=0.2), bound.name
