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
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa

from pipelines import conflicts, ingest, orders
from pipelines.runtime import entrypoint, runs
from pipelines.runtime.at_work import at_work
from pipelines.runtime.estimates import plan_alignment, print_plan
from pipelines.runtime.stage import Stage, complete
from schemas import tables
from schemas.command_line import DONE, DONE_WITH_REJECTS, setting
from schemas.console import messages
from schemas.criteria.pack import load_pack, pack_digest
from schemas.errors import UsageError
from schemas.settings import validated
from schemas.squads import PROMPTED, Rules, Squad, SquadMember, is_folder, load_squad, squad_of
from transforms.alignment.align import Align
from transforms.alignment.members import Member
from transforms.alignment.trajectories import SplitAligned
from transforms.engines.engine import EngineConfig, Sampling
from transforms.engines.identity import engine_digest
from transforms.engines.inspector import check_inspector, inspector_digest
from transforms.engines.weights import Weights, find_weights
from transforms.generation.generate import Model
from transforms.synthesis.triples import TRIPLE_STOP
from transforms.tables import storage
from transforms.tables.chunks import Chunk, MapBatches
from transforms.tables.columns import bring_back, check_free, check_texts, set_aside
from transforms.tables.entries import complete_entries
from transforms.tables.read import JoinRows, ReadTable
from transforms.tables.table import MANIFEST, Table, read_table
from transforms.tables.write import WriteTables

READ = ("id", "question", "response")  # of the corpus; its other columns pass through
IMPORT_FLAGS = ("question_column", "response_column", "messages_column", "batch_input")
IN_SQUAD_FILE = (
    *("aligner", "inspector", "criterion", "pack"),
    *("threshold", "guard", "guard_margin", "guard_max_loss"),
)


@dataclass(frozen=True, kw_only=True)
class Settings(Rules):
    """What a recipe may set."""

    threshold: float = setting("rows that score below this are rewritten", SquadMember.threshold)
    bf16: bool = setting("inspectors score in bfloat16: faster, and within 0.01 of float32", False)
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold: must be between 0 and 1, not {self.threshold}")


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    corpus: str = setting("responses: a file, folder or glob, or a table made by a stage", positional=True)
    output: str = setting("run directory", short="-o")
    squad: str = setting("squad file: several criteria, and how rows go from one to the next", "")
    aligner: tuple[str, ...] = setting("folder of a trained aligner, or 'prompted'; once per criterion", ())
    inspector: tuple[str, ...] = setting("folder of a trained inspector; once per criterion", ())
    criterion: tuple[str, ...] = setting("its name in the results (default: the inspector's folder)", ())
    pack: tuple[str, ...] = setting("criterion pack for a prompted aligner; once per prompted aligner", ())
    model: str = setting("the model of a prompted aligner", "")
    question_column: str | None = setting("column of the question", None)
    response_column: str | None = setting("column of the response", None)
    messages_column: str | None = setting("column of a chat, whose last assistant turn is the response", None)
    batch_input: str | None = setting(
        "requests whose results the corpus is: a batch API's input file, folder or glob", None
    )
    limit: int | None = setting("align only the first N rows", None)
    shard: str | None = setting("I/N: do only every N-th input shard, from the I-th (1-based)", None)
    plan: bool = setting(
        "say what the command would cost, and stop; with --squad: what each aligner does to a sample of 64 rows", False
    )
    retry_failed: bool = setting("ask again for the rows that failed", False)
    cache: str = setting("directory of the response cache (default: OUTPUT/cache)", "")
    seed: int = setting("integer seed of everything that is sampled", 0)
    engine: dict[str, Any] = field(default_factory=dict)  # settings of transforms.engines.engine.EngineConfig
    stage: str = "align"  # what the stage is called, where a run aligns the same responses twice

    def __post_init__(self) -> None:
        super().__post_init__()
        ingest.check_limit(self.limit)
        if self.squad:
            defaults = {item.name: item.default for item in fields(self)}
            for name in IN_SQUAD_FILE:
                if getattr(self, name) != defaults[name]:
                    raise ValueError(f"{name}: stands in the squad file; give one or the other")
            parse_shard(self.shard)
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
        parse_shard(self.shard)


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """`"2/8"` as (1, 8): which input shards a task of a batch scheduler does."""
    if text is None:
        return None
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise ValueError(f"shard: expected I/N with 1 <= I <= N, such as 3/16, not {text!r}")
    return int(index) - 1, int(count)


def find_squad(config: Config) -> Squad:
    """Return the squad of the file, or of the flags: each criterion once, in the order given."""
    if config.squad:
        squad = load_squad(config.squad)
        return replace(squad, every_row=squad.every_row or config.every_row)
    packs = iter(config.pack)
    names = config.criterion or tuple(folder.rstrip("/").rpartition("/")[2] for folder in config.inspector)
    if len(set(names)) < len(names):
        raise UsageError(f"criterion: two share a name: {', '.join(names)}; name them with --criterion")
    try:
        members = tuple(
            SquadMember(
                criterion=name,
                inspector=inspector,
                aligner=aligner,
                threshold=config.threshold,
                pack=next(packs) if aligner == PROMPTED else "",
            )
            for name, aligner, inspector in zip(names, config.aligner, config.inspector, strict=True)
        )
    except ValueError as error:
        raise UsageError(f"{error} (--criterion names it)") from error
    return squad_of(config, members, routing="fixed")


def members_of(config: Config, squad: Squad) -> tuple[Member, ...]:
    """The members with their models: adapters share the engine of their base.

    UsageError, naming the member, where a folder is no model or no inspector, a pack is broken, or adapters have
    different bases.
    """
    members: list[Member] = []
    adapters = check_models(squad, config.engine)
    folders = tuple(sorted(weights.adapter for weights in adapters.values() if weights.adapter))
    for member in squad.members:
        try:
            pack = load_pack(member.pack) if member.pack else None
            settings = {**config.engine, **member.engine}
            if own := adapters.get(member.criterion):
                settings |= {"model": own.model, "adapters": folders}
            else:
                settings["model"] = member.engine.get("model", config.model) if pack else member.aligner
            engine = validated(EngineConfig, "engine", settings)
            engine_digest(engine)
        except UsageError as error:
            raise UsageError(f"{member.criterion}: {error}") from error
        sampling = replace(config.sampling, stop=config.sampling.stop or TRIPLE_STOP) if pack else config.sampling
        adapter = own.adapter if own and own.adapter else ""
        members.append(
            Member(
                criterion=member.criterion,
                inspector=member.inspector,
                model=Model(engine=engine, sampling=sampling, adapter=adapter),
                pack=pack,
                threshold=member.threshold,
            )
        )
    return tuple(members)


def check_models(squad: Squad, engine: dict[str, Any]) -> dict[str, Weights]:
    """The LoRA adapters among the aligners, by criterion; UsageError, as `members_of`, of inspectors and adapters."""
    adapters: dict[str, Weights] = {}
    for member in squad.members:
        try:
            check_inspector(member.inspector)
            if weights := adapter_of(member, engine):
                adapters[member.criterion] = weights
                other = next(iter(adapters))
                if weights.model != adapters[other].model:
                    raise UsageError(
                        f"its adapter's base is {weights.model}, that of {other} is {adapters[other].model}; "
                        "adapters share one engine"
                    )
        except UsageError as error:
            raise UsageError(f"{member.criterion}: {error}") from error
    return adapters


def adapter_of(member: SquadMember, engine: dict[str, Any]) -> Weights | None:
    """The folders of an aligner that is a LoRA adapter and of its base, None of any other."""
    if {**engine, **member.engine}.get("engine", "vllm") != "vllm" or not is_folder(member):
        return None
    weights = find_weights(member.aligner)
    if weights.adapter is None:
        return None
    base = Path(weights.model)
    return weights._replace(
        model=str(base.resolve()) if base.is_dir() else weights.model, adapter=str(Path(weights.adapter).resolve())
    )


def import_corpus(config: Config, criteria: tuple[str, ...], beam_arguments: Sequence[str] = ()) -> Stage | None:
    """Import the corpus into the run directory, unless a stage made it; UsageError where a flag does not suit it."""
    how = {name: getattr(config, name) for name in IMPORT_FLAGS}
    if not storage.exists(storage.join(config.corpus, MANIFEST)):
        if config.shard is not None:
            raise UsageError(f"--shard {config.shard}: {config.corpus} is no table; make one first: alignbeam import")
        output = storage.join(config.output, "corpus")
        settings = ingest.Config(corpus=config.corpus, output=output, limit=config.limit, **how)
        check = partial(check_columns, config.corpus, criteria=criteria)
        return ingest.run(settings, beam_arguments, by_identity=True, check=check)
    ingest.refuse_import_flags(config.corpus, how)
    return None


def check_columns(path: str, schema: pa.Schema, criteria: tuple[str, ...]) -> None:
    """UsageError where a text is missing, or a column has a name that aligning gives."""
    check_texts(path, schema, READ)
    check_free(path, schema, tables.aligned(pa.schema([]), criteria).names, "align")


@dataclass(frozen=True)
class SplitCorpus:
    """The tables of SplitAligned, `aligned` with the corpus's other columns as they came."""

    rounds: int
    names: Mapping[int, str]

    def __call__(self, chunk: Chunk) -> dict[str, pa.RecordBatch]:
        parts = SplitAligned(self.rounds, self.names)(chunk)
        return parts | {"aligned": bring_back(parts["aligned"])}


def stage_for(config: Config, squad: Squad, members: Sequence[Member], corpus: Table) -> Stage:
    """The stage; as shards land, it goes on with the new ones, unless the routing asks for the scores of all."""
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
            for member in members
        ],
        "guard": squad.has_guard,
        **{name: getattr(squad, name) for name in ("every_row", "routing", "rounds", "guard_margin", "guard_max_loss")},
        "bf16": config.bf16,
        "seed": config.seed,
    }
    return Stage.under(config.output, config.stage, identity, corpus.digest, kind="align")


def build(
    config: Config,
    squad: Squad,
    members: Sequence[Member],
    corpus: Table,
    scores: Table | None,
    stage: Stage,
    root: beam.Pipeline,
    skip: frozenset[int],
) -> None:
    criteria = tuple(member.criterion for member in members)
    aligned = tables.aligned(corpus.schema, criteria)
    schemas = {
        "aligned": aligned,
        "trajectories": tables.TRAJECTORIES,
        "rejects": tables.with_error(tables.RESPONSES),
    }
    order = orders.by_corpus_mean(scores, members) if scores and squad.routing == "corpus-mean" else ()
    align = Align(members, squad, order, config.seed, cache_of(config), scored=scores is not None, bf16=config.bf16)
    chunks = root | "Read" >> ReadTable(corpus, skip=skip) | "SetAside" >> MapBatches(partial(set_aside, used=READ))
    if scores:
        chunks = chunks | "Scores" >> JoinRows(scores, ("scores",))
    if scores and squad.routing == "paper-002":
        chunks = chunks | "Orders" >> orders.AddOrders(orders.by_sorted_batches(corpus, scores, members))
    (
        chunks
        | "Align" >> align
        | "Write"
        >> WriteTables(
            stage.directory,
            schemas,
            SplitCorpus(align.rounds, {index: target.name for index, target in corpus.targets.items()}),
            corpus.targets,
            stage.about,
            partial=config.shard is not None,
        )
    )


def cache_of(config: Config) -> str:
    return config.cache or storage.join(config.output, "cache")


def check_corpus_is_same(config: Config) -> None:
    """UsageError where the run directory holds the results of another corpus."""
    before = runs.Record(config.output).identities().get(config.stage, {}).get("corpus")
    now = storage.relative(config.corpus, config.output)
    if before and before != now and all(path.startswith("/") or "://" in path for path in (before, now)):
        raise UsageError(f"{config.output}: holds the results of {before}, not of {now}; choose another output")


def left_to_others(config: Config, corpus: Table) -> frozenset[int]:
    """The shards that `--shard` leaves to other tasks."""
    index, count = parse_shard(config.shard) or (0, 1)
    return frozenset(shard.index for shard in corpus.shards if shard.index % count != index)


def run(config: Config, beam_arguments: Sequence[str] = ()) -> Stage | int:
    """Align the corpus, or what is left of it; gives the stage, or the exit code of a plan or of a partial task."""
    result = run_with_import(config, beam_arguments)
    return result if isinstance(result, int) else result[-1]


def run_with_import(config: Config, beam_arguments: Sequence[str] = ()) -> list[Stage] | int:
    """As `run`; before the stage stands the import, where the corpus had to be imported."""
    squad = find_squad(config)
    if config.shard is not None and squad.needs_all_scores:
        raise UsageError(
            f"--shard {config.shard}: routing {squad.routing} needs the scores of all shards; leave it out"
        )
    members = members_of(config, squad)
    ingest.check_apart(config.corpus, config.output)
    storage.check_writable(config.output)
    check_corpus_is_same(config)
    # Where tasks work side by side (--shard), nothing is imported, and the directory is nobody's alone.
    with nullcontext() if config.shard else at_work(config.output):
        return align_corpus(config, squad, members, beam_arguments)


def align_corpus(
    config: Config, squad: Squad, members: Sequence[Member], beam_arguments: Sequence[str]
) -> list[Stage] | int:
    criteria = tuple(member.criterion for member in members)
    imported = import_corpus(config, criteria, beam_arguments)
    corpus = read_table(imported.directory if imported else config.corpus).head(config.limit)
    check_columns(config.corpus, corpus.schema, criteria)
    if config.plan:
        if config.squad:
            scratch = storage.join(config.output, f".plan-{uuid.uuid4().hex[:8]}")
            align = Align(members, squad, seed=config.seed, cache=cache_of(config), bf16=config.bf16)
            found = conflicts.find_conflicts(corpus, align, scratch, beam_arguments)
            conflicts.print_conflicts(found, corpus.rows)
            return DONE
        return print_plan(plan_alignment(corpus, members))
    stage = stage_for(config, squad, members, corpus)
    record = runs.Record(config.output, criterion=", ".join(m.criterion for m in members), seed=config.seed)
    models = {f"aligner {m.criterion}": m.model.adapter or m.model.engine.model for m in members}
    models |= {f"inspector {m.criterion}": m.inspector for m in members}
    with record.watched(stage, models):
        scores = None
        if squad.needs_all_scores and (config.retry_failed or not stage.is_done()):
            scores = orders.inspect(corpus, members, config.output, beam_arguments, bf16=config.bf16)
        complete(
            stage,
            corpus,
            partial(build, config, squad, members, corpus, scores, stage),
            beam_arguments,
            left_to_others=left_to_others(config, corpus),
            retry_failed=config.retry_failed,
        )
    if not stage.is_done():
        done = complete_entries(stage.directory, corpus.targets)
        messages.print(f"{len(done)} of {len(corpus.shards)} shards are done: {stage.directory}")
        others = left_to_others(config, corpus)
        rejects = any(entry["rejects"] for index, entry in done.items() if index not in others)
        return DONE_WITH_REJECTS if rejects else DONE
    return [imported, stage] if imported else [stage]


def main(argv: Sequence[str] | None = None) -> int:
    def command(config: Config, beam_arguments: Sequence[str]) -> int:
        result = run_with_import(config, beam_arguments)
        return result if isinstance(result, int) else entrypoint.report_stages(*result)

    return entrypoint.command_main(argv, Config, command, program="alignbeam align", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
