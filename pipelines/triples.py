"""Questions to triples: one prompt gives a misaligned response, what is wrong with it, and its correction.

    python -m pipelines.triples runs/mine/questions/1a2b3c --criterion ethical --model Qwen/Qwen3-8B -o runs/mine

Paper 000, app. D and E.1. A completion that breaks the form, or would teach nothing, is dropped with its reason.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

import apache_beam as beam
import pyarrow as pa

from pipelines.runtime import entrypoint
from pipelines.runtime.generating import GenerateFlags
from pipelines.runtime.stage import Stage, check_yield, complete
from schemas.command_line import setting
from schemas.criteria.pack import Pack, load_pack, pack_digest
from schemas.tables import QUESTIONS, TRIPLES, with_drop_reason, with_error
from transforms.engines.engine import EngineConfig, Sampling
from transforms.engines.identity import engine_digest
from transforms.generation.generate import Generate, Model
from transforms.prompts import template_digest
from transforms.synthesis.triples import TRIPLE_STOP, clean_triples, parse_triples, triple_prompts
from transforms.tables import storage
from transforms.tables.chunks import MapBatches
from transforms.tables.columns import check_texts
from transforms.tables.read import ReadTable
from transforms.tables.table import Table, read_table
from transforms.tables.write import SplitMarks, WriteTables

DROPS = with_drop_reason(TRIPLES).append(pa.field("completion", pa.string()))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a recipe may set. The paper's own: greedy, repetition penalty 2, at most 1,500 tokens (app. C)."""

    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=1500, stop=TRIPLE_STOP))
    english: bool = setting("also drop what only makes no sense in plain English text (the paper's rules)", False)
    minimum_yield: float = setting("stop if a smaller share of the rows survives", 0.1)
    limit: int | None = setting("only the first N questions", None)


@dataclass(frozen=True, kw_only=True)
class Config(GenerateFlags, Settings):
    questions: str = setting("table of questions", positional=True)
    criterion: str = setting("criterion pack: a name or a file")
    model: str = setting("model that writes the triples: a folder or a hub id", "")


def stage_for(config: Config, pack: Pack, engine: EngineConfig, questions: Table) -> Stage:
    identity = {
        "questions": questions.digest,
        "pack": pack_digest(pack),
        "template": template_digest("triples"),
        "model": engine_digest(engine),
        "sampling": asdict(config.sampling),
        "english": config.english,
        "seed": config.seed,
    }
    return Stage.under(config.output, "triples", identity)


def build(
    config: Config,
    pack: Pack,
    engine: EngineConfig,
    questions: Table,
    stage: Stage,
    root: beam.Pipeline,
    skip: frozenset[int],
) -> None:
    model = Model(engine=engine, sampling=config.sampling)
    columns = [name for name in questions.schema.names if name in QUESTIONS.names]
    schemas = {"triples": TRIPLES, "drops": DROPS, "rejects": with_error(QUESTIONS)}
    (
        root
        | "Read" >> ReadTable(questions, columns, skip)
        | "Prompt" >> MapBatches(lambda batch: triple_prompts(batch, pack))
        | "Generate" >> Generate(model, "triples", config.seed, config.cache_directory)
        | "Parse" >> MapBatches(lambda batch: parse_triples(batch, pack))
        | "Clean" >> MapBatches(lambda batch: clean_triples(batch, pack, english=config.english))
        | "Write" >> WriteTables(stage.directory, schemas, SplitMarks("triples"), questions.targets, stage.about)
    )


def run(config: Config, beam_arguments: Sequence[str] = ()) -> Stage:
    """Write the triples that are not there yet."""
    pack = load_pack(config.criterion)
    engine = config.engine_config()
    storage.check_writable(config.output)
    questions = read_table(config.questions).head(config.limit)
    check_texts(config.questions, questions.schema, ("id", "question"))
    stage = stage_for(config, pack, engine, questions)
    complete(
        stage,
        questions,
        partial(build, config, pack, engine, questions, stage),
        beam_arguments,
        retry_failed=config.retry_failed,
    )
    check_yield(stage, config.minimum_yield)
    return stage


def main(argv: Sequence[str] | None = None) -> int:
    return entrypoint.main(argv, Config, run, program="python -m pipelines.triples", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
