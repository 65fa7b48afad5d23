"""Run a recipe: from a criterion in plain text to an aligned corpus, its evaluation and a report.

    alignbeam run mine.yaml --model Qwen/Qwen3-8B -o runs/mine --limit 50
    alignbeam run mine.yaml --model Qwen/Qwen3-8B -o runs/mine --plan
    alignbeam run mine.yaml --model Qwen/Qwen3-8B -o runs/mine --only curate

The same command again goes on where it stopped; after an edit each stage that it touches says why and is done again.

A recipe may have several criteria. Then everything up to the trained models is done in OUTPUT/CRITERION, a run of its
own for each, and OUTPUT has the squad: its file, held-out responses aligned with it, their evaluation and the report.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import yaml
from rich.table import Table as Grid

from pipelines import align, curate, evaluate, ingest, questions, respond, triples
from pipelines.align import Settings as AlignSettings
from pipelines.commands.train import run_trainer
from pipelines.commands.train_squad import ADAPTER, TRAINERS
from pipelines.curate import Settings as CurateSettings
from pipelines.evaluate import Settings as EvaluateSettings
from pipelines.questions import Settings as QuestionSettings
from pipelines.report.page import write
from pipelines.respond import Settings as RespondSettings
from pipelines.runtime import entrypoint, runs
from pipelines.runtime.estimates import plan_recipes, print_plan, topic_growth
from pipelines.runtime.stage import Stage, announce, identity_digest, observed
from pipelines.triples import Settings as TripleSettings
from schemas.command_line import DONE, DONE_WITH_REJECTS, setting
from schemas.console import messages
from schemas.criteria.pack import load_pack
from schemas.errors import UsageError
from schemas.settings import Layer, flatten, resolve, to_dict, validated
from schemas.squads import Routing, Squad, SquadMember, squad_yaml
from schemas.tables import TRIPLES
from training.run_folder import base_digest
from transforms.engines.encoder import model_config, model_digest
from transforms.engines.engine import EngineConfig
from transforms.engines.identity import engine_digest
from transforms.tables import storage
from transforms.tables.table import MANIFEST, read_table

STAGES = (
    "questions",
    "triples",
    "curate",
    "train_inspector",
    "train_aligner",
    "respond",
    "align",
    "align_compared",
    "evaluate",
    "evaluate_compared",
    "report",
)
OF_ONE_CRITERION = (*STAGES[:5], "report")  # of each run below a squad's
OF_A_SQUAD = STAGES[5:]
RULES = ("threshold", "guard", "guard_margin", "guard_max_loss")
LONG = 60  # characters of an old and a new value beyond which only the name is told
WORDS = {"pack": "the criterion pack"}


@dataclass(frozen=True, kw_only=True)
class Models:
    """Settings of transforms.engines.engine.EngineConfig for each model that generates.

    teacher writes questions and triples; upstream answers the held-out questions; aligner holds how the trained aligner
    is run (its `model` is the trained one).
    """

    teacher: dict[str, Any] = field(default_factory=dict)
    upstream: dict[str, Any] = field(default_factory=dict)
    aligner: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AlignStage(AlignSettings):
    """How the responses are aligned.

    routing, rounds: of several criteria, as in a squad file (schemas.squads).
    compare: what of these settings is different when the same responses are aligned once more, to compare.
    """

    routing: Routing = "worst"
    rounds: int = 0
    compare: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.squad([SquadMember(criterion="any", inspector="any", aligner="any")])
        if self.compare:
            self.compared()

    def squad(self, members: Sequence[SquadMember]) -> Squad:
        """These members, with the threshold, routing and guard that are set here."""
        return Squad(
            members=tuple(replace(member, threshold=self.threshold) for member in members),
            **{name: getattr(self, name) for name in ("routing", "rounds", "guard", "guard_margin", "guard_max_loss")},
        )

    def compared(self) -> "AlignStage":
        if "compare" in self.compare:
            raise ValueError("compare: has no comparison of its own")
        settings = {**to_dict(replace(self, compare={})), **self.compare}
        return validated(AlignStage, "stages.align.compare", settings)


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """What each stage may be told; a trainer's settings are those of training.inspector and training.aligner."""

    questions: QuestionSettings = field(default_factory=QuestionSettings)
    triples: TripleSettings = field(default_factory=TripleSettings)
    curate: CurateSettings = field(default_factory=CurateSettings)
    train_inspector: dict[str, Any] = field(default_factory=dict)
    train_aligner: dict[str, Any] = field(default_factory=dict)
    respond: RespondSettings = field(default_factory=RespondSettings)
    align: AlignStage = field(default_factory=AlignStage)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a recipe's YAML file says."""

    name: str
    criterion: str | tuple[str, ...]  # a pack, its name or a file; several make a squad
    seed: int = 0
    toy: bool = False  # the models prove that the job works, not how well it does; the report says so
    heldout: str | None = None  # questions to evaluate on: a file or table; default, of one criterion: the test split
    models: Models = field(default_factory=Models)
    stages: StageSettings = field(default_factory=StageSettings)
    stages_of: dict[str, Any] = field(
        default_factory=dict
    )  # what is different for one of several criteria, by its name


@dataclass(frozen=True, kw_only=True)
class Config(Recipe):
    output: str = setting("run directory", short="-o")
    model: str | None = setting("teacher and upstream model, whatever the recipe names: a folder or a hub id", None)
    limit: int | None = setting("at most so many questions, in all stages; a larger one later extends the run", None)
    only: str | None = setting(f"run one stage: {', '.join(STAGES)}", None)
    plan: bool = setting("say what the recipe would cost, and stop", False)
    retry_failed: bool = setting("ask again for the rows that failed", False)

    def __post_init__(self) -> None:
        if self.only is not None and self.only not in STAGES:
            raise ValueError(f"only: no stage {self.only!r}; one of {', '.join(STAGES)}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: must be at least 1, not {self.limit}")
        if self.only in ("align_compared", "evaluate_compared") and not self.stages.align.compare:
            raise ValueError(f"only: {self.only} needs stages.align.compare")
        if isinstance(self.criterion, str):
            if self.stages_of:
                raise ValueError("stages_of: is for several criteria; say it in stages")
            if (self.stages.align.routing, self.stages.align.rounds) != ("worst", 0):
                raise ValueError("stages.align: routing and rounds are for several criteria")
        elif len(self.criterion) < 2:
            raise ValueError("criterion: a list has at least two packs; name a single one without it")
        elif self.heldout is None:
            raise ValueError(
                "heldout: several criteria need questions of their own; what is held out of one may train another"
            )
        for name in ("teacher", "upstream"):
            given = getattr(self.models, name)
            if not (self.model or given.get("model") or given.get("engine") == "scripted"):
                raise ValueError(f"models.{name}.model: the recipe names no model; give one with --model")
        for name in ("teacher", "upstream", "aligner"):
            self.engine(name)
        for name, trainer in TRAINERS.items():
            given = getattr(self.stages, f"train_{name}")
            given = {**ADAPTER, **given} if name == "aligner" and self.is_squad else given
            validated(trainer, f"stages.train_{name}", {**given, "data": "curated", "output": "trained"})

    @property
    def is_squad(self) -> bool:
        return not isinstance(self.criterion, str)

    @property
    def criteria(self) -> tuple[str, ...]:
        return (self.criterion,) if isinstance(self.criterion, str) else self.criterion

    def engine(self, name: str) -> dict[str, Any]:
        """The engine settings of `teacher`, `upstream` or `aligner`, checked; --model wins over the recipe."""
        given = getattr(self.models, name)
        model = "the trained aligner" if name == "aligner" else self.model or given.get("model", "")
        return to_dict(validated(EngineConfig, f"models.{name}", {**given, "model": model}))


class Job:
    """One run directory: each method does a stage and gives its directory.

    members: of a squad, the jobs that train its criteria's models, in directories below; else the job itself.
    home: where that lies which the jobs of a squad share: the response cache, and the held-out questions.
    """

    def __init__(self, config: Config, beam_arguments: Sequence[str], home: str = ""):
        self.config = config
        self.beam_arguments = beam_arguments
        self.home = home or config.output
        names = [load_pack(criterion).name for criterion in config.criteria]
        self.name = ", ".join(names)
        self.members = [self]
        if config.is_squad:
            self.members = [Job(one, beam_arguments, self.home) for one in parted(config, names)]
        self.record = runs.Run(config.output, config.name, self.name, config.seed, config.toy)
        self.before = self.record.identities()
        self.results: dict[str, Stage] = {}

    def begin(self, stage: Stage) -> None:
        """Say why a stage is done again, and list it as running."""
        if stage.name not in STAGES:  # a round of one
            return
        if edits := list(changes(self.before.get(stage.name), stage.identity)):
            text = f"  stale: {', '.join(edits)}; done again, with every completion that still fits"
            messages.print(text, soft_wrap=True)
        self.record.record(stage, "running", 0.0, models_of(self.config))

    def directory(self, name: str) -> str:
        """Where the results of an earlier stage lie; UsageError where it has none."""
        if name in self.results:
            return self.results[name].directory
        entry = next((entry for entry in self.record.read()["stages"] if entry["stage"] == name), None)
        if entry is None or entry["status"] != "complete":
            raise UsageError(f"--only {self.config.only}: stage {name} is not complete in {self.config.output}")
        return storage.join(self.config.output, entry["directory"])

    def common(self) -> dict[str, Any]:
        config = self.config
        return {"output": config.output, "cache": storage.join(self.home, "cache"), "seed": config.seed}

    def limited(self, name: str, **more: Any) -> dict[str, Any]:
        """A stage's settings from the recipe, with what the command adds."""
        settings = getattr(self.config.stages, name)
        return {item.name: getattr(settings, item.name) for item in fields(settings)} | self.common() | more

    def limit(self, of_stage: int | None) -> int | None:
        limits = [number for number in (of_stage, self.config.limit) if number is not None]
        return min(limits, default=None)

    def questions(self) -> Stage:
        engine = self.config.engine("teacher")
        count = self.limit(self.config.stages.questions.count) or 1
        return questions.run(
            questions.Config(
                **self.limited(
                    "questions",
                    criterion=self.config.criteria[0],
                    engine=engine,
                    count=count,
                    retry_failed=self.config.retry_failed,
                )
            ),
            self.beam_arguments,
        )

    def triples(self) -> Stage:
        return triples.run(
            triples.Config(
                **self.limited(
                    "triples",
                    questions=self.directory("questions"),
                    criterion=self.config.criteria[0],
                    engine=self.config.engine("teacher"),
                    limit=self.limit(self.config.stages.triples.limit),
                    retry_failed=self.config.retry_failed,
                )
            ),
            self.beam_arguments,
        )

    def heldout(self) -> str | None:
        """The held-out questions as a table, imported once."""
        path = self.config.heldout
        if path is None or storage.exists(storage.join(path, MANIFEST)):
            return path
        output = storage.join(self.home, "heldout", identity_digest({"file": storage.mark(path)}))
        return ingest.run(ingest.Config(corpus=path, output=output, kind="questions")).directory

    def curate(self) -> Stage:
        heldout = self.heldout()
        settings = self.limited("curate", input=self.directory("triples"))
        known = {item.name for item in fields(curate.Config)}
        settings = {name: value for name, value in settings.items() if name in known}
        if heldout:
            settings["heldout"] = (*settings["heldout"], heldout)
        return curate.run(curate.Config(**settings), self.beam_arguments)

    def train(self, method: str) -> Stage:
        settings = getattr(self.config.stages, f"train_{method}")
        data = storage.join(self.directory("curate"), method)
        base = settings.get("base")
        identity = {
            "data": read_table(self.directory("curate")).digest,
            "settings": settings,
            "base": model_digest(base) if base and storage.is_directory(base) else base,
        }
        stage = Stage.under(self.config.output, f"train_{method}", identity)
        if not stage.is_complete:
            announce(stage)
            given = settings | {"data": data, "output": stage.directory}
            path = f"{stage.directory}.yaml"
            with storage.open_output(path) as file:
                file.write(yaml.safe_dump(given).encode())
            run_trainer(method, ["--config", path])
            rows = storage.read_json(storage.join(stage.directory, "metrics.json"))["rows"]
            counts = {"in": sum(rows.values()), "kept": rows["train"], "drops": {}, "rejects": {}}
            storage.write_json(
                storage.join(stage.directory, MANIFEST), {**stage.about, "tables": {}, "counts": counts, "seconds": 0.0}
            )
        return stage

    def train_inspector(self) -> Stage:
        return self.train("inspector")

    def train_aligner(self) -> Stage:
        return self.train("aligner")

    def respond(self) -> Stage:
        heldout = self.heldout() or storage.join(self.directory("curate"), "aligner", "test")
        return respond.run(
            respond.Config(
                **self.limited(
                    "respond",
                    questions=heldout,
                    engine=self.config.engine("upstream"),
                    limit=self.limit(self.config.stages.respond.limit),
                    retry_failed=self.config.retry_failed,
                )
            ),
            self.beam_arguments,
        )

    def align(self) -> Stage:
        return self.align_with("align", self.config.stages.align)

    def align_compared(self) -> Stage:
        return self.align_with("align_compared", self.config.stages.align.compared())

    def align_with(self, name: str, settings: AlignStage) -> Stage:
        done = align.run(
            align.Config(
                stage=name,
                corpus=self.directory("respond"),
                engine=self.config.engine("aligner"),
                every_row=settings.every_row,
                bf16=settings.bf16,
                sampling=settings.sampling,
                retry_failed=self.config.retry_failed,
                **(self.squad_file(name, settings) if self.config.is_squad else self.own_models(settings)),
                **self.common(),
            ),
            self.beam_arguments,
        )
        assert isinstance(done, Stage)
        return done

    def own_models(self, settings: AlignStage) -> dict[str, Any]:
        """The one criterion's models and rules, as align takes them."""
        return {
            "aligner": (self.directory("train_aligner"),),
            "inspector": (self.directory("train_inspector"),),
            "criterion": (self.name,),
            **{name: getattr(settings, name) for name in RULES},
        }

    def squad_file(self, name: str, settings: AlignStage) -> dict[str, Any]:
        """Write the squad's file beside the criteria's directories, for `align --squad` as well."""

        def beside(job: Job, stage: str) -> str:
            return job.directory(stage).removeprefix(self.config.output.rstrip("/") + "/")

        members = [
            SquadMember(
                criterion=job.name,
                inspector=beside(job, "train_inspector"),
                aligner=beside(job, "train_aligner"),
            )
            for job in self.members
        ]
        path = storage.join(self.config.output, f"{name.replace('align', 'squad')}.yaml")
        with storage.open_output(path) as file:
            file.write(squad_yaml(settings.squad(members)).encode())
        return {"squad": path}

    def evaluate(self) -> Stage:
        return self.evaluate_with("evaluate", "align")

    def evaluate_compared(self) -> Stage:
        return self.evaluate_with("evaluate_compared", "align_compared")

    def evaluate_with(self, name: str, aligned: str) -> Stage:
        settings = self.config.stages.evaluate
        own = [f"{job.name}={job.directory('train_inspector')}" for job in self.members]
        return evaluate.run(
            evaluate.Config(
                stage=name,
                aligned=self.directory(aligned),
                output=self.config.output,
                seed=self.config.seed,
                inspector=(*own, *settings.inspector),
                pair_ranker=settings.pair_ranker,
                two_way=settings.two_way,
            ),
            self.beam_arguments,
        )


def parted(config: Config, names: Sequence[str]) -> Iterator[Config]:
    """The recipes of a squad's criteria: each with a directory of its own, and an aligner that is an adapter.

    Raises UsageError where two are called alike, or `stages_of` names none of them or a setting that there is not.
    """
    if len(set(names)) < len(names):
        raise UsageError(f"criterion: two packs have one name: {', '.join(names)}")
    if unknown := config.stages_of.keys() - set(names):
        raise UsageError(f"stages_of: no criterion {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    shared = to_dict(replace(config.stages, align=AlignStage()))
    shared["train_aligner"] = ADAPTER | shared["train_aligner"]
    for name, criterion in zip(names, config.criteria, strict=True):
        own = config.stages_of.get(name, {})
        if wrong := own.keys() & set(OF_A_SQUAD):
            raise UsageError(f"stages_of.{name}: {', '.join(sorted(wrong))}: is done once, for all criteria")
        layers = [Layer("stages", shared, typed=True), Layer(f"stages_of.{name}", own, typed=True)]  # seen already
        stages_of_one = resolve(StageSettings, layers).config
        yield replace(
            config,
            criterion=criterion,
            output=storage.join(config.output, storage.check_name(name, f"criterion pack {criterion}")),
            only=config.only if config.only in OF_ONE_CRITERION else None,
            stages=stages_of_one,
            stages_of={},
        )


def run(config: Config, beam_arguments: Sequence[str] = ()) -> int:
    """Do the stages in order; gives the exit code."""
    if config.plan:
        return say_plan(config)
    check_inputs(config)
    check_output(config)
    job = Job(config, beam_arguments)
    job.record.open(to_dict(config), [member.name for member in job.members if member is not job])
    if not config.is_squad:
        return run_stages(job, STAGES)
    codes = []
    for member in job.members:
        member.record.open(to_dict(member.config))
        codes.append(run_stages(member, [name for name in OF_ONE_CRITERION if config.only in (None, name)]))
    codes.append(run_stages(job, OF_A_SQUAD))
    return max(codes)


def run_stages(job: Job, names: Sequence[str]) -> int:
    """Do those of a job's stages that the command asks for; gives the exit code."""
    config, rejects = job.config, 0
    names = [name for name in names if config.only in (None, name)]
    if not config.stages.align.compare:
        names = [name for name in names if not name.endswith("_compared")]
    for name in names:
        if name == "report":
            messages.print(f"report: {write(config.output)}", soft_wrap=True)
            continue
        started = time.monotonic()
        heading = f"{name} ({job.name})" if job.home != config.output else name
        messages.print(heading, style="bold")
        try:
            with observed(job.begin):
                stage = getattr(job, name)()
        except BaseException:
            job.record.note_failure(name, time.monotonic() - started)
            raise
        job.results[name] = stage
        job.record.record(stage, "complete", time.monotonic() - started, models_of(config))
        counts = stage.manifest["counts"]
        messages.print(f"  {counts['kept']:,} of {counts['in']:,} rows")
        rejects += sum(counts["rejects"].values())
    if names:
        print_summary(job.record)
    return DONE_WITH_REJECTS if rejects else DONE


def models_of(config: Config) -> dict[str, str]:
    return {name: config.engine(name)["model"] for name in ("teacher", "upstream")}


def changes(before: dict[str, Any] | None, now: dict[str, Any]) -> Iterator[str]:
    """What differs between a stage's identities, as `name: old → new`, or `name changed` where that is long (digests).

    Nothing where there was none before.
    """
    if not before:
        return
    old, new = flatten(before), flatten(json.loads(json.dumps(now)))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            values = f"{old.get(name)!r} → {new.get(name)!r}"
            yield f"{name}: {values}" if len(values) <= LONG else f"{WORDS.get(name, name)} changed"


def say_plan(config: Config) -> int:
    """Print what the recipe would cost, and where it cannot come to its count; gives the exit code."""
    packs = [load_pack(criterion) for criterion in config.criteria]
    recipes = list(parted(config, [pack.name for pack in packs])) if config.is_squad else [config]
    turns = config.stages.align.rounds or len(packs)
    code = print_plan(plan_recipes(recipes, packs, turns))
    for one, pack in zip(recipes, packs, strict=True):
        wanted = one.stages.questions
        wanted = replace(wanted, count=min(wanted.count, config.limit or wanted.count))
        _, topics = topic_growth(wanted, pack)
        if text := questions.shortfall(wanted, topics, topics):
            text = f"{pack.name}: {text}" if config.is_squad else text
            messages.print(f"at most, {text}", soft_wrap=True)
    return code


def check_output(config: Config) -> None:
    """UsageError where the output cannot be written, or is no local folder though the trainers write there."""
    trains = config.only is None or config.only.startswith("train_")
    if trains and "://" in config.output:
        raise UsageError(
            f"output = {config.output!r}: the trainers write to a local disk; give a local folder, such as "
            "-o runs/mine (stages other than train_inspector and train_aligner take a store, with --only)"
        )
    storage.check_writable(config.output)


def check_inputs(config: Config) -> None:
    """UsageError for all files and models that are not there, each by the recipe's key, before anything is spent."""
    problems = []
    for readers, key, look in inputs_of(config):
        if config.only is None or config.only in readers:
            try:
                look()
            except UsageError as error:
                problems.append(f"{key}: {error}")
    if problems:
        raise UsageError("\n".join(problems))


def inputs_of(config: Config) -> Iterator[tuple[tuple[str, ...], str, Callable[[], object]]]:
    """What a recipe reads from elsewhere: the stages that do, the key, and what raises UsageError if it is amiss."""
    for readers, name in ((("questions", "triples"), "teacher"), (("respond",), "upstream")):
        yield readers, f"models.{name}", partial(engine_digest, EngineConfig(**config.engine(name)))
    curating, judging = config.stages.curate, config.stages.evaluate
    if config.heldout:
        heldout = ingest.Config(corpus=config.heldout, output="", kind="questions")
        yield ("curate", "respond"), "heldout", partial(look_at, heldout)
    for path in curating.heldout:
        corpus = ingest.Config(corpus=path, output="", kind="questions", question_column=curating.heldout_column)
        yield ("curate",), "stages.curate.heldout", partial(look_at, corpus)
    yield ("curate",), "stages.curate", partial(curate.check_columns, "triples", TRIPLES, curating, ())
    if curating.previous:
        yield ("curate",), "stages.curate.previous", partial(read_table, curating.previous)
    if curating.embedder:
        yield ("curate",), "stages.curate.embedder", partial(model_config, curating.embedder)
    for name, trainer in TRAINERS.items():
        base = getattr(config.stages, f"train_{name}").get("base", trainer.base)
        yield (f"train_{name}",), f"stages.train_{name}.base", partial(base_digest, base)
    for judge in judging.inspector:
        yield ("evaluate",), "stages.evaluate.inspector", partial(model_config, judge.partition("=")[2] or judge)
    if judging.pair_ranker:
        yield ("evaluate",), "stages.evaluate.pair_ranker", partial(model_config, judging.pair_ranker)
    for path in judging.two_way:
        corpus = ingest.Config(corpus=path, output="", kind="triples", response_column="rejected")
        yield ("evaluate",), "stages.evaluate.two_way", partial(look_at, corpus)


def look_at(corpus: ingest.Config) -> None:
    """UsageError where a corpus is missing, empty or lacks a column, or a table is broken."""
    if storage.exists(storage.join(corpus.corpus, MANIFEST)):
        read_table(corpus.corpus)
    else:
        ingest.find_sources(corpus)


def print_summary(record: runs.Run) -> None:
    grid = Grid(box=None, pad_edge=False)
    for heading in ("stage", "status", "in", "kept", "seconds"):
        grid.add_column(heading, justify="left" if heading in ("stage", "status") else "right")
    for entry in record.read()["stages"]:
        manifest = storage.join(record.output, entry["directory"], MANIFEST)
        counts = storage.read_json(manifest)["counts"] if storage.exists(manifest) else {"in": 0, "kept": 0}
        grid.add_row(
            entry["stage"], entry["status"], f"{counts['in']:,}", f"{counts['kept']:,}", f"{entry['seconds']:,.1f}"
        )
    messages.print(grid)


def main(argv: Sequence[str] | None = None) -> int:
    return entrypoint.main(argv, Config, run, program="alignbeam run", description=__doc__, file_flag="recipe")


if __name__ == "__main__":
    sys.exit(main())
