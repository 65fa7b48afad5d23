"""Topic-guided self-instruct: from a pack's seeds to many questions, in rounds.

    python -m pipelines.questions --criterion ethical --model Qwen/Qwen3-8B --count 1000 -o runs/mine

Topics first: every question type gets new ones. Then questions, from hints of topic and type, whose demonstrations are
drawn from what was kept so far. A round is one bounded pipeline; the loop over rounds runs here (paper 000, app. D and
E.2).
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.runtime import entrypoint
from pipelines.runtime.stage import Stage, announce, complete, identity_digest
from schemas.command_line import setting
from schemas.console import messages
from schemas.criteria.pack import Pack, load_pack, pack_digest
from schemas.errors import StageError
from schemas.settings import validated
from schemas.tables import QUESTIONS, TOPICS, with_drop_reason, with_error
from transforms.engines.engine import EngineConfig, Sampling
from transforms.engines.identity import engine_digest
from transforms.generation.generate import Generate, Model
from transforms.prompts import template_digest
from transforms.synthesis.questions import (
    QUESTION_CANDIDATES,
    drop_repeated_questions,
    filter_questions,
    parse_questions,
    question_prompts,
    seed_questions,
)
from transforms.synthesis.topics import TOPIC_CANDIDATES, balance_topics, parse_topics, seed_topics, topic_prompts
from transforms.tables import storage
from transforms.tables.chunks import MapBatches
from transforms.tables.read import ReadTable
from transforms.tables.table import MANIFEST, read_table
from transforms.tables.write import WriteTables, write_tables

SHARD_ROWS = 8192
PROMPTS_PER_SHARD = 1024
SURPLUS = 1.5  # prompts sent over those that would do if every line were kept


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a recipe may set. The paper's own: sampled at temperature 1, at most 300 tokens (app. C)."""

    count: int = setting("stop at so many questions", 1000)
    topic_rounds: int = setting("rounds of new topics", 2)
    question_rounds: int = setting("rounds of new questions, at most", 20)
    topics_per_type: int | None = setting("at most so many topics per question type", None)
    topics_per_prompt: int = setting("how many topics a prompt asks for", 10)
    examples: int = setting("demonstrations in a prompt", 5)
    hints: int = setting("questions that a prompt asks for", 15)
    english: bool = setting("also drop what only makes no sense in plain English text", False)
    always_drop_last: bool = setting("drop the last line of a completion even if it ended by itself", False)
    minimum_yield: float = setting("stop if a smaller share of the candidates survives", 0.05)
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=300, temperature=1.0))

    def __post_init__(self) -> None:
        for name in ("count", "topics_per_prompt", "examples", "hints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    criterion: str = setting("criterion pack: a name or a file")
    model: str = setting("model that writes the questions: a folder or a hub id", "")
    output: str = setting("run directory", short="-o")
    cache: str = setting("directory of the response cache (default: OUTPUT/cache)", "")
    seed: int = setting("integer seed of everything that is sampled", 0)
    engine: dict[str, Any] = field(default_factory=dict)  # settings of transforms.engines.engine.EngineConfig
    retry_failed: bool = setting("where too few were kept, ask again for what failed; later rounds follow", False)


def stage_for(config: Config, pack: Pack, engine: EngineConfig) -> Stage:
    settings = {item: getattr(config, item) for item in Settings.__dataclass_fields__ if item != "minimum_yield"}
    identity = settings | {
        "pack": pack_digest(pack, "name", "failure", "seeds", "banned_words"),
        "templates": [template_digest("topics"), template_digest("questions")],
        "model": engine_digest(engine),
        "sampling": asdict(config.sampling),
        "seed": config.seed,
    }
    return Stage.under(config.output, "questions", identity)


@dataclass(frozen=True)
class Rounds:
    """Runs the rounds of one stage, each in a directory of its own that outlives an interruption."""

    config: Config
    pack: Pack
    engine: EngineConfig
    stage: Stage
    beam_arguments: Sequence[str]

    def ask(
        self, name: str, prompts: pa.RecordBatch, parse: Callable[[pa.RecordBatch], pa.RecordBatch], schema: pa.Schema
    ) -> pa.Table:
        """One round: answer the prompts, parse the completions into candidates, and give those back."""
        if not prompts.num_rows:
            return schema.empty_table()
        identity = {"prompts": list(prompts.column("id").to_pylist()), "stage": self.stage.digest}
        directory = storage.join(self.stage.directory, "rounds", f"{name}-{identity_digest(identity)}")
        done = Stage(directory, name, identity)
        asked = storage.join(directory, "prompts")
        write_tables(asked, {"prompts": pa.Table.from_batches([prompts])}, {"stage": name}, PROMPTS_PER_SHARD)
        table = read_table(asked)
        complete(
            done,
            table,
            partial(self.build, done, table, parse, schema),
            self.beam_arguments,
            retry_failed=self.config.retry_failed,
        )
        return pa.concat_tables([done.table(name).to_arrow() for name in ("candidates", "rejects")])

    def build(
        self,
        done: Stage,
        prompts: Any,
        parse: Callable[[pa.RecordBatch], pa.RecordBatch],
        schema: pa.Schema,
        root: beam.Pipeline,
        skip: frozenset[int],
    ) -> None:
        config = self.config
        cache = config.cache or storage.join(config.output, "cache")
        (
            root
            | "Read" >> ReadTable(prompts, skip=skip)
            | "Generate" >> Generate(Model(engine=self.engine, sampling=config.sampling), done.name, config.seed, cache)
            | "Parse" >> MapBatches(parse)
            | "Write"
            >> WriteTables(
                done.directory,
                {"candidates": schema, "rejects": schema},
                _part_rejects,
                prompts.targets,
                done.about,
            )
        )

    def topics(self) -> pa.Table:
        """Topics of all rounds, with the drop reasons of those that did not make it."""
        config = self.config
        topics = _widen(seed_topics(self.pack), TOPIC_CANDIDATES)
        for round in range(1, config.topic_rounds + 1):
            prompts = topic_prompts(
                _live(topics).select(TOPICS.names),
                round=round,
                seed=config.seed,
                examples=config.examples,
                count=config.topics_per_prompt,
            )
            found = self.ask(f"topics-{round}", prompts, self._parse_topics, TOPIC_CANDIDATES)
            topics = pa.concat_tables([topics, found])
        return balance_topics(topics, at_most=config.topics_per_type)

    def questions(self, topics: pa.Table) -> pa.Table:
        """Questions of all rounds, with the drop reasons of those that did not make it, in the order of rounds."""
        config = self.config
        questions = _widen(seed_questions(self.pack), QUESTION_CANDIDATES)
        for round in range(1, config.question_rounds + 1):
            kept = _live(questions).select(QUESTIONS.names)
            missing = config.count - kept.num_rows
            if missing <= 0:
                break
            prompts = question_prompts(
                topics, kept, self.pack, round=round, seed=config.seed, examples=config.examples, hints=config.hints
            )
            prompts = prompts.slice(0, math.ceil(SURPLUS * missing / config.hints))
            if not prompts.num_rows:
                break
            found = self.ask(f"questions-{round}", prompts, self._parse_questions, QUESTION_CANDIDATES)
            found = drop_repeated_questions(found, kept).sort_by("id")
            questions = pa.concat_tables([questions, found])
            self._check_yield(round, questions)
        return questions

    def _check_yield(self, round: int, questions: pa.Table) -> None:
        """StageError where hardly a candidate has survived so far, before the next round costs as much."""
        kept = _live(questions).num_rows
        if kept > self.config.minimum_yield * questions.num_rows:
            return
        reasons = Counter([*questions["drop_reason"].to_pylist(), *questions["error"].to_pylist()])
        named = ", ".join(f"{rows} {reason}" for reason, rows in reasons.most_common() if reason)
        raise StageError(
            f"questions, round {round}: {kept} of {questions.num_rows} candidates survived, under the floor of "
            f"{self.config.minimum_yield:.0%}: {named}; lower minimum_yield to go on all the same"
        )

    def _parse_topics(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return parse_topics(batch, english=self.config.english)

    def _parse_questions(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        candidates = parse_questions(batch, always_drop_last=self.config.always_drop_last)
        return filter_questions(candidates, self.pack, english=self.config.english)


def _part_rejects(chunk: Any) -> dict[str, pa.RecordBatch]:
    failed = pc.is_valid(chunk.batch.column("error"))
    return {"candidates": chunk.batch.filter(pc.invert(failed)), "rejects": chunk.batch.filter(failed)}


def _widen(table: pa.Table, schema: pa.Schema) -> pa.Table:
    for field_ in schema:
        if field_.name not in table.schema.names:
            table = table.append_column(field_, pa.nulls(table.num_rows, field_.type))
    return table.select(schema.names)


def _live(candidates: pa.Table) -> pa.Table:
    return candidates.filter(pc.and_(pc.is_null(candidates["drop_reason"]), pc.is_null(candidates["error"])))


def _without_errors(questions: pa.Table) -> pa.Table:
    """The table with every `error` as a drop reason: what failed was asked for again, so no question is missing."""
    reasons = pc.coalesce(questions["drop_reason"], questions["error"])
    questions = questions.set_column(questions.schema.names.index("drop_reason"), "drop_reason", reasons)
    nothing = pa.nulls(questions.num_rows, pa.string())
    return questions.set_column(questions.schema.names.index("error"), "error", nothing)


def _reasons(column: pa.ChunkedArray) -> dict[str, int]:
    return dict(Counter(reason.split(":")[0] for reason in column.to_pylist()).most_common())


def shortfall(settings: Settings, kept: int, topics: int) -> str | None:
    """What to say, and to set, where fewer questions are kept than asked for; None where there are enough."""
    if kept >= settings.count:
        return None
    if topics < settings.count:
        return (
            f"questions: {kept:,} of the {settings.count:,} asked for: there are {topics:,} topics, and each gets one "
            f"question; raise topic_rounds (now {settings.topic_rounds}) or topics_per_type "
            f"(now {settings.topics_per_type or 'without limit'})"
        )
    return (
        f"questions: {kept:,} of the {settings.count:,} asked for: the rounds were used up; raise question_rounds "
        f"(now {settings.question_rounds})"
    )


def run(config: Config, beam_arguments: Sequence[str] = ()) -> Stage:
    """Write the questions and topics; rounds that are done are not done again.

    Where fewer are kept than asked for, that is said, and what failed counts as rejects: `retry_failed` asks for it
    again.
    """
    pack = load_pack(config.criterion)
    engine = validated(EngineConfig, "engine", {"model": config.model, **config.engine})
    storage.check_writable(config.output)
    stage = stage_for(config, pack, engine)
    if not stage.is_done() or (config.retry_failed and stage.read_manifest()["counts"]["kept"] < config.count):
        announce(stage)
        rounds = Rounds(config, pack, engine, stage, beam_arguments)
        topics = rounds.topics()
        kept_topics = _live(topics).select(TOPICS.names)
        failed_topics = topics.filter(pc.is_valid(topics["error"]))
        questions = rounds.questions(kept_topics)
        questions = pa.concat_tables([questions, _widen(failed_topics, QUESTION_CANDIDATES)])
        live = _live(questions).select(QUESTIONS.names).slice(0, config.count)
        if live.num_rows == config.count:
            questions = _without_errors(questions)
        dropped = questions.filter(pc.is_valid(questions["drop_reason"]))
        failed = questions.filter(pc.is_valid(questions["error"]))
        counts = {
            "in": questions.num_rows,
            "kept": live.num_rows,
            "drops": _reasons(dropped["drop_reason"]),
            "rejects": _reasons(failed["error"]),
        }
        if surplus := _live(questions).num_rows - live.num_rows:
            counts["drops"]["over_count"] = surplus
        dropped_topics = topics.filter(pc.is_valid(topics["drop_reason"]))
        storage.remove(storage.join(stage.directory, MANIFEST))
        write_tables(
            stage.directory,
            {
                "questions": live,
                "topics": kept_topics,
                "drops": dropped.select(with_drop_reason(QUESTIONS).names),
                "dropped_topics": dropped_topics.select(with_drop_reason(TOPICS).names),
                "rejects": failed.select(with_error(QUESTIONS).names),
            },
            stage.about,
            SHARD_ROWS,
            counts,
        )
    if text := shortfall(config, stage.read_manifest()["counts"]["kept"], stage.table("topics").rows):
        messages.print(text, style="yellow", soft_wrap=True)
    return stage


def main(argv: Sequence[str] | None = None) -> int:
    return entrypoint.main(argv, Config, run, program="python -m pipelines.questions", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
