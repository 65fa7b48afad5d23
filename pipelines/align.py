"""Align a table of responses with a squad: score each, rewrite those that fall short, keep what is better.

    python -m pipelines.align runs/mine/respond/1a2b3c --config align.yaml -o runs/mine

This is the stage alone: `align.yaml` has the squad's members and rules under `squad`, as a squad file has them, and the
table is one that a stage made. `alignbeam align` (pipelines.commands.align) takes a corpus of any form and a squad file
or flags, and scores all rows first where the routing asks for it.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial

import apache_beam as beam
import pyarrow as pa

from pipelines.runtime import entrypoint, runs
from pipelines.runtime.at_work import at_work
from pipelines.runtime.estimates import SAMPLE_ROWS, Estimate, parameters_of, tokens_of
from pipelines.runtime.generating import GenerateFlags
from pipelines.runtime.stage import Stage, complete
from schemas import tables
from schemas.command_line import check_limit, setting
from schemas.criteria.pack import pack_digest
from schemas.errors import UsageError
from schemas.squads import Squad, SquadRules
from transforms.alignment.align import Align
from transforms.alignment.members import Member, criteria_of, members_of
from transforms.alignment.orders import AddOrders, by_corpus_mean, by_sorted_batches
from transforms.alignment.trajectories import SplitAligned
from transforms.engines.engine import Sampling
from transforms.engines.identity import engine_digest
from transforms.engines.inspector import inspector_digest
from transforms.synthesis.triples import rewrite_prompts
from transforms.tables import storage
from transforms.tables.chunks import Chunk, MapBatches
from transforms.tables.columns import bring_back, check_free, check_texts, set_aside
from transforms.tables.read import JoinRows, ReadTable
from transforms.tables.table import Table, read_table
from transforms.tables.write import WriteTables
from transforms.training_data.aligner_format import aligner_prompt

READ = tables.RESPONSES.names  # of the corpus; its other columns pass through


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a recipe may set, beside the rules of schemas.squads."""

    bf16: bool = setting("inspectors score in bfloat16: faster, and within 0.01 of float32", False)
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True, kw_only=True)
class Flags(GenerateFlags, Settings):
    """What the stage takes, and `alignbeam align` as well."""

    model: str = setting("the model of a prompted aligner", "")
    limit: int | None = setting("align only the first N rows", None)

    def __post_init__(self) -> None:
        check_limit(self.limit)


@dataclass(frozen=True, kw_only=True)
class Config(Flags):
    corpus: str = setting("table of responses that a stage made", positional=True)
    squad: Squad
    scores: str = setting("what pipelines.score made of the table (routings corpus-mean and paper-002)", "")
    stage: str = "align"  # what the stage is called, where a run aligns the same responses twice


def transform_of(config: Config) -> Align:
    """Return the transform with the squad's models; UsageError as in `members_of`."""
    members = members_of(config.squad, config.engine, config.model, config.sampling)
    return Align(members, config.squad, seed=config.seed, cache=config.cache_directory, bf16=config.bf16)


def check_columns(path: str, schema: pa.Schema, criteria: tuple[str, ...]) -> None:
    """Raise UsageError where a text is missing, or a column has a name that aligning gives."""
    check_texts(path, schema, READ)
    check_free(path, schema, tables.aligned(pa.schema([]), criteria).names, "align")


def check_corpus_is_same(config: Config) -> None:
    """Raise UsageError where the run directory holds the results of another corpus."""
    before = runs.Record(config.output).identities().get(config.stage, {}).get("corpus")
    now = storage.relative(config.corpus, config.output)
    if before and before != now and all(path.startswith("/") or "://" in path for path in (before, now)):
        raise UsageError(f"{config.output}: holds the results of {before}, not of {now}; choose another output")


def estimate(corpus: Table, members: Sequence[Member]) -> list[Estimate]:
    """Return one estimate per member, as if every row were rewritten.

    How many will be rewritten is known only later.
    """
    sample = corpus.sample(SAMPLE_ROWS, ["question", "response"]).to_batches()
    estimates = []
    for member in members:
        sizes = [tokens_of(prompt) for batch in sample for prompt in estimated_prompts(batch, member)]
        mean = sum(sizes) / max(1, len(sizes))
        estimates.append(
            Estimate(
                step=f"rewrite {member.criterion}",
                model=member.model.engine.model,
                rows=corpus.rows,
                prompt_tokens=round(mean * corpus.rows),
                generated_tokens=corpus.rows * member.model.sampling.max_tokens,
                parameters=parameters_of(member.model.engine),
            )
        )
    return estimates


def estimated_prompts(batch: pa.RecordBatch, member: Member) -> list[str]:
    """Return what a member's model would be sent for each row.

    A row that a prompted model is not asked about is left out.
    """
    if member.pack is not None:
        return list(filter(None, rewrite_prompts(batch, member.pack).column("prompt").to_pylist()))
    return [aligner_prompt(row["question"] or "", row["response"] or "") for row in batch.to_pylist()]


def stage_for(config: Config, align: Align, corpus: Table) -> Stage:
    """Return the stage of an alignment.

    As shards land, it goes on with the new ones, unless the routing asks for the scores of all.
    """
    squad = config.squad
    identity = {
        "corpus": storage.relative(config.corpus, config.output),
        "schema": corpus.schema.to_string(),
        "scored": corpus.digest if squad.needs_all_scores else "",
        "limit": config.limit,
        "members": [
            {
                "criterion": member.criterion,
                "inspector": inspector_digest(member.inspector),
                "aligner": engine_digest(member.model.engine, member.model.adapter),
                "pack": member.pack and pack_digest(member.pack),
                "sampling": asdict(member.model.sampling),
                "threshold": member.threshold,
            }
            for member in align.members
        ],
        **{item.name: getattr(squad, item.name) for item in fields(SquadRules)},
        "guard": squad.has_guard,
        "bf16": config.bf16,
        "seed": config.seed,
    }
    return Stage.under(config.output, config.stage, identity, corpus.digest, kind="align")


def read_scores(config: Config, corpus: Table) -> Table | None:
    """Return the scores that the routing asks for, if any, their shards numbered as the corpus's."""
    if not config.squad.needs_all_scores:
        return None
    if not config.scores:
        raise UsageError(
            f"scores: routing {config.squad.routing} needs the scores of all rows; run python -m pipelines.score and "
            "name its directory, or use alignbeam align"
        )
    scores = read_table(config.scores, "scores")
    if [shard.rows for shard in scores.shards] != [shard.rows for shard in corpus.shards]:
        raise UsageError(f"{config.scores}: has other rows than {config.corpus}; score that table anew")
    pairs = zip(scores.shards, corpus.shards, strict=True)
    return replace(scores, shards=tuple(replace(shard, index=ours.index) for shard, ours in pairs))


@dataclass(frozen=True)
class SplitCorpus:
    """The tables of SplitAligned, `aligned` with the corpus's other columns as they came."""

    rounds: int
    names: Mapping[int, str]

    def __call__(self, chunk: Chunk) -> dict[str, pa.RecordBatch]:
        parts = SplitAligned(self.rounds, self.names)(chunk)
        return parts | {"aligned": bring_back(parts["aligned"])}


def build(
    align: Align,
    corpus: Table,
    scores: Table | None,
    stage: Stage,
    root: beam.Pipeline,
    skip: frozenset[int],
    *,
    partial_task: bool = False,
) -> None:
    schemas = {
        "aligned": tables.aligned(corpus.schema, criteria_of(align.members)),
        "trajectories": tables.TRAJECTORIES,
        "rejects": tables.with_error(tables.RESPONSES),
    }
    chunks = root | "Read" >> ReadTable(corpus, skip=skip) | "SetAside" >> MapBatches(partial(set_aside, used=READ))
    if scores:
        align = replace(align, scored=True)
        chunks = chunks | "Scores" >> JoinRows(scores, ("scores",))
        if align.rules.routing == "corpus-mean":
            align = replace(align, order=by_corpus_mean(scores, align.members))
        else:
            chunks = chunks | "Orders" >> AddOrders(by_sorted_batches(corpus, scores, align.members))
    split = SplitCorpus(align.rounds, {index: target.name for index, target in corpus.targets.items()})
    write = WriteTables(stage.directory, schemas, split, corpus.targets, stage.about, partial=partial_task)
    chunks | "Align" >> align | "Write" >> write


@contextmanager
def recorded(config: Config, align: Align, corpus: Table) -> Iterator[Stage]:
    """Yield the stage.

    Within the block the run's file lists it as running, then as complete, partial or failed.
    """
    stage, members = stage_for(config, align, corpus), align.members
    models = {f"aligner {member.criterion}": member.model.adapter or member.model.engine.model for member in members}
    models |= {f"inspector {member.criterion}": member.inspector for member in members}
    with runs.Record(config.output, criterion=", ".join(criteria_of(members)), seed=config.seed).watched(stage, models):
        yield stage


def align_table(
    config: Config,
    align: Align,
    corpus: Table,
    stage: Stage,
    beam_arguments: Sequence[str] = (),
    *,
    left_to_others: frozenset[int] = frozenset(),
) -> None:
    """Align what is left of a table, without the shards of other tasks."""
    if stage.is_done() and not config.retry_failed:
        return
    scores = read_scores(config, corpus)
    complete(
        stage,
        corpus,
        partial(build, align, corpus, scores, stage, partial_task=bool(left_to_others)),
        beam_arguments,
        left_to_others=left_to_others,
        retry_failed=config.retry_failed,
    )


def run(config: Config, beam_arguments: Sequence[str] = ()) -> Stage:
    """Align the table, or what is left of it."""
    align = transform_of(config)
    storage.check_writable(config.output)
    check_corpus_is_same(config)
    corpus = read_table(config.corpus).head(config.limit)
    check_columns(config.corpus, corpus.schema, criteria_of(align.members))
    with at_work(config.output), recorded(config, align, corpus) as stage:
        align_table(config, align, corpus, stage, beam_arguments)
    return stage


def main(argv: Sequence[str] | None = None) -> int:
    return entrypoint.main(argv, Config, run, program="python -m pipelines.align", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
