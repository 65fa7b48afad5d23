"""What a recipe may name as `stage`, and one step of a run: what a stage kind is given to do.

A stage module has a Config (schemas.fields), a function that does the step, and a `KIND` that says what running,
planning, checking and reporting need to know of it. A planned step has a name, a kind and a Config; its references are
tables and models of other steps, or paths. Its identity is the kind, the version, and all of the Config that decides
what is made, with the content of tables, models and packs in place of their names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import apache_beam as beam
import pyarrow as pa

from pipelines.runtime.estimates import Outlook, Prospect, no_cost
from pipelines.runtime.stage import Stage, check_yield, complete
from schemas.fields import Role
from transforms.engines.engine import EngineConfig
from transforms.tables import storage
from transforms.tables.table import Table
from transforms.tables.write import SplitMarks, WriteTables

Schemas = Mapping[str, pa.Schema]  # of tables by name, the main one first


@dataclass(frozen=True)
class ModelKind:
    """What a step that trains gives: a model that can take these roles."""

    roles: tuple[Role, ...]


@dataclass(frozen=True)
class Outside:
    """What decides a step's result beside its Config and inputs, such as templates and files.

    paths: what counts by where it lies, as seen from the run directory, so that both can be moved together.
    follows: stands for files that may become more while the rest of the result stays.
    """

    decides: Mapping[str, Any] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    follows: str = ""


@dataclass(frozen=True)
class Place:
    """Where steps are done, and how.

    output: the run directory. cache: the directory of the response cache. work: a local folder for trainers, where the
    output is a store. launch: the program that starts trainers, such as torchrun. shard: (index, count) of the input
    shards that this process does, where others do the rest.
    """

    output: str
    cache: str = ""
    retry_failed: bool = False
    work: str = ""
    launch: str = ""
    shard: tuple[int, int] = (0, 1)

    @property
    def cache_directory(self) -> str:
        return self.cache or storage.join(self.output, "cache")


@dataclass(frozen=True)
class Step:
    """One step of a run, its inputs there: what a stage kind is given to do.

    tables, answers: by the path of the edge, such as `questions` or `aligned.guard on`: an input table, and its column
    that is read as the answer. models: an EngineConfig for a generator, the folder or hub id of any other.
    """

    name: str
    stage: Stage
    place: Place
    tables: Mapping[str, Table] = field(default_factory=dict)
    answers: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, EngineConfig | str] = field(default_factory=dict)
    beam_arguments: tuple[str, ...] = ()

    def table(self, path: str) -> Table:
        return self.tables[path]

    def engine(self, path: str) -> EngineConfig:
        """Return the settings of a generator."""
        engine = self.models[path]
        assert isinstance(engine, EngineConfig)
        return engine

    def folder(self, path: str) -> str:
        """Return the folder or hub id of a model that is no generator."""
        folder = self.models[path]
        assert isinstance(folder, str)
        return folder

    def under(self, field_name: str) -> list[str]:
        """Return the paths of a field's inputs or models: `aligned` has `aligned.guard off`, `aligned.guard on`."""
        named = [*self.tables, *self.models]
        return [path for path in named if path == field_name or path.startswith(f"{field_name}.")]

    def left_to_others(self, table: Table) -> frozenset[int]:
        """Return the shards of an input that other processes do."""
        index, count = self.place.shard
        return frozenset(shard.index for shard in table.shards if shard.index % count != index)

    def write(self, schemas: Schemas, over: Table, split: Any = None) -> WriteTables:
        """Return what writes the step's tables, a shard for each of `over`; rows are parted by their marks."""
        split = split or SplitMarks(next(iter(schemas)))
        is_partial = bool(self.left_to_others(over))
        return WriteTables(
            self.stage.directory, dict(schemas), split, over.targets, self.stage.about, partial=is_partial
        )


Build = Callable[[Any, Step, beam.Pipeline, frozenset[int]], object]


def complete_step(config: Any, step: Step, *, build: Build, over: str, models: bool = True) -> None:
    """Do what is left of a step that makes a shard for each of the input `over`.

    build: puts the pipeline together that makes all shards but those of these indices.
    """
    table = step.tables[over]
    complete(
        step.stage,
        table,
        partial(build, config, step),
        step.beam_arguments,
        left_to_others=step.left_to_others(table),
        retry_failed=step.place.retry_failed,
        models=models,
    )


def check_minimum(config: Any, stage: Stage) -> None:
    """Raise StageError where a smaller share of the rows survived than `minimum_yield`, if a Config has one."""
    if (minimum := getattr(config, "minimum_yield", None)) is not None:
        check_yield(stage, minimum)


def nothing(config: Any) -> Outside:
    return Outside()


def accepts(config: Any) -> None:
    """Find nothing wrong outside the run."""


def no_notes(place: Place) -> None:
    """Recall nothing of earlier runs."""


def never(config: Any) -> bool:
    return False


def always(config: Any) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class StageKind:
    """What a recipe may name as `stage`: its settings and inputs, what it gives, and how it is done.

    name: its name in recipes. about: one line for `--help` and the docs. config: a frozen dataclass of schemas.fields.
    do: does what is left of a step; the manifest that it writes says that it is done.
    gives: returns the schemas of its tables, the main one first, from the Config and those of its inputs by path; or
        the ModelKind of what it trains. An input's schema is missing where it is not known yet.
    answer: the column of the main table that others read as the answer.
    outside: returns what decides the result beside Config and inputs. check: raises UsageError for what is wrong with
        files and folders outside the run; neither loads a model.
    recall: reads what earlier runs noted in the run directory, so that it need not be found out again; called before
        `check`, `gives` and `outside`.
    estimate: returns what the step would make and cost; it loads no model.
    runs_models: whether engines or accelerators are used; the others use all processors.
    grows: whether new shards of the inputs continue the same result.
    check_yield: raises StageError where too few rows of a step that is done survived.
    trains: whether a trainer is started, which wants the GPU for itself, and a local disk.
    shows: prints what the step made, beyond its counts.
    version: raised where the same settings give another result.
    """

    name: str
    about: str
    config: type
    do: Callable[[Any, Step], None]
    gives: Callable[[Any, Mapping[str, pa.Schema]], Schemas | ModelKind]
    answer: str = ""
    outside: Callable[[Any], Outside] = nothing
    check: Callable[[Any], None] = accepts
    recall: Callable[[Place], None] = no_notes
    estimate: Callable[[Any, Prospect], Outlook] = no_cost
    runs_models: Callable[[Any], bool] = never
    grows: Callable[[Any], bool] = never
    check_yield: Callable[[Any, Stage], None] = check_minimum
    trains: bool = False
    shows: Callable[[Stage], None] | None = None
    version: int = 1


@dataclass(frozen=True)
class TableSource:
    """Where an input table comes from: a step, and one of its tables (default: the main one); or a path.

    answer: its column that is read as the answer, "" for the one that the maker's kind names.
    """

    step: str = ""
    path: str = ""
    table: str | None = None
    answer: str = ""


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from: a step that trained it, or the settings of an entry, `model` among them.

    Settings of a step's model say how it is run: those of its base's entry.
    """

    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    step: str = ""


@dataclass(frozen=True)
class PlannedStep:
    """A step before it is done: its name, kind and Config, and the source of each edge by path.

    after: steps that are done before, whatever this one takes.
    """

    name: str
    kind: StageKind
    config: Any
    sources: Mapping[str, TableSource | ModelSource] = field(default_factory=dict, hash=False)
    after: tuple[str, ...] = ()
    beam_arguments: tuple[str, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the names of the steps that come before."""
        return tuple(dict.fromkeys([*(source.step for source in self.sources.values() if source.step), *self.after]))


def in_order(steps: Sequence[PlannedStep]) -> list[PlannedStep]:
    """Return the steps, each after those that it needs, otherwise as they stand.

    Raises ValueError with the names around it where they need each other in a circle.
    """
    by_name = {step.name: step for step in steps}
    ordered: dict[str, PlannedStep] = {}
    trail: list[str] = []

    def visit(name: str) -> None:
        if name in trail:
            raise ValueError(" needs ".join([*trail[trail.index(name) :], name]))
        if name in ordered or name not in by_name:
            return
        trail.append(name)
        for needed in by_name[name].needs:
            visit(needed)
        trail.pop()
        ordered[name] = by_name[name]

    for step in steps:
        visit(step.name)
    return list(ordered.values())
