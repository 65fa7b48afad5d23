"""Align a corpus of responses: score each, rewrite those that fall short, keep what is better.

    alignbeam align answers.parquet --aligner models/aligner --inspector models/inspector -o out --limit 20
    alignbeam show out --diff
    alignbeam align answers.parquet --aligner models/aligner --inspector models/inspector -o out

The same command again goes on where it stopped. With several criteria, give --aligner and --inspector once for each,
in the order in which they are to be applied. `--aligner prompted` rewrites with a large model (--model) that is shown
the principles of --pack.
"""

import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial

from pipelines import align, ingest, score
from pipelines.commands import conflicts
from pipelines.runtime import entrypoint
from pipelines.runtime.at_work import at_work
from pipelines.runtime.estimates import print_plan
from pipelines.runtime.stage import Stage
from schemas.command_line import DONE, DONE_WITH_REJECTS, setting
from schemas.console import messages
from schemas.errors import UsageError
from schemas.squads import PROMPTED, Rules, Squad, SquadMember, load_squad, squad_of
from schemas.urls import without_query
from transforms.alignment.align import Align
from transforms.alignment.members import criteria_of
from transforms.tables import storage
from transforms.tables.entries import complete_entries
from transforms.tables.table import MANIFEST, Table, read_table

# Flags of the members and the rules; --every-row and an engine (--set) hold for a squad file too.
IN_SQUAD_FILE = {item.name for item in (*fields(SquadMember), *fields(Rules))} - {"every_row", "engine"}


@dataclass(frozen=True, kw_only=True)
class Config(ingest.ResponseFlags, align.Flags, Rules):
    corpus: str = setting("responses: a file, folder or glob, or a table made by a stage", positional=True)
    squad: str = setting("squad file: several criteria, and how rows go from one to the next", "")
    aligner: tuple[str, ...] = setting("folder of a trained aligner, or 'prompted'; once per criterion", ())
    inspector: tuple[str, ...] = setting("folder of a trained inspector; once per criterion", ())
    criterion: tuple[str, ...] = setting("its name in the results (default: the inspector's folder)", ())
    pack: tuple[str, ...] = setting("criterion pack for a prompted aligner; once per prompted aligner", ())
    threshold: float = setting("rows that score below this are rewritten", SquadMember.threshold)
    shard: str | None = setting("I/N: do only every N-th input shard, from the I-th (1-based)", None)
    plan: bool = setting(
        "say what the command would cost, and stop; with --squad: what each aligner does to a sample of 64 rows", False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_shard(self.shard)
        if self.squad:
            for item in fields(self):
                if item.name in IN_SQUAD_FILE and getattr(self, item.name) != item.default:
                    raise ValueError(f"{item.name}: stands in the squad file; give one or the other")
            return
        if not self.aligner or len(self.aligner) != len(self.inspector):
            raise ValueError(
                f"aligner, inspector: give one of each per criterion, not {len(self.aligner)} and {len(self.inspector)}"
            )
        if self.criterion and len(self.criterion) != len(self.aligner):
            raise ValueError(f"criterion: {len(self.criterion)} names for {len(self.aligner)} aligners")
        prompted = self.aligner.count(PROMPTED)
        if prompted != len(self.pack):
            raise ValueError(f"pack: {prompted} aligners are prompted, but {len(self.pack)} packs are given")
        if prompted and not self.model:
            raise ValueError("model: a prompted aligner needs one")
        squad_of_flags(self)  # whose rules and members are checked as those of a file


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """Read `"2/8"` as (1, 8): which input shards a task of a batch scheduler does."""
    if text is None:
        return None
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise ValueError(f"shard: expected I/N with 1 <= I <= N, such as 3/16, not {text!r}")
    return int(index) - 1, int(count)


def squad_of_flags(config: Config) -> Squad:
    """Return the squad of --aligner and --inspector: each criterion once, in the order given."""
    packs = iter(config.pack)
    names = config.criterion or tuple(
        without_query(folder).rstrip("/").rpartition("/")[2] for folder in config.inspector
    )
    if len(set(names)) < len(names):
        raise ValueError(f"criterion: two share a name: {', '.join(names)}; name them with --criterion")
    try:
        members = [
            SquadMember(
                criterion=name,
                inspector=inspector,
                aligner=aligner,
                threshold=config.threshold,
                pack=next(packs) if aligner == PROMPTED else "",
            )
            for name, aligner, inspector in zip(names, config.aligner, config.inspector, strict=True)
        ]
    except ValueError as error:
        hint = " (--criterion names it)" if str(error).startswith("criterion:") else ""
        raise ValueError(f"{error}{hint}") from error
    return squad_of(config, members, routing="fixed")


def find_squad(config: Config) -> Squad:
    """Return the squad of the file, or of the flags; --every-row holds for either."""
    if not config.squad:
        return squad_of_flags(config)
    squad = load_squad(config.squad)
    return replace(squad, every_row=squad.every_row or config.every_row)


def stage_settings(config: Config) -> align.Config:
    """Return what the stage is told; UsageError of a squad file."""
    flags = {item.name: getattr(config, item.name) for item in fields(align.Flags)}
    return align.Config(corpus=config.corpus, squad=find_squad(config), **flags)


def import_corpus(config: Config, criteria: tuple[str, ...], beam_arguments: Sequence[str] = ()) -> Stage | None:
    """Import the corpus into the run directory, unless a stage made it.

    Raises UsageError where a flag does not suit it.
    """
    how = {item.name: getattr(config, item.name) for item in fields(ingest.ResponseFlags)}
    if not storage.exists(storage.join(config.corpus, MANIFEST)):
        if config.shard is not None:
            raise UsageError(f"--shard {config.shard}: {config.corpus} is no table; make one first: alignbeam import")
        output = storage.join(config.output, "corpus")
        settings = ingest.Config(corpus=config.corpus, output=output, limit=config.limit, **how)
        check = partial(align.check_columns, config.corpus, criteria=criteria)
        return ingest.run(settings, beam_arguments, by_identity=True, check=check)
    ingest.refuse_import_flags(config.corpus, how)
    return None


@dataclass(frozen=True)
class Opened:
    """Hold what a command works on: the stage's settings and transform, and the corpus as a table."""

    settings: align.Config
    transform: Align
    imported: Stage | None
    corpus: Table


@contextmanager
def opening(config: Config, beam_arguments: Sequence[str]) -> Iterator[Opened]:
    """Check everything, lock the run directory and import the corpus, unless it is a table already."""
    settings = stage_settings(config)
    if config.shard is not None and settings.squad.needs_all_scores:
        raise UsageError(
            f"--shard {config.shard}: routing {settings.squad.routing} needs the scores of all shards; leave it out"
        )
    transform = align.transform_of(settings)
    ingest.check_apart(config.corpus, config.output)
    storage.check_writable(config.output)
    align.check_corpus_is_same(settings)
    # Where tasks work side by side (--shard), nothing is imported, and the directory is nobody's alone.
    with nullcontext() if config.shard else at_work(config.output):
        criteria = criteria_of(transform.members)
        imported = import_corpus(config, criteria, beam_arguments)
        corpus = read_table(imported.directory if imported else config.corpus).head(config.limit)
        align.check_columns(config.corpus, corpus.schema, criteria)
        yield Opened(settings, transform, imported, corpus)


def left_to_others(config: Config, corpus: Table) -> frozenset[int]:
    """Return the shards that `--shard` leaves to other tasks."""
    index, count = parse_shard(config.shard) or (0, 1)
    return frozenset(shard.index for shard in corpus.shards if shard.index % count != index)


def align_corpus(config: Config, beam_arguments: Sequence[str] = ()) -> list[Stage]:
    """Align what is left of the corpus; return the stages, the import first if any."""
    with (
        opening(config, beam_arguments) as opened,
        align.recorded(opened.settings, opened.transform, opened.corpus) as stage,
    ):
        settings, shards_of_others = opened.settings, left_to_others(config, opened.corpus)
        if settings.squad.needs_all_scores and (settings.retry_failed or not stage.is_done()):
            settings = replace(settings, scores=score_corpus(opened, beam_arguments).directory)
        align.align_table(
            settings, opened.transform, opened.corpus, stage, beam_arguments, left_to_others=shards_of_others
        )
    return [opened.imported, stage] if opened.imported else [stage]


def score_corpus(opened: Opened, beam_arguments: Sequence[str]) -> Stage:
    settings = opened.settings
    config = score.Config(
        corpus=opened.imported.directory if opened.imported else settings.corpus,
        output=settings.output,
        inspectors={member.criterion: member.inspector for member in settings.squad.members},
        limit=settings.limit,
        bf16=settings.bf16,
    )
    return score.run(config, beam_arguments)


def say_plan(config: Config, beam_arguments: Sequence[str] = ()) -> int:
    """Print the cost, or what a squad file's members do to each other; return the exit code."""
    with opening(config, beam_arguments) as opened:
        if not config.squad:
            return print_plan(align.estimate(opened.corpus, opened.transform.members))
        scratch = storage.join(config.output, f".plan-{uuid.uuid4().hex[:8]}")
        seen = conflicts.find_conflicts(opened.corpus, opened.transform, scratch, beam_arguments)
        conflicts.print_conflicts(seen, opened.corpus.rows)
        return DONE


def report_part(config: Config, stage: Stage) -> int:
    """Say how far the tasks of `--shard` have come; return the exit code of this one."""
    corpus = read_table(config.corpus).head(config.limit)
    done = complete_entries(stage.directory, corpus.targets)
    messages.print(f"{len(done)} of {len(corpus.shards)} shards are done: {stage.directory}")
    shards_of_others = left_to_others(config, corpus)
    rejects = any(entry["rejects"] for index, entry in done.items() if index not in shards_of_others)
    return DONE_WITH_REJECTS if rejects else DONE


def run(config: Config, beam_arguments: Sequence[str] = ()) -> int:
    """Align the corpus, or say what that would cost; return the exit code."""
    if config.plan:
        return say_plan(config, beam_arguments)
    stages = align_corpus(config, beam_arguments)
    if not stages[-1].is_done():
        return report_part(config, stages[-1])
    return entrypoint.report_stages(*stages)


def main(argv: Sequence[str] | None = None) -> int:
    return entrypoint.command_main(argv, Config, run, program="alignbeam align", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
