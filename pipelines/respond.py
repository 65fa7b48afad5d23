"""Have an upstream model answer questions with no principles: the responses that an aligner is to improve.

    alignbeam respond runs/mine/curate/1a2b3c --model Qwen/Qwen3-0.6B -o runs/mine

Paper 000, section 3 and app. C. The answers make a table that `alignbeam align` reads.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.runtime import entrypoint
from pipelines.runtime.estimates import Outlook, Prospect, one_prompt_a_row, with_answers
from pipelines.runtime.step import Outside, Schemas, StageKind, Step, always, complete_step
from schemas.fields import Seed, setting, takes, uses
from schemas.tables import QUESTIONS, RESPONSES, with_drop_reason, with_error
from transforms.engines.engine import EngineConfig, PromptStyle, Sampling
from transforms.generation.generate import Generate, Model
from transforms.prompts import render, template_digest
from transforms.tables.chunks import MapBatches
from transforms.tables.marks import drop_where
from transforms.tables.read import ReadTable

ANSWER_STOP = ("\nQuestion:",)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The paper's own: 256 tokens, repetition penalty 1.5 (app. C)."""

    questions: str = takes("table with a column `question`", "id", "question", positional=True)
    model: str = uses("generator", "upstream model: a folder or a hub id")
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=256, stop=ANSWER_STOP))
    limit: int | None = setting("only the first N questions", None, limits="questions")
    minimum_yield: float = setting("stop if a smaller share of the rows survives", 0.1, decides=False)
    seed: Seed = setting("integer seed of everything that is sampled", 0)


def answer_prompts(batch: pa.RecordBatch, style: PromptStyle) -> pa.RecordBatch:
    """Add the `prompt` of each question.

    For a chat model it is bare, for a base model a page that breaks off.
    """
    questions = batch.column("question").to_pylist()
    prompts = [
        question and (question.strip() if style == "chat" else render("answer", question=question.strip()))
        for question in questions
    ]
    return batch.append_column("prompt", pa.array(prompts, pa.string()))


def read_answers(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Add the completion, stripped, as `response`; mark an empty one as dropped."""
    responses = pc.utf8_trim_whitespace(batch.column("completion"))
    batch = batch.append_column("response", responses)
    return drop_where(batch, pc.equal(pc.utf8_length(responses), 0), "empty_response")


def tables_of(config: Config, inputs: Mapping[str, pa.Schema]) -> Schemas:
    """Return the tables: the columns of questions that there are, and the response; none where these are not known."""
    if "questions" not in inputs:
        return {}
    kept = [column for column in inputs["questions"] if column.name in QUESTIONS.names]
    responses = pa.unify_schemas([RESPONSES, pa.schema(kept)])
    return {"responses": responses, "drops": with_drop_reason(responses), "rejects": with_error(responses)}


def build(config: Config, step: Step, root: beam.Pipeline, skip: frozenset[int]) -> None:
    questions, engine = step.table("questions"), step.engine("model")
    columns = [name for name in questions.schema.names if name in QUESTIONS.names]
    model = Model(engine=engine, sampling=config.sampling)
    (
        root
        | "Read" >> ReadTable(questions, columns, skip)
        | "Prompt" >> MapBatches(partial(answer_prompts, style=engine.style))
        | "Generate" >> Generate(model, "respond", config.seed, step.place.cache_directory)
        | "ReadAnswers" >> MapBatches(read_answers)
        | "Write" >> step.write(tables_of(config, {"questions": questions.schema}), questions)
    )


def estimate(config: Config, prospect: Prospect) -> Outlook:
    engine = prospect.models["model"]
    assert isinstance(engine, EngineConfig)
    return one_prompt_a_row(
        prospect,
        "questions",
        lambda batch: answer_prompts(batch, engine.style).column("prompt").to_pylist(),
        config.sampling.max_tokens,
        needs=("question",),
        made=with_answers(prospect, "questions", config.sampling.max_tokens),
    )


KIND = StageKind(
    name="respond",
    about="an upstream model answers questions",
    config=Config,
    do=partial(complete_step, build=build, over="questions"),
    gives=tables_of,
    answer="response",
    outside=lambda config: Outside({"template": template_digest("answer")}),
    estimate=estimate,
    runs_models=always,
    grows=always,
)

if __name__ == "__main__":
    sys.exit(entrypoint.main(KIND, __doc__))
