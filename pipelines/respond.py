"""Have an upstream model answer questions with no principles: the responses that an aligner is to improve.

    python -m pipelines.respond runs/mine/curate/1a2b3c --model Qwen/Qwen3-0.6B -o runs/mine

Paper 000, section 3 and app. C. The answers make a table that `alignbeam align` reads.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.runtime import entrypoint
from pipelines.runtime.generating import GenerateFlags
from pipelines.runtime.stage import Stage, check_yield, complete
from schemas.command_line import setting
from schemas.tables import QUESTIONS, RESPONSES, with_drop_reason, with_error
from transforms.engines.engine import EngineConfig, PromptStyle, Sampling
from transforms.engines.identity import engine_digest
from transforms.generation.generate import Generate, Model
from transforms.prompts import render, template_digest
from transforms.tables import storage
from transforms.tables.chunks import MapBatches
from transforms.tables.columns import check_texts
from transforms.tables.marks import drop_where
from transforms.tables.read import ReadTable
from transforms.tables.table import Table, read_table
from transforms.tables.write import SplitMarks, WriteTables

ANSWER_STOP = ("\nQuestion:",)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a recipe may set. The paper's own: 256 tokens, repetition penalty 1.5 (app. C)."""

    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=256, stop=ANSWER_STOP))
    limit: int | None = setting("only the first N questions", None)
    minimum_yield: float = setting("stop if a smaller share of the rows survives", 0.1)


@dataclass(frozen=True, kw_only=True)
class Config(GenerateFlags, Settings):
    questions: str = setting("table with a column `question`", positional=True)
    model: str = setting("upstream model: a folder or a hub id", "")


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


def stage_for(config: Config, engine: EngineConfig, questions: Table) -> Stage:
    identity = {
        "questions": questions.digest,
        "template": template_digest("answer"),
        "model": engine_digest(engine),
        "sampling": asdict(config.sampling),
        "seed": config.seed,
    }
    return Stage.under(config.output, "respond", identity)


def build(
    config: Config,
    engine: EngineConfig,
    questions: Table,
    stage: Stage,
    root: beam.Pipeline,
    skip: frozenset[int],
) -> None:
    model = Model(engine=engine, sampling=config.sampling)
    kept_columns = [column for column in questions.schema if column.name in QUESTIONS.names]
    responses = pa.unify_schemas([RESPONSES, pa.schema(kept_columns)])
    schemas = {"responses": responses, "drops": with_drop_reason(responses), "rejects": with_error(responses)}
    (
        root
        | "Read" >> ReadTable(questions, [column.name for column in kept_columns], skip)
        | "Prompt" >> MapBatches(lambda batch: answer_prompts(batch, engine.style))
        | "Generate" >> Generate(model, "respond", config.seed, config.cache_directory)
        | "ReadAnswers" >> MapBatches(read_answers)
        | "Write" >> WriteTables(stage.directory, schemas, SplitMarks("responses"), questions.targets, stage.about)
    )


def run(config: Config, beam_arguments: Sequence[str] = ()) -> Stage:
    """Write the responses that are not there yet."""
    engine = config.engine_config()
    storage.check_writable(config.output)
    questions = read_table(config.questions).head(config.limit)
    check_texts(config.questions, questions.schema, ("id", "question"))
    stage = stage_for(config, engine, questions)
    complete(
        stage,
        questions,
        partial(build, config, engine, questions, stage),
        beam_arguments,
        retry_failed=config.retry_failed,
    )
    check_yield(stage, config.minimum_yield)
    return stage


def main(argv: Sequence[str] | None = None) -> int:
    return entrypoint.main(argv, Config, run, program="python -m pipelines.respond", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
