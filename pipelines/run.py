"""Run a recipe: from a criterion in plain text to an aligned corpus, its evaluation and a report.

    alignbeam run mine.yaml --model Qwen/Qwen3-8B -o runs/mine --limit 50
    alignbeam run mine.yaml --model Qwen/Qwen3-8B -o runs/mine --plan
    alignbeam run mine.yaml --model Qwen/Qwen3-8B -o runs/mine --only curate

The same command again goes on where it stopped; after an edit each stage that it touches says why and is done again.
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

from pipelines import (
    align,
    curate,
    entrypoint,
    evaluate,
    ingest,
    plan,
    questions,
    report,
    respond,
    runs,
    stages,
    triples,
)
from pipelines.align import Settings as AlignSettings
from pipelines.curate import Settings as CurateSettings
from pipelines.evaluate import Settings as EvaluateSettings
from pipelines.questions import Settings as QuestionSettings
from pipelines.respond import Settings as RespondSettings
from pipelines.train import run_trainer
from pipelines.triples import Settings as TripleSettings
from pipelines.watch import console
from schemas.command_line import DONE, DONE_WITH_REJECTS, setting
from schemas.config import flatten, to_dict, validated
from schemas.criteria import load_pack
from schemas.errors import UsageError
from schemas.tables import TRIPLES
from training import aligner as aligner_trainer
from training import inspector as inspector_trainer
from training.run import base_digest
from transforms import storage
from transforms.engines import EngineConfig
from transforms.engines.encoder import model_config, model_digest
from transforms.engines.identity import engine_digest
from transforms.tables import MANIFEST, read_table

STAGES = (
    "questions",
    "triples",
    "curate",
    "train_inspector",
    "train_aligner",
    "respond",
    "align",
    "evaluate",
    "report",
)
TRAINERS: dict[str, Any] = {"inspector": inspector_trainer.Config, "aligner": aligner_trainer.Config}
LONG = 60  # characters of an old and a new value beyond which only the name is told
WORDS = {"pack": "the criterion pack"}


@dataclass(frozen=True, kw_only=True)
class Models:
    """Settings of transforms.engines.EngineConfig for each model that generates.

    teacher writes questions and triples; upstream answers the held-out questions; aligner holds how the trained aligner
    is run (its `model` is the trained one).
    """

    teacher: dict[str, Any] = field(default_factory=dict)
    upstream: dict[str, Any] = field(default_factory=dict)
    aligner: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """What each stage may be told; a trainer's settings are those of training.inspector and training.aligner."""

    questions: QuestionSettings = field(default_factory=QuestionSettings)
    triples: TripleSettings = field(default_factory=TripleSettings)
    curate: CurateSettings = field(default_factory=CurateSettings)
    train_inspector: dict[str, Any] = field(default_factory=dict)
    train_aligner: dict[str, Any] = field(default_factory=dict)
    respond: RespondSettings = field(default_factory=RespondSettings)
    align: AlignSettings = field(default_factory=AlignSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a recipe's YAML file says."""

    name: str
    criterion: str  # a pack: its name, or a file
    seed: int = 0
    toy: bool = False  # the models prove that the job works, not how well it does; the report says so
    heldout: str | None = None  # file or table of questions to evaluate on; default: the curated test split
    models: Models = field(default_factory=Models)
    stages: StageSettings = field(default_factory=StageSettings)


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
        for name in ("teacher", "upstream"):
            given = getattr(self.models, name)
            if not (self.model or given.get("model") or given.get("engine") == "scripted"):
                raise ValueError(f"models.{name}.model: the recipe names no model; give one with --model")
        for name in ("teacher", "upstream", "aligner"):
            self.engine(name)
        for name, trainer in TRAINERS.items():
            given = getattr(self.stages, f"train_{name}")
            validated(trainer, f"stages.train_{name}", {**given, "data": "curated", "output": "trained"})

    def engine(self, name: str) -> dict[str, Any]:
        """The engine settings of `teacher`, `upstream` or `aligner`, checked; --model wins over the recipe."""
        given = getattr(self.models, name)
        model = "the trained aligner" if name == "aligner" else self.model or given.get("model", "")
        return to_dict(validated(EngineConfig, f"models.{name}", {**given, "model": model}))


class Job:
    """One run of a recipe: each method does a stage and gives its directory."""

    def __init__(self, config: Config, beam_arguments: Sequence[str]):
        self.config = config
        self.beam_arguments = beam_arguments
        self.pack = load_pack(config.criterion)
        self.record = runs.Run(config.output, config.name, self.pack.name, config.seed, config.toy)
        self.before = self.record.identities()
        self.results: dict[str, stages.Stage] = {}

    def begin(self, stage: stages.Stage) -> None:
        """Say why a stage is done again, and list it as running."""
        if stage.name not in STAGES:  # a round of one
            return
        if edits := list(changes(self.before.get(stage.name), stage.identity)):
            text = f"  stale: {', '.join(edits)}; done again, with every completion that still fits"
            console.print(text, markup=False, soft_wrap=True)
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
        return {"output": config.output, "cache": storage.join(config.output, "cache"), "seed": config.seed}

    def limited(self, name: str, **more: Any) -> dict[str, Any]:
        """A stage's settings from the recipe, with what the command adds."""
        settings = getattr(self.config.stages, name)
        return {item.name: getattr(settings, item.name) for item in fields(settings)} | self.common() | more

    def limit(self, of_stage: int | None) -> int | None:
        limits = [number for number in (of_stage, self.config.limit) if number is not None]
        return min(limits, default=None)

    def questions(self) -> stages.Stage:
        engine = self.config.engine("teacher")
        count = self.limit(self.config.stages.questions.count) or 1
        return questions.run(
            questions.Config(
                **self.limited(
                    "questions",
                    criterion=self.config.criterion,
                    engine=engine,
                    count=count,
                    retry_failed=self.config.retry_failed,
                )
            ),
            self.beam_arguments,
        )

    def triples(self) -> stages.Stage:
        return triples.run(
            triples.Config(
                **self.limited(
                    "triples",
                    questions=self.directory("questions"),
                    criterion=self.config.criterion,
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
        output = storage.join(self.config.output, "heldout", stages.identity_digest({"file": storage.mark(path)}))
        return ingest.run(ingest.Config(corpus=path, output=output, kind="questions")).directory

    def curate(self) -> stages.Stage:
        heldout = self.heldout()
        settings = self.limited("curate", input=self.directory("triples"))
        known = {item.name for item in fields(curate.Config)}
        settings = {name: value for name, value in settings.items() if name in known}
        if heldout:
            settings["heldout"] = (*settings["heldout"], heldout)
        return curate.run(curate.Config(**settings), self.beam_arguments)

    def train(self, method: str) -> stages.Stage:
        settings = getattr(self.config.stages, f"train_{method}")
        data = storage.join(self.directory("curate"), method)
        base = settings.get("base")
        identity = {
            "data": read_table(self.directory("curate")).digest,
            "settings": settings,
            "base": model_digest(base) if base and storage.is_directory(base) else base,
        }
        stage = stages.Stage.under(self.config.output, f"train_{method}", identity)
        if not stage.is_complete:
            stages.begin(stage)
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

    def train_inspector(self) -> stages.Stage:
        return self.train("inspector")

    def train_aligner(self) -> stages.Stage:
        return self.train("aligner")

    def respond(self) -> stages.Stage:
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

    def align(self) -> stages.Stage:
        done = align.run(
            align.Config(
                **self.limited(
                    "align",
                    corpus=self.directory("respond"),
                    aligner=(self.directory("train_aligner"),),
                    inspector=(self.directory("train_inspector"),),
                    criterion=(self.pack.name,),
                    engine=self.config.engine("aligner"),
                    retry_failed=self.config.retry_failed,
                )
            ),
            self.beam_arguments,
        )
        assert isinstance(done, stages.Stage)
        return done

    def evaluate(self) -> stages.Stage:
        settings = self.config.stages.evaluate
        own = f"{self.pack.name}={self.directory('train_inspector')}"
        return evaluate.run(
            evaluate.Config(
                aligned=self.directory("align"),
                output=self.config.output,
                seed=self.config.seed,
                inspector=(own, *settings.inspector),
                pair_ranker=settings.pair_ranker,
                two_way=settings.two_way,
            ),
            self.beam_arguments,
        )


def run(config: Config, beam_arguments: Sequence[str] = ()) -> int:
    """Do the stages in order; gives the exit code."""
    if config.plan:
        return say_plan(config)
    check_inputs(config)
    check_output(config)
    job = Job(config, beam_arguments)
    job.record.open(to_dict(config))
    rejects = 0
    for name in STAGES[:-1]:
        if config.only not in (None, name):
            continue
        started = time.monotonic()
        console.print(f"[bold]{name}[/bold]")
        try:
            with stages.observed(job.begin):
                stage = getattr(job, name)()
        except BaseException:
            job.record.note_failure(name, time.monotonic() - started)
            raise
        job.results[name] = stage
        job.record.record(stage, "complete", time.monotonic() - started, models_of(config))
        counts = stage.manifest["counts"]
        console.print(f"  {counts['kept']:,} of {counts['in']:,} rows")
        rejects += sum(counts["rejects"].values())
    if config.only in (None, "report"):
        console.print(f"report: {report.write(config.output)}", soft_wrap=True)
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
    pack = load_pack(config.criterion)
    code = plan.print_plan(plan.plan_recipe(config, pack))
    wanted = config.stages.questions
    _, topics = plan.topic_growth(wanted, pack)
    wanted = replace(wanted, count=min(wanted.count, config.limit or wanted.count))
    if text := questions.shortfall(wanted, topics, topics):
        console.print(f"at most, {text}", markup=False, soft_wrap=True)
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
    console.print(grid)


def main(argv: Sequence[str] | None = None) -> int:
    return entrypoint.main(argv, Config, run, program="alignbeam run", description=__doc__, file_flag="recipe")


if __name__ == "__main__":
    sys.exit(main())
