"""A job: the stages of one run directory, each with the settings and inputs that the recipe gives it."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import yaml

from pipelines import align, curate, evaluate, ingest, questions, respond, score, triples
from pipelines.recipe.recipe import STAGES, AlignStage, Config, parted
from pipelines.recipe.two_way import import_two_way
from pipelines.runtime.runs import Record
from pipelines.runtime.stage import Stage, announce, identity_digest
from pipelines.runtime.trainers import run_trainer
from schemas.console import messages
from schemas.criteria.pack import load_pack
from schemas.errors import UsageError
from schemas.settings import flatten
from schemas.squads import Squad, SquadMember, load_squad, squad_yaml
from schemas.urls import redacted
from transforms.engines.encoder import model_digest
from transforms.tables import storage
from transforms.tables.table import MANIFEST, read_table

LONG = 60  # characters of an old and a new value beyond which only the name is told
WORDS = {"pack": "the criterion pack"}


class Job:
    """One run directory: each method does a stage and returns it.

    members: the jobs that train a squad's models, in directories below; the job itself where it has one criterion.
    home: the directory of what a squad's jobs share: the response cache, and the held-out questions.
    reads: the directories of other stages that the stage now being done has asked for, shared with the members.
    """

    def __init__(
        self, config: Config, beam_arguments: Sequence[str], home: str = "", reads: list[str] | None = None
    ) -> None:
        self.config = config
        self.beam_arguments = beam_arguments
        self.home = home or config.output
        self.reads = [] if reads is None else reads
        names = [load_pack(criterion).name for criterion in config.criteria]
        self.name = ", ".join(names)
        self.members = [self]
        if config.is_squad:
            self.members = [Job(recipe, beam_arguments, self.home, self.reads) for recipe in parted(config, names)]
        self.record = Record(config.output, config.name, self.name, config.seed, config.toy)
        self.before = self.record.identities()
        self.results: dict[str, Stage] = {}

    def announce(self, stage: Stage) -> None:
        """Say why a stage is done again, and list it as running."""
        if stage.name not in STAGES:  # a round of one
            return
        if edits := list(changes(self.before.get(stage.name), stage.identity)):
            text = f"  stale: {', '.join(edits)}; done again, with every completion that still fits"
            messages.print(text, soft_wrap=True)
        self.record.write_stage(stage, "running", 0.0, models_of(self.config), self.inputs())

    def directory(self, name: str) -> str:
        """Return where the results of an earlier stage lie; UsageError where it has none."""
        directory = self.results[name].directory if name in self.results else self.record.directory_of(name)
        if directory is None:
            raise UsageError(f"--only {self.config.only}: stage {name} is not complete in {self.config.output}")
        self.reads.append(storage.join(self.config.output, name))
        return directory

    def inputs(self) -> list[str]:
        """Return what the stage now being done has read, as seen from this run: `triples`, `ethical/train_aligner`."""
        return sorted({path.removeprefix(self.config.output.rstrip("/") + "/") for path in self.reads})

    def common(self) -> dict[str, Any]:
        config = self.config
        return {"output": config.output, "cache": storage.join(self.home, "cache"), "seed": config.seed}

    def settings_of(self, name: str, **more: Any) -> dict[str, Any]:
        """Return a stage's settings from the recipe, with what the command adds."""
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
                **self.settings_of(
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
                **self.settings_of(
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
        """Return the held-out questions as a table, imported once."""
        path = self.config.heldout
        if path is None:
            return None
        if not storage.exists(storage.join(path, MANIFEST)):
            output = storage.join(self.home, "heldout", identity_digest({"file": storage.mark(path)}))
            path = ingest.run(ingest.Config(corpus=path, output=output, kind="questions")).directory
        self.reads.append(path)
        return path

    def curate(self) -> Stage:
        heldout = self.heldout()
        settings = self.settings_of("curate", input=self.directory("triples"))
        del settings["cache"]  # no model answers here
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
        if not stage.is_done():
            announce(stage)
            started = time.monotonic()
            path = f"{stage.directory}.yaml"
            with storage.open_output(path) as file:
                file.write(yaml.safe_dump(redacted(settings | {"data": data, "output": stage.directory})).encode())
            run_trainer(method, ["--data", data, "--config", path])
            rows = storage.read_json(storage.join(stage.directory, "metrics.json"))["rows"]
            counts = {"in": sum(rows.values()), "kept": rows["train"], "drops": {}, "rejects": {}}
            manifest = {**stage.about, "tables": {}, "counts": counts, "seconds": time.monotonic() - started}
            storage.write_json(storage.join(stage.directory, MANIFEST), manifest)
        return stage

    def train_inspector(self) -> Stage:
        return self.train("inspector")

    def train_aligner(self) -> Stage:
        return self.train("aligner")

    def respond(self) -> Stage:
        heldout = self.heldout() or storage.join(self.directory("curate"), "aligner", "test")
        return respond.run(
            respond.Config(
                **self.settings_of(
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
        corpus = self.directory("respond")
        squad = self.squad(name, settings)
        return align.run(
            align.Config(
                stage=name,
                corpus=corpus,
                squad=squad,
                scores=self.scores(corpus, squad, settings) if squad.needs_all_scores else "",
                engine=self.config.engine("aligner"),
                bf16=settings.bf16,
                sampling=settings.sampling,
                retry_failed=self.config.retry_failed,
                **self.common(),
            ),
            self.beam_arguments,
        )

    def squad(self, name: str, settings: AlignStage) -> Squad:
        """Return who aligns: the one criterion's models; of several criteria those of a squad file.

        The file is written beside the criteria's directories, so that `align --squad` takes it too.
        """
        if not self.config.is_squad:
            inspector, aligner = self.directory("train_inspector"), self.directory("train_aligner")
            member = SquadMember(criterion=self.name, inspector=inspector, aligner=aligner)
            return replace(settings.squad([member]), routing="fixed")

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
        return load_squad(path)

    def scores(self, corpus: str, squad: Squad, settings: AlignStage) -> str:
        inspectors = {member.criterion: member.inspector for member in squad.members}
        config = score.Config(corpus=corpus, output=self.config.output, inspectors=inspectors, bf16=settings.bf16)
        return score.run(config, self.beam_arguments).directory

    def evaluate(self) -> Stage:
        return self.evaluate_with("evaluate", "align")

    def evaluate_compared(self) -> Stage:
        return self.evaluate_with("evaluate_compared", "align_compared")

    def evaluate_with(self, name: str, aligned: str) -> Stage:
        settings = self.config.stages.evaluate
        own = [f"{job.name}={job.directory('train_inspector')}" for job in self.members]
        two_way = import_two_way(settings.two_way, self.config.output, self.beam_arguments)
        return evaluate.run(
            evaluate.Config(
                stage=name,
                aligned=self.directory(aligned),
                output=self.config.output,
                seed=self.config.seed,
                inspector=(*own, *settings.inspector),
                pair_ranker=settings.pair_ranker,
                two_way={name: imported.directory for name, imported in two_way.items()},
            ),
            self.beam_arguments,
        )


def models_of(config: Config) -> dict[str, str]:
    return {name: config.engine(name)["model"] for name in ("teacher", "upstream")}


def changes(before: dict[str, Any] | None, now: dict[str, Any]) -> Iterator[str]:
    """Yield what differs between a stage's identities.

    It is `name: old → new`, or `name changed` where that is long (digests). Without one before there is nothing.
    """
    if not before:
        return
    old, new = flatten(before), flatten(json.loads(json.dumps(now)))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            values = f"{old.get(name)!r} → {new.get(name)!r}"
            yield f"{name}: {values}" if len(values) <= LONG else f"{WORDS.get(name, name)} changed"
