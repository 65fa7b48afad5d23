"""The kind `questions` as a step: its tables, what counts of a pack, and what is refused."""

import pytest
import yaml
from one_step import do

from pipelines import questions
from pipelines.runtime.step import Place, PlannedStep
from pipelines.runtime.steps import alone, open_step
from schemas.criteria.pack import PACKS_DIR
from schemas.errors import UsageError
from schemas.settings import validated

TEACHER = {"engine": "scripted", "args": {"function": "tests.scripted_models:teacher"}}


def settings(**more) -> questions.Config:
    few = {"count": 4, "topic_rounds": 1, "topics_per_type": 2, "hints": 5}
    return validated(questions.Config, "test", {"model": "m", "pack": "ethical", **few, **more})


def digest(tmp_path, **more) -> str:
    planned = alone(PlannedStep("questions", questions.KIND, settings(**more)), TEACHER)
    return open_step(planned, {}, Place(str(tmp_path))).stage.digest


def test_the_first_so_many_questions_are_kept_with_topics_and_all_that_fell_away(tmp_path, capsys):
    stage = do(questions.KIND, settings(), tmp_path, TEACHER)
    assert list(stage.read_manifest()["tables"]) == list(questions.KIND.gives(settings(), {}))
    kept = stage.table().to_arrow()
    assert kept.num_rows == 4
    assert kept.schema == questions.KIND.gives(settings(), {})["questions"]
    asked_about = zip(kept["question_type"].to_pylist(), kept["topic"].to_pylist(), strict=True)
    topics = stage.table("topics").to_arrow()
    assert set(asked_about) <= set(zip(topics["question_type"].to_pylist(), topics["topic"].to_pylist(), strict=True))
    assert "asked for" not in capsys.readouterr().err
    again = do(questions.KIND, settings(count=500, question_rounds=1), tmp_path, TEACHER)
    assert again.directory != stage.directory
    assert f"questions: {again.table().rows} of the 500 asked for" in capsys.readouterr().err


def test_a_pack_counts_by_what_questions_are_made_of(tmp_path):
    content = yaml.safe_load((PACKS_DIR / "ethical.yaml").read_text(encoding="utf-8"))

    def of(**changed) -> str:
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump(content | changed, allow_unicode=True), encoding="utf-8")
        return digest(tmp_path, pack=str(path))

    same = of()
    assert same == digest(tmp_path)  # wherever it lies
    assert of(demonstrations=content["demonstrations"][1:]) == same
    assert of(failure="say something rude") != same
    assert digest(tmp_path, minimum_yield=0.5) == same
    assert digest(tmp_path, count=5) != same


@pytest.mark.parametrize("name", ["count", "topics_per_prompt", "examples", "hints"])
def test_numbers_are_at_least_one(name):
    with pytest.raises(UsageError, match=f"{name}: must be at least 1, not 0"):
        settings(**{name: 0})
