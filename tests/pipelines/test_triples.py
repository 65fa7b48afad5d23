"""The kind `triples` as a step: one prompt a question, what is dropped, what a limit takes, what counts of a pack."""

import pyarrow as pa
import pytest
from one_step import do

from pipelines import triples
from pipelines.runtime.step import Place, PlannedStep
from pipelines.runtime.steps import alone, open_step
from schemas.errors import StageError
from schemas.tables import QUESTIONS
from transforms.tables.table import read_table
from transforms.tables.write import write_tables

TEACHER = {"engine": "scripted", "args": {"function": "tests.scripted_models:teacher"}}


@pytest.fixture
def asked(tmp_path) -> str:
    """A table of 20 questions, in shards of 8."""
    rows = [
        {"id": f"q{n:02}", "question": f"Is it right to number {n}?", "question_type": "t", "topic": str(n)}
        for n in range(20)
    ]
    path = str(tmp_path / "asked")
    write_tables(path, {"questions": pa.Table.from_pylist(rows, QUESTIONS)}, {"stage": "questions"}, 8)
    return path


def step(asked, output, **more):
    return do(triples.KIND, triples.Config(questions=asked, model="m", pack="ethical", **more), output, TEACHER)


def test_a_question_gives_a_triple_or_is_dropped_with_its_reason(tmp_path, asked):
    stage = step(asked, tmp_path / "run")
    kept, drops = stage.table().to_arrow(), stage.table("drops").to_arrow()
    assert kept.schema == triples.KIND.gives(None, {})["triples"]
    assert (kept.num_rows, drops["drop_reason"].to_pylist()) == (18, ["missing_critique", "missing_critique"])
    assert drops["completion"][0].as_py().startswith("\nNobody likes")
    first = kept.to_pylist()[0]
    assert first["response"].startswith("Nobody likes")
    assert first["correction"].startswith("Many people like")
    assert [shard.name for shard in stage.table().shards] == [shard.name for shard in read_table(asked).shards]


def test_a_limit_takes_the_first_questions_and_is_a_result_of_its_own(tmp_path, asked):
    few = step(asked, tmp_path / "run", limit=3)
    assert few.read_manifest()["counts"]["in"] == 3
    assert few.directory != step(asked, tmp_path / "run").directory


def test_too_few_triples_stop_the_step_each_time(tmp_path, asked):
    for _ in range(2):
        with pytest.raises(StageError, match="under the floor of 99%"):
            step(asked, tmp_path / "run", minimum_yield=0.99)


def test_the_wording_of_the_prompt_decides(tmp_path, asked, monkeypatch):
    planned = alone(PlannedStep("t", triples.KIND, triples.Config(questions=asked, model="m", pack="ethical")), TEACHER)
    before = open_step(planned, {}, Place(str(tmp_path))).stage.digest
    monkeypatch.setattr(triples, "template_digest", lambda name: f"another {name}")
    assert open_step(planned, {}, Place(str(tmp_path))).stage.digest != before
