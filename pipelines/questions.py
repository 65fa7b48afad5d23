"""Topic-guided self-instruct: from a pack's seeds to many questions, in rounds.

    alignbeam questions --pack ethical --model Qwen/Qwen3-8B --count 1000 -o runs/mine

Topics first: every question type gets new ones. Then questions, from hints of topic and type, whose demonstrations are
drawn from what was kept so far. A round is one bounded pipeline; the loop over rounds runs here (paper 000, app. D and
E.2).
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.runtime import entrypoint
from pipelines.runtime.estimates import Outlook, Prospect, Sample, estimated
from pipelines.runtime.stage import Stage, complete, identity_digest
from pipelines.runtime.step import Outside, StageKind, Step, always
from schemas.console import messages
from schemas.criteria.pack import Pack, load_pack
from schemas.errors import StageError
from schemas.fields import Seed, pack, setting, uses
from schemas.tables import QUESTIONS, TOPICS, with_drop_reason, with_error
from transforms.engines.engine import Sampling
from transforms.generation.generate import Generate, Model
from transforms.prompts import template_digest
from transforms.synthesis.growth import (
    likely_lines,
    likely_question_prompts,
    likely_topic_prompts,
    question_growth,
    topic_growth,
)
from transforms.synthesis.questions import (
    QUESTION_CANDIDATES,
    drop_repeated_questions,
    filter_questions,
    parse_questions,
    question_prompts,
    seed_questions,
)
from transforms.synthesis.rounds import Candidates, Round
from transforms.synthesis.topics import TOPIC_CANDIDATES, balance_topics, parse_topics, seed_topics, topic_prompts
from transforms.tables import storage
from transforms.tables.chunks import NOTHING_ASKED, Chunk, MapBatches
from transforms.tables.read import ReadTable
from transforms.tables.table import MANIFEST, Table, read_table
from transforms.tables.write import WriteTables, write_tables

SHARD_ROWS = 8192
PROMPTS_PER_SHARD = 1024
SURPLUS = 1.5  # times the prompts that would do if every line were kept
LONGER_LISTS = 1.1  # times the topics that a prompt asks for: a plan's bound, for some lists run on
LEAST_SURVIVAL = 0.6  # of the questions asked for: a plan's bound

TABLES = {
    "questions": QUESTIONS,
    "topics": TOPICS,
    "drops": with_drop_reason(QUESTIONS),
    "dropped_topics": with_drop_reason(TOPICS),
    "rejects": with_error(QUESTIONS),
}

Answer = Callable[[Round], pa.Table]  # the candidates of a round


@dataclass(frozen=True, kw_only=True)
class Config:
    """The paper's own: sampled at temperature 1, at most 300 tokens (app. C)."""

    model: str = uses("generator", "model that writes the questions: a folder or a hub id")
    pack: str = pack("criterion pack: a name or a file", "name", "failure", "seeds", "banned_words", also="--criterion")
    count: int = setting("stop at so many questions", 1000, rows=True)
    topic_rounds: int = setting("rounds of new topics", 2)
    question_rounds: int = setting("rounds of new questions, at most", 20)
    topics_per_type: int | None = setting("at most so many topics per question type", None)
    topics_per_prompt: int = setting("how many topics a prompt asks for", 10)
    examples: int = setting("demonstrations in a prompt", 5)
    hints: int = setting("questions that a prompt asks for", 15)
    english: bool = setting("also drop what only makes no sense in plain English text", False)
    always_drop_last: bool = setting("drop the last line of a completion even if it ended by itself", False)
    minimum_yield: float = setting("stop if a smaller share of the candidates survives", 0.05, decides=False)
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=300, temperature=1.0))
    seed: Seed = setting("integer seed of everything that is sampled", 0)

    def __post_init__(self) -> None:
        for name in ("count", "topics_per_prompt", "examples", "hints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, not {getattr(self, name)}")


def ask(config: Config, step: Step, round: Round) -> pa.Table:
    """Return the candidates of a round.

    They are made in a directory of the round's own that outlives an interruption.
    """
    if not round.prompts.num_rows:
        return round.schema.empty_table()
    identity = {"prompts": round.prompts.column("id").to_pylist(), "stage": step.stage.digest}
    directory = storage.join(step.stage.directory, "rounds", f"{round.name}-{identity_digest(identity)}")
    round_stage = Stage(directory, round.name, identity)
    path = storage.join(directory, "prompts")
    write_tables(path, {"prompts": pa.Table.from_batches([round.prompts])}, {"stage": round.name}, PROMPTS_PER_SHARD)
    prompts = read_table(path)
    model = Model(engine=step.engine("model"), sampling=config.sampling)
    generate = Generate(model, round.name, config.seed, step.place.cache_directory)
    complete(
        round_stage,
        prompts,
        partial(build, round, prompts, generate, round_stage),
        step.beam_arguments,
        retry_failed=step.place.retry_failed,
    )
    return pa.concat_tables([round_stage.table(name).to_arrow() for name in ("candidates", "rejects")])


def build(
    round: Round, prompts: Table, generate: Generate, stage: Stage, root: beam.Pipeline, skip: frozenset[int]
) -> None:
    schemas = {"candidates": round.schema, "rejects": round.schema}
    (
        root
        | "Read" >> ReadTable(prompts, skip=skip)
        | "Generate" >> generate
        | "Parse" >> MapBatches(round.parse)
        | "Write" >> WriteTables(stage.directory, schemas, split_failed, prompts.targets, stage.about)
    )


def split_failed(chunk: Chunk) -> dict[str, pa.RecordBatch]:
    """Part a round's chunk into rows that failed and all others, dropped ones too."""
    is_failed = pc.is_valid(chunk.batch.column("error"))
    return {"candidates": chunk.batch.filter(pc.invert(is_failed)), "rejects": chunk.batch.filter(is_failed)}


def collect_topics(config: Config, criterion: Pack, answer: Answer) -> Candidates:
    """Return the topics of all rounds, balanced over the question types."""
    topics = Candidates(TOPIC_CANDIDATES.empty_table()).plus(seed_topics(criterion))
    parse = partial(parse_topics, english=config.english)
    for number in range(1, config.topic_rounds + 1):
        prompts = topic_prompts(
            topics.kept, round=number, seed=config.seed, examples=config.examples, count=config.topics_per_prompt
        )
        topics = topics.plus(answer(Round(f"topics-{number}", prompts, parse, TOPIC_CANDIDATES)))
    return Candidates(balance_topics(topics.table, at_most=config.topics_per_type))


def collect_questions(config: Config, criterion: Pack, topics: pa.Table, answer: Answer) -> Candidates:
    """Return the questions of all rounds.

    A round asks for what is still missing, and a little more.
    """
    questions = Candidates(QUESTION_CANDIDATES.empty_table()).plus(seed_questions(criterion))
    parse = partial(
        read_questions, criterion=criterion, english=config.english, always_drop_last=config.always_drop_last
    )
    for number in range(1, config.question_rounds + 1):
        kept = questions.kept
        if kept.num_rows >= config.count:
            break
        prompts = question_prompts(
            topics, kept, criterion, round=number, seed=config.seed, examples=config.examples, hints=config.hints
        )
        missing = config.count - kept.num_rows
        prompts = prompts.slice(0, math.ceil(SURPLUS * missing / config.hints))
        if not prompts.num_rows:
            break
        candidates = answer(Round(f"questions-{number}", prompts, parse, QUESTION_CANDIDATES))
        questions = questions.plus(drop_repeated_questions(candidates, kept).sort_by("id"))
        check_survival(number, questions.counts(), config.minimum_yield)
    return questions


def read_questions(batch: pa.RecordBatch, *, criterion: Pack, english: bool, always_drop_last: bool) -> pa.RecordBatch:
    """Return the candidates in a batch of completions, marked by the filters for questions."""
    return filter_questions(parse_questions(batch, always_drop_last=always_drop_last), criterion, english=english)


def check_survival(number: int, counts: dict, minimum: float) -> None:
    """Raise StageError where hardly a candidate has survived, before the next round costs as much."""
    if counts["kept"] > minimum * counts["in"]:
        return
    reasons = ", ".join(f"{rows} {reason}" for reason, rows in [*counts["drops"].items(), *counts["rejects"].items()])
    raise StageError(
        f"questions, round {number}: {counts['kept']} of {counts['in']} candidates survived, under the floor of "
        f"{minimum:.0%}: {reasons}; lower minimum_yield to go on all the same"
    )


def write(stage: Stage, topics: Candidates, questions: Candidates, count: int) -> None:
    """Write the first `count` questions, the topics, and what became of all other rows."""
    questions = questions.plus(topics.failed)
    kept = questions.kept.slice(0, count)
    if kept.num_rows == count:  # what failed was asked for again, so no question is missing
        questions = questions.without_failures()
    tables = {
        "questions": kept,
        "topics": topics.kept,
        "drops": questions.dropped,
        "dropped_topics": topics.dropped,
        "rejects": questions.failed,
    }
    storage.remove(storage.join(stage.directory, MANIFEST))
    write_tables(stage.directory, tables, stage.about, SHARD_ROWS, questions.counts(at_most=count))


def shortfall(config: Config, kept: int, topics: int) -> str | None:
    """Return what to tell and to set where fewer questions are kept than asked for.

    It is None where none are missing.
    """
    if kept >= config.count:
        return None
    if topics < config.count:
        return (
            f"questions: {kept:,} of the {config.count:,} asked for: there are {topics:,} topics, and each gets one "
            f"question; raise topic_rounds (now {config.topic_rounds}) or topics_per_type "
            f"(now {config.topics_per_type or 'without limit'})"
        )
    return (
        f"questions: {kept:,} of the {config.count:,} asked for: the rounds were used up; raise question_rounds "
        f"(now {config.question_rounds})"
    )


def do(config: Config, step: Step) -> None:
    """Write the questions and topics; rounds that are done are not done again.

    Where fewer are kept than asked for, that is said, and what failed counts as rejects: `retry_failed` asks for it
    again.
    """
    criterion, stage = load_pack(config.pack), step.stage
    is_short = stage.is_done() and stage.read_manifest()["counts"]["kept"] < config.count
    if not stage.is_done() or (step.place.retry_failed and is_short):
        answer = partial(ask, config, step)
        topics = collect_topics(config, criterion, answer)
        write(stage, topics, collect_questions(config, criterion, topics.kept, answer), config.count)
    if text := shortfall(config, stage.read_manifest()["counts"]["kept"], stage.table("topics").rows):
        messages.print(text, style="yellow", soft_wrap=True)


def check(config: Config) -> None:
    load_pack(config.pack)


def estimate(config: Config, prospect: Prospect) -> Outlook:
    """Return an estimate of the topic rounds and one of the question rounds."""
    criterion, run, limit = load_pack(config.pack), prospect.measured, config.sampling.max_tokens
    growth = partial(
        topic_growth,
        criterion,
        rounds=config.topic_rounds,
        examples=config.examples,
        per_prompt=config.topics_per_prompt,
        per_type=config.topics_per_type,
    )
    (likely_asked, likely_topics), (asked, topics) = growth(), growth(longer=LONGER_LISTS)
    if run and "topics" in run.parts:  # they do not depend on how many questions are wanted
        likely_asked = asked = run.parts["topics"].requests
        likely_topics = topics = run.tables["topics"]
    about_topics = estimated(
        prospect,
        "model",
        likely_topic_prompts(criterion, examples=config.examples, per_prompt=config.topics_per_prompt),
        part="topics",
        requests=asked,
        likely=likely_asked,
        max_tokens=limit,
        asked=run.parts.get("topics", NOTHING_ASKED) if run else NOTHING_ASKED,
    )
    rounds = partial(
        question_growth,
        kept=len(criterion.seeds),
        count=config.count,
        rounds=config.question_rounds,
        hints=config.hints,
        surplus=SURPLUS,
    )
    likely_asked, likely = rounds(topics=likely_topics, survival=1.0)
    about_questions = estimated(
        prospect,
        "model",
        likely_question_prompts(criterion, examples=config.examples, hints=config.hints),
        part="questions",
        requests=rounds(topics=topics, survival=LEAST_SURVIVAL)[0],
        likely=likely_asked,
        max_tokens=limit,
        asked=run.parts.get("questions", NOTHING_ASKED) if run else NOTHING_ASKED,
    )
    if run and not about_questions.basis:
        line_tokens = fmean(prospect.counter("model")(likely_lines(criterion, first=config.examples + 1)))
        tokens = min(limit, config.hints * line_tokens)
        about_questions = replace(about_questions, generated_tokens=round(likely_asked * tokens), basis="the seeds")
    text = shortfall(config, min(likely_topics, config.count), likely_topics)
    return Outlook(
        min(config.count, topics),
        (about_topics, about_questions),
        likely,
        Sample(seed_questions(criterion)),
        notes=(text,) if text else (),
    )


KIND = StageKind(
    name="questions",
    about="from a criterion's seeds to many questions, in rounds",
    config=Config,
    do=do,
    gives=lambda config, inputs: TABLES,
    outside=lambda config: Outside({"templates": [template_digest("topics"), template_digest("questions")]}),
    check=check,
    estimate=estimate,
    runs_models=always,
    check_yield=lambda config, stage: None,  # each round checks its own, because only so many questions are kept
)

if __name__ == "__main__":
    sys.exit(entrypoint.main(KIND, __doc__))
