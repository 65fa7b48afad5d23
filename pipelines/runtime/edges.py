"""What an edge carries: a table where a table is due, with the columns it needs; a model of the right role.

Steps are gone through in order. A kind says which tables it will give, from those of its inputs, so that a column which
is missing, or holds no text, is told before anything is done. What follows from a mistake is not told again.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from pipelines.runtime.step import ModelKind, ModelSource, Place, PlannedStep, Schemas, TableSource
from pipelines.runtime.steps import ANSWER, NO_TEXT, UNNAMED, maker_answer
from pipelines.runtime.training_shards import TRAINERS
from schemas.errors import UsageError
from schemas.fields import Edge, Takes, edges, unnamed
from schemas.tables import SPLITS
from transforms.tables import storage
from transforms.tables.columns import is_text
from transforms.tables.table import read_table

SPLIT_COLUMNS = {"split", "inspector_split"}
TRAIN = SPLITS[0]  # the main table of a trainer's shards


@dataclass
class EdgeChecker:
    """Goes through planned steps in order, and notes what is wrong: note(step, path, message).

    place: where the steps will be done, if that is known: kinds recall what earlier runs noted there.
    """

    steps: Sequence[PlannedStep]
    note: Callable[[str, str, str], None]
    place: Place | None = None
    given: dict[str, Schemas | ModelKind] = field(default_factory=dict)

    def check(self) -> None:
        by_name = {step.name: step for step in self.steps}
        for step in self.steps:
            inputs: dict[str, pa.Schema] = {}
            for path in unnamed(step.config):
                self.note(step.name, path, UNNAMED)
            for edge in edges(step.config):
                source = step.sources.get(edge.path)
                if isinstance(source, TableSource):
                    schema = self.schema(step, edge, source)
                    if schema is not None and self.has_columns(step, edge, source, schema, by_name):
                        inputs[edge.path] = schema
                elif isinstance(source, ModelSource):
                    self.check_model(step, edge, source)
            try:
                if self.place:
                    step.kind.recall(self.place)
                self.given[step.name] = step.kind.gives(step.config, inputs)
            except UsageError as error:
                self.note(step.name, "", str(error))

    def schema(self, step: PlannedStep, edge: Edge, source: TableSource) -> pa.Schema | None:
        """Return the columns of an input; None where they are not known, or a mistake was noted."""
        if not source.step:
            try:
                return read_table(source.path, source.table).schema
            except UsageError as error:
                self.note(step.name, edge.path, str(error))
                return None
        tables = self.given.get(source.step)
        if isinstance(tables, ModelKind):
            self.note(step.name, edge.path, f"{source.step!r} trains a model; a table is due here")
            return None
        if not tables:
            return None
        if source.table is None:
            return next(iter(tables.values()))
        if source.table not in tables:
            near = difflib.get_close_matches(source.table, tables, 1)
            hint = f"did you mean {source.step}.{near[0]}?" if near else f"it gives {', '.join(tables)}"
            self.note(step.name, edge.path, f"{source.step!r} gives no table {source.table!r}; {hint}")
            return None
        return tables[source.table]

    def has_columns(
        self,
        step: PlannedStep,
        edge: Edge,
        source: TableSource,
        schema: pa.Schema,
        by_name: Mapping[str, PlannedStep],
    ) -> bool:
        assert isinstance(edge.edge, Takes)
        shards = self.shards_for(step, source, schema)
        needed = list(edge.edge.columns if shards is None else shards.names)
        if edge.edge.answer:
            maker = by_name[source.step].kind.answer if source.step else maker_answer(source, {})
            needed.append(source.answer or maker or ANSWER)
        shown = source.step + (f".{source.table}" if source.table else "") or source.path
        if missing := [name for name in needed if name not in schema.names]:
            if SPLIT_COLUMNS & set(missing) and step.kind.trains:
                hint = f"curate it first: {{stage: curate, table: {shown}}}"
                self.note(step.name, edge.path, f"{shown!r} has no splits; {hint}")
            else:
                columns = ", ".join(schema.names)
                self.note(step.name, edge.path, f"{shown!r} has no column {', '.join(missing)}; it has {columns}")
            return False
        texts = [name for name in needed if shards is None or is_text(shards.field(name).type)]
        for name in texts:
            kind = schema.field(name).type
            if name not in NO_TEXT and not is_text(kind):
                self.note(step.name, edge.path, f"column {name!r} of {shown!r} holds no text but {kind}")
                return False
        return True

    def shards_for(self, step: PlannedStep, source: TableSource, schema: pa.Schema) -> pa.Schema | None:
        """Return the columns of a trainer's shards where an input is shards, in place of a curated table; else None."""
        if not step.kind.trains:
            return None
        own = TRAINERS[step.kind.name.removeprefix("train_")].schema
        tables = self.given.get(source.step)
        is_made_here = isinstance(tables, Mapping) and TRAIN in tables
        return own if is_made_here or schema.names == own.names else None

    def check_model(self, step: PlannedStep, edge: Edge, source: ModelSource) -> None:
        role = getattr(edge.edge, "role", "")
        if source.step:
            kind = self.given.get(source.step)
            if kind is None:
                return
            if not isinstance(kind, ModelKind):
                self.note(step.name, edge.path, f"{source.step!r} gives a table; a model is due here")
            elif role not in kind.roles:
                self.note(step.name, edge.path, f"{source.step!r} trains no {role}, but: {', '.join(kind.roles)}")
        elif role != "generator" and source.settings.get("engine", "vllm") == "server":
            message = f"{edge.reference!r} is a served model, which cannot be a {role}; name a folder"
            self.note(step.name, edge.path, message)
        elif role != "generator" and (revision := revision_of(source)):
            message = f"{edge.reference!r} has revision {revision}, which counts only where a model generates"
            self.note(step.name, edge.path, f"{message}; download that revision and name its folder")


def revision_of(source: ModelSource) -> str:
    """Return the revision of a model on the hub, "" where there is none; of a folder it says nothing."""
    arguments = source.settings.get("args")
    revision = arguments.get("revision") if isinstance(arguments, Mapping) else None
    return str(revision) if revision and not storage.exists(str(source.settings.get("model", ""))) else ""


def check_edges(steps: Sequence[PlannedStep], place: Place) -> None:
    """Raise UsageError with all that is wrong with the tables and models that steps take from each other or paths."""
    problems: list[str] = []

    def note(step: str, path: str, message: str) -> None:
        problems.append(": ".join(part for part in (step, path, message) if part))

    EdgeChecker(steps, note, place).check()
    if problems:
        raise UsageError("\n".join(problems))
