"""Align a corpus of responses: score each, rewrite those that fall short, keep what is better.

    alignbeam align answers.parquet --aligner models/aligner --inspector models/inspector -o out --limit 20
    alignbeam show out --diff
    alignbeam align answers.parquet --aligner models/aligner --inspector models/inspector -o out

The same command again goes on where it stopped. With several criteria, give --aligner and --inspector once for each,
in the order in which they are to be applied. `--aligner prompted` rewrites with a large model (--model) that is shown
the principles of --pack.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from typing import Any

from pipelines import align, conflicts, ingest, score
from pipelines.recipe.outlook import outlook_of, print_outlooks
from pipelines.runtime import entrypoint
from pipelines.runtime.at_work import at_work
from pipelines.runtime.runs import Record
from pipelines.runtime.stage import Stage
from pipelines.runtime.step import ModelSource, Place, PlannedStep, TableSource
from pipelines.runtime.steps import ANSWER, check_outside, do_steps, open_step
from schemas.command_line import DONE, DONE_WITH_REJECTS, check_limit
from schemas.console import messages
from schemas.errors import UsageError
from schemas.fields import Seed, setting
from schemas.settings import validated
from schemas.squads import PROMPTED, AlignMember, Rules, Squad, SquadMember, load_squad, rules_of, squad_of
from schemas.urls import without_query
from transforms.alignment.layers import check_responses
from transforms.alignment.members import members_of
from transforms.engines.engine import EngineConfig, Sampling
from transforms.tables import storage
from transforms.tables.entries import complete_entries
from transforms.tables.table import MANIFEST, read_table

# Flags of the members and the rules; --every-row and an engine (--set) hold for a squad file too.
IN_SQUAD_FILE = {item.name for item in (*fields(SquadMember), *fields(Rules))} - {"every_row", "engine"}
IMPORT, SCORE = ingest.KIND.name, score.KIND.name


@dataclass(frozen=True, kw_only=True)
class Config(ingest.ResponseFlags, Rules):
    corpus: str = setting("responses: a file, folder or glob, or a table made by a stage", positional=True)
    output: str = setting("run directory", short="-o")
    squad: str = setting("squad file: several criteria, and how rows go from one to the next", "")
    aligner: tuple[str, ...] = setting("folder of a trained aligner, or 'prompted'; once per criterion", ())
    inspector: tuple[str, ...] = setting("folder of a trained inspector; once per criterion", ())
    criterion: tuple[str, ...] = setting("its name in the results (default: the inspector's folder)", ())
    pack: tuple[str, ...] = setting("criterion pack for a prompted aligner; once per prompted aligner", ())
    threshold: float = setting("rows that score below this are rewritten", SquadMember.threshold)
    model: str = setting("the model of a prompted aligner", "")
    engine: dict[str, Any] = field(default_factory=dict)  # settings of EngineConfig for all aligners
    sampling: Sampling = field(default_factory=Sampling)
    bf16: bool = setting("inspectors score in bfloat16: faster, and within 0.01 of float32", False)
    limit: int | None = setting("align only the first N rows", None)
    seed: Seed = setting("integer seed of everything that is sampled", 0)
    cache: str = setting("directory of the response cache (default: OUTPUT/cache)", "")
    retry_failed: bool = setting("ask again for the rows that failed", False)
    shard: str | None = setting("I/N: do only every N-th input shard, from the I-th (1-based)", None)
    plan: bool = setting("say what the command would cost, and stop", False)
    conflicts: bool = setting("show what each aligner does to every score of a sample of 64 rows, and stop", False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_limit(self.limit)
        parse_shard(self.shard)
        if self.shard and self.conflicts:
            raise ValueError("shard: --conflicts looks at one sample from all shards; leave out one of the two")
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


def parse_shard(text: str | None) -> tuple[int, int]:
    """Read `"2/8"` as (1, 8): which input shards a task of a batch scheduler does."""
    if text is None:
        return 0, 1
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


def plan_steps(config: Config, squad: Squad, beam_arguments: Sequence[str] = ()) -> list[PlannedStep]:
    """Return the steps of the command: the import, unless a stage made the corpus; scores where the routing asks."""
    arguments, steps = tuple(beam_arguments), []
    corpus = TableSource(path=config.corpus)
    how = {item.name: getattr(config, item.name) for item in fields(ingest.ResponseFlags)}
    if storage.exists(storage.join(config.corpus, MANIFEST)):
        ingest.refuse_import_flags(config.corpus, how)
    elif config.shard is not None:
        raise UsageError(f"--shard {config.shard}: {config.corpus} is no table; make one first: alignbeam import")
    else:
        importing = ingest.Config(corpus=config.corpus, kind="responses", limit=config.limit, **how)
        steps.append(PlannedStep(IMPORT, ingest.KIND, importing, beam_arguments=arguments))
        corpus = TableSource(step=IMPORT)
    common = {"responses": corpus.step or corpus.path, "limit": config.limit, "bf16": config.bf16}
    sources: dict[str, TableSource | ModelSource] = {"responses": corpus}
    rules = {item.name: getattr(squad, item.name) for item in fields(rules_of(squad))}
    members, models = members_and_models(config, squad)
    taking = {**common, **rules, "members": members, "sampling": config.sampling, "seed": config.seed}
    if config.conflicts:
        settings = conflicts.Config(**taking)
        return [*steps, PlannedStep(conflicts.KIND.name, conflicts.KIND, settings, sources | models, (), arguments)]
    if squad.needs_all_scores:
        scoring, inspectors = score_settings(squad, common)
        steps.append(PlannedStep(SCORE, score.KIND, scoring, sources | inspectors, (), arguments))
        sources["scores"] = TableSource(step=SCORE)
    aligning = align.Config(**taking, scores=SCORE if squad.needs_all_scores else "")
    return [*steps, PlannedStep(align.KIND.name, align.KIND, aligning, sources | models, (), arguments)]


def members_and_models(config: Config, squad: Squad) -> tuple[tuple[AlignMember, ...], dict[str, ModelSource]]:
    """Return the members as steps take them, and the source of each model by its path."""
    members, models = [], {}
    for number, member in enumerate(squad.members):
        settings = {**config.engine, **member.engine}
        settings["model"] = member.engine.get("model", config.model) if member.pack else member.aligner
        models[f"members.{number}.aligner"] = ModelSource(settings)
        if member.inspector:
            models[f"members.{number}.inspector"] = ModelSource({"model": member.inspector})
        members.append(AlignMember(**{item.name: getattr(member, item.name) for item in fields(AlignMember)}))
    return tuple(members), models


def score_settings(squad: Squad, common: Mapping[str, Any]) -> tuple[score.Config, dict[str, ModelSource]]:
    inspectors = {member.criterion: member.inspector for member in squad.members}
    models = {f"inspectors.{name}": ModelSource({"model": folder}) for name, folder in inspectors.items()}
    return score.Config(**common, inspectors=inspectors), models


def check(config: Config, squad: Squad, steps: Sequence[PlannedStep], place: Place) -> None:
    """Raise UsageError for what is wrong with the squad's models, the corpus or the output, before any work."""
    if config.shard is not None and squad.needs_all_scores:
        raise UsageError(
            f"--shard {config.shard}: routing {squad.routing} needs the scores of all shards; leave it out"
        )
    last = steps[-1]
    members_of(last.config.members, models_of(last), config.sampling)
    ingest.check_apart(config.corpus, config.output)
    storage.check_writable(config.output)
    check_corpus_is_same(config)
    check_outside(steps, place)
    if steps[0].name == IMPORT:
        if schemas := list(ingest.gives(steps[0].config, {}).values()):
            check_responses(config.corpus, schemas[0], ANSWER)
    else:
        opened = open_step(steps[0], {}, place)
        check_responses(config.corpus, opened.table("responses").schema, opened.answers["responses"])


def models_of(planned: PlannedStep) -> dict[str, EngineConfig | str]:
    """Return the models of a step that are paths; UsageError, naming the criterion, for settings that are wrong."""
    models: dict[str, EngineConfig | str] = {}
    for path, source in planned.sources.items():
        if isinstance(source, ModelSource) and path.endswith(".aligner"):
            number = int(path.split(".")[1])
            try:
                models[path] = validated(EngineConfig, "engine", source.settings)
            except UsageError as error:
                raise UsageError(f"{planned.config.members[number].criterion}: {error}") from error
        elif isinstance(source, ModelSource):
            models[path] = str(source.settings["model"])
    return models


def check_corpus_is_same(config: Config) -> None:
    """Raise UsageError where the run directory holds the results of another corpus."""
    entries = Record(config.output).entries()
    responses = [entries.get(name, {}).get("identity", {}).get("responses") for name in (align.KIND.name, SCORE)]
    before = next((table["source"] for table in responses if isinstance(table, dict)), "")
    manifest = storage.join(config.output, before, MANIFEST)
    if before.startswith(f"{IMPORT}/"):
        before = storage.read_json(manifest)["identity"].get("corpus", "") if storage.exists(manifest) else ""
    now = storage.relative(config.corpus, config.output)
    if before and before != now and all(path.startswith("/") or "://" in path for path in (before, now)):
        raise UsageError(f"{config.output}: holds the results of {before}, not of {now}; choose another output")


def align_corpus(config: Config, beam_arguments: Sequence[str] = ()) -> list[Stage]:
    """Do what is left of the command's steps; return the stages, the import first if any, and the last one."""
    squad = find_squad(config)
    place = Place(config.output, config.cache, config.retry_failed, shard=parse_shard(config.shard))
    steps = plan_steps(config, squad, beam_arguments)
    check(config, squad, steps, place)
    # Where tasks work side by side (--shard), nothing is imported, and the directory is nobody's alone.
    with nullcontext() if config.shard else at_work(config.output):
        stages = do_steps(steps, Record(config.output, seed=config.seed), place)
    last = steps[-1]
    done = [stages[step.name] for step in steps[:-1] if step.name == IMPORT]
    return [*done, stages[last.name] if last.name in stages else open_step(last, {}, place).stage]


def say_plan(config: Config, beam_arguments: Sequence[str] = ()) -> int:
    """Import the corpus, say what the other steps would cost, and return the exit code."""
    squad, place = find_squad(config), Place(config.output, config.cache)
    steps = plan_steps(config, squad, beam_arguments)
    check(config, squad, steps, place)
    with at_work(config.output):
        do_steps([step for step in steps if step.name == IMPORT], Record(config.output, seed=config.seed), place)
    return print_outlooks(outlook_of(steps, place))


def report_part(config: Config, stage: Stage) -> int:
    """Say how far the tasks of `--shard` have come; return the exit code of this one."""
    corpus = read_table(config.corpus).head(config.limit)
    done = complete_entries(stage.directory, corpus.targets)
    messages.print(f"{len(done)} of {len(corpus.shards)} shards are done: {stage.directory}")
    index, count = parse_shard(config.shard)
    rejects = any(entry["rejects"] for shard, entry in done.items() if shard % count == index)
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
