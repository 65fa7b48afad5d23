"""Questions to triples: one prompt gives a misaligned response, what is wrong with it, and its correction.

    alignbeam triples runs/mine/questions/1a2b3c --pack ethical --model Qwen/Qwen3-8B -o runs/mine

Paper 000, app. D and E.1. A completion that breaks the form, or would teach nothing, is dropped with its reason.
"""

import sys
from dataclasses import dataclass, field
from functools import partial

import apache_beam as beam
import pyarrow as pa

from pipelines.runtime import entrypoint
from pipelines.runtime.estimates import Outlook, Prospect, Sample, one_prompt_a_row
from pipelines.runtime.step import Outside, StageKind, Step, always, complete_step
from schemas.criteria.pack import Pack, load_pack
from schemas.fields import Seed, pack, setting, takes, uses
from schemas.tables import QUESTIONS, TRIPLES, with_drop_reason, with_error
from transforms.engines.engine import Sampling
from transforms.generation.generate import Generate, Model
from transforms.prompts import template_digest
from transforms.synthesis.triples import TRIPLE_STOP, clean_triples, parse_triples, triple_prompts
from transforms.tables.chunks import MapBatches
from transforms.tables.read import ReadTable

TABLES = {
    "triples": TRIPLES,
    "drops": with_drop_reason(TRIPLES).append(pa.field("completion", pa.string())),
    "rejects": with_error(QUESTIONS),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The paper's own: greedy, repetition penalty 2, at most 1,500 tokens (app. C)."""

    questions: str = takes("table of questions", "id", "question", positional=True)
    model: str = uses("generator", "model that writes the triples: a folder or a hub id")
    pack: str = pack("criterion pack: a name or a file", also="--criterion")
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=1500, stop=TRIPLE_STOP))
    english: bool = setting("also drop what only makes no sense in plain English text (the paper's rules)", False)
    limit: int | None = setting("only the first N questions", None, limits="questions")
    minimum_yield: float = setting("stop if a smaller share of the rows survives", 0.1, decides=False)
    seed: Seed = setting("integer seed of everything that is sampled", 0)


def build(config: Config, step: Step, root: beam.Pipeline, skip: frozenset[int]) -> None:
    criterion, questions = load_pack(config.pack), step.table("questions")
    columns = [name for name in questions.schema.names if name in QUESTIONS.names]
    model = Model(engine=step.engine("model"), sampling=config.sampling)
    (
        root
        | "Read" >> ReadTable(questions, columns, skip)
        | "Prompt" >> MapBatches(partial(triple_prompts, pack=criterion))
        | "Generate" >> Generate(model, "triples", config.seed, step.place.cache_directory)
        | "Parse" >> MapBatches(partial(parse_triples, pack=criterion))
        | "Clean" >> MapBatches(partial(clean_triples, pack=criterion, english=config.english))
        | "Write" >> step.write(TABLES, questions)
    )


def check(config: Config) -> None:
    load_pack(config.pack)


def estimate(config: Config, prospect: Prospect) -> Outlook:
    criterion = load_pack(config.pack)
    return one_prompt_a_row(
        prospect,
        "questions",
        lambda batch: triple_prompts(batch, criterion).column("prompt").to_pylist(),
        config.sampling.max_tokens,
        needs=("question",),
        made=Sample(demonstrated(criterion)),
    )


def demonstrated(criterion: Pack) -> pa.Table:
    """Return a pack's demonstrations as rows of triples."""
    names = ("question", "response", "critique", "correction")
    return pa.table({name: [getattr(shown, name) for shown in criterion.demonstrations] for name in names})


KIND = StageKind(
    name="triples",
    about="questions to triples: a misaligned response, its critique and its correction",
    config=Config,
    do=partial(complete_step, build=build, over="questions"),
    gives=lambda config, inputs: TABLES,
    outside=lambda config: Outside({"template": template_digest("triples")}),
    check=check,
    estimate=estimate,
    runs_models=always,
)

if __name__ == "__main__":
    sys.exit(entrypoint.main(KIND, __doc__))
