"""A recipe's names become planned steps: every reference resolved, every Config built, everything checked at once.

    graph = read_graph(source, STAGES, Told(sets=…, models=…, limit=…))     # raises UsageError with all mistakes
    graph.chosen(until="aligned")                                           # names of the steps to do
    check_outside(graph.steps)                                              # files, folders, models; loads none

An edge is checked by columns: an input says which it needs, and a kind says which its tables will have.
"""

import fnmatch
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from typing import Any

from pipelines.recipe.models import TRAINED, engine_settings, entry_problems, named, named_already
from pipelines.recipe.read import read_recipe, with_settings
from pipelines.recipe.unroll import RawStep, Reference, Unrolled, unroll
from pipelines.runtime.edges import EdgeChecker
from pipelines.runtime.step import ModelSource, Place, PlannedStep, StageKind, TableSource, in_order
from pipelines.runtime.steps import outside_problems
from schemas.command_line import DONE
from schemas.console import results
from schemas.errors import UsageError
from schemas.fields import Edge, Takes, edges
from schemas.recipe import Places, Problem, near, place_of
from schemas.settings import flatten, look_over, to_dict
from schemas.urls import redact_urls, redacted
from transforms.tables import storage

KEYS_OF_STEPS = ("after",)  # beside `stage` and the settings of its kind


@dataclass(frozen=True)
class Told:
    """What a command adds to a recipe.

    sets: settings by name, as --set gives them. models: hub ids or folders by entry, "" for those that name none.
    limit: the most of every setting that is a number of rows. beam: arguments for Beam by a pattern of step names.
    is_look: whether nothing will be run, so that an entry may still lack its model.
    """

    sets: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    beam: Sequence[tuple[str, tuple[str, ...]]] = ()
    is_look: bool = False


NOTHING_TOLD = Told()


def lines_of(problems: Iterable[Problem]) -> str:
    return "\n".join(dict.fromkeys(map(str, problems)))


def outside(steps: Sequence[PlannedStep], places: Places) -> Iterator[Problem]:
    """Yield what is wrong with the files, packs and models of steps; loads no model."""
    for step in steps:
        for path, message in outside_problems(step):
            key = ("steps", step.name, *(path.split(".") if path else ()))
            yield Problem(place_of(places, key), ".".join(key), message)


@dataclass(frozen=True)
class Graph:
    """A recipe as planned steps, in an order in which they can be done."""

    name: str
    seed: int
    toy: bool
    steps: tuple[PlannedStep, ...]
    recipe: Mapping[str, Any] = field(default_factory=dict, hash=False)
    places: Places = field(default_factory=dict, hash=False)

    def check_outside(self, chosen: Collection[str] | None = None) -> None:
        """Raise UsageError with all that is wrong with the files and models of the chosen steps; loads no model."""
        steps = [step for step in self.steps if chosen is None or step.name in chosen]
        if problems := list(outside(steps, self.places)):
            raise UsageError(lines_of(problems))

    def chosen(self, only: str | None = None, from_: str | None = None, until: str | None = None) -> frozenset[str]:
        """Return the names of the steps that a command asks for; UsageError for a pattern that names none.

        only: those alone. until: those and what they need. from_: those and what needs them. Both: what lies between.
        """
        names = {step.name for step in self.steps}
        if only is not None:
            return self.matching(only, "--only")
        if until is not None:
            wanted = self.matching(until, "--until")
            needed: set[str] = set()
            for step in reversed(self.steps):
                if step.name in wanted | needed:
                    needed |= {step.name, *step.needs}
            names &= needed
        if from_ is not None:
            reached = set(self.matching(from_, "--from"))
            for step in self.steps:
                if reached & set(step.needs):
                    reached.add(step.name)
            names &= reached
        if not names:
            raise UsageError(f"--from {from_} --until {until}: no step lies between them")
        return frozenset(names)

    def matching(self, pattern: str, flag: str) -> frozenset[str]:
        """Return the names of the steps that a pattern such as `civic/*` matches."""
        names = [step.name for step in self.steps]
        matches = frozenset(fnmatch.filter(names, pattern))
        if not matches:
            raise UsageError(f"{flag} {pattern}: no such step; {near(pattern, names)}")
        return matches


def read_graph(
    source: str | Mapping[str, Any],
    kinds: Mapping[str, StageKind],
    told: Told = NOTHING_TOLD,
    place: Place | None = None,
    *,
    looks_outside: bool = False,
) -> Graph:
    """Return the graph of a recipe: a file, the name of one that comes along, or a mapping.

    place: where it will be run, if that is known. looks_outside: whether the mistakes of a wrong recipe are told with
    those of its files, packs and models; those of a right one are left to `Graph.check_outside`.
    Raises UsageError with every mistake, each with file, line and key; loads no model and writes nothing.
    """
    problems: list[Problem] = []
    recipe = read_recipe(source, problems)
    if told.sets:
        recipe = with_settings(recipe, told.sets, "--set", problems)
    unrolled = unroll(recipe, problems)
    planner = Planner(unrolled, kinds, told, problems, place)
    steps = planner.steps()
    if problems:
        keys = {problem.key for problem in problems}
        if looks_outside:
            problems += [problem for problem in outside(steps, unrolled.places) if problem.key not in keys]
        raise UsageError(lines_of(problems))
    return Graph(unrolled.name, unrolled.seed, unrolled.toy, tuple(steps), recipe.plain(), unrolled.places)


@dataclass
class Planner:
    """Makes planned steps of an unrolled recipe; every mistake is noted in `problems`."""

    unrolled: Unrolled
    kinds: Mapping[str, StageKind]
    told: Told
    problems: list[Problem]
    place: Place | None = None
    configs: dict[str, Any] = field(default_factory=dict)

    def steps(self) -> list[PlannedStep]:
        """Return the steps, each after those that it needs."""
        self.note_models()
        configs = {raw.name: self.config(raw) for raw in self.unrolled.steps.values()}
        self.configs = {name: config for name, config in configs.items() if config is not None}
        steps = [self.planned(self.unrolled.steps[name], config) for name, config in self.configs.items()]
        planned = [step for step in steps if step]
        try:
            ordered = in_order(planned)
        except ValueError as error:
            self.note(str(error).partition(" needs ")[0], "", f"a circle: {error}")
            return planned
        EdgeChecker(ordered, self.note, self.place).check()
        return ordered

    def note(self, step: str, path: str, message: str) -> None:
        """Note a problem of a step's setting."""
        self.note_at(("steps", step, *(path.split(".") if path else ())), message)

    def note_at(self, path: tuple[str, ...], message: str) -> None:
        self.problems.append(Problem(place_of(self.unrolled.places, path), ".".join(path), message))

    def kind_of(self, raw: RawStep) -> StageKind | None:
        if kind := self.kinds.get(raw.stage):
            return kind
        self.note(raw.name, "stage", f"no stage {raw.stage!r}; {near(raw.stage, self.kinds)}")
        return None

    def config(self, raw: RawStep) -> Any:
        """Return a step's Config, None where it is wrong."""
        kind = self.kind_of(raw)
        if kind is None:
            return None
        settings = {name: value for name, value in raw.settings.items() if name not in KEYS_OF_STEPS}
        for item in fields(kind.config):
            if item.metadata.get("of_run"):
                if item.name in settings:
                    self.note(raw.name, item.name, "is filled in by the run; leave it out")
                settings[item.name] = ""
            if item.name == "seed":
                settings.setdefault("seed", self.unrolled.seed)
        config, wrong = look_over(kind.config, settings)
        for name, message in wrong:
            self.note(raw.name, name, message)
        if config is None:
            return None
        origin = partial(self.origin, raw.name)
        return capped(beside(config, origin), self.told.limit)

    def origin(self, step: str, path: str) -> str:
        return self.unrolled.origin_of(("steps", step, *path.split(".")))

    def planned(self, raw: RawStep, config: Any) -> PlannedStep | None:
        """Return a step with its sources, None where a reference has no form that there is."""
        kind = self.kinds[raw.stage]
        sources = {}
        try:
            references = list(edges(config))
        except ValueError as error:
            path, _, message = str(error).partition(": ")
            self.note(raw.name, path, message)
            return None
        for edge in references:
            if source := self.source(raw, edge):
                sources[edge.path] = source
        arguments = [part for pattern, parts in self.told.beam if fnmatch.fnmatch(raw.name, pattern) for part in parts]
        return PlannedStep(raw.name, kind, config, sources, self.after(raw), tuple(arguments))

    def after(self, raw: RawStep) -> tuple[str, ...]:
        names = raw.settings.get("after", [])
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list | tuple):
            self.note(raw.name, "after", f"expected names of steps, not {names!r}")
            return ()
        references = [reference for name in names if (reference := self.look_up(raw, "after", str(name)))]
        for reference in references:
            if reference.is_model:
                self.note(raw.name, "after", f"{reference.name!r} is a model; name steps")
        return tuple(reference.name for reference in references if not reference.is_model)

    def look_up(self, raw: RawStep, path: str, text: str) -> Reference | None:
        """Return what a name in a step stands for; what is wrong with it is noted."""
        try:
            return self.unrolled.look_up(text, raw)
        except LookupError as error:
            self.note(raw.name, path, str(error))
            return None

    def source(self, raw: RawStep, edge: Edge) -> TableSource | ModelSource | None:
        """Return where an input or model comes from; a name that does not fit is noted."""
        reference, text = self.look_up(raw, edge.path, edge.reference), edge.reference
        if reference is None:
            return None
        if isinstance(edge.edge, Takes):
            if not reference.is_model:
                return TableSource(step=reference.name, table=reference.table, answer=edge.answer)
            self.note(raw.name, edge.path, f"{text!r} is a model; a table is due here")
        elif reference.table:
            self.note(raw.name, edge.path, f"{text!r} is a table; a model is due here")
        elif reference.is_model:
            entry = self.unrolled.models[reference.name]
            return ModelSource(engine_settings(entry), str(entry.get("step", "")))
        else:
            return ModelSource(self.settings_of_base(reference.name), reference.name)
        return None

    def settings_of_base(self, step: str) -> dict[str, Any]:
        """Return how a step's model is run: as its base's entry says, without the entry's model."""
        seen: set[str] = set()
        while step in self.configs and step not in seen:
            seen.add(step)
            try:
                base = self.unrolled.look_up(getattr(self.configs[step], "base", ""), self.unrolled.steps[step])
            except LookupError:  # noted with the step
                break
            entry = self.unrolled.models[base.name] if base.is_model else {"step": base.name}
            if not entry.get("step"):
                return {name: value for name, value in engine_settings(entry).items() if name != "model"}
            step = str(entry["step"])
        return {}

    def note_models(self) -> None:
        """Fill in the models that the command names, and note what is wrong with the entries."""
        entries, missing = self.unrolled.models, []
        for name in self.told.models:
            if name and name not in entries:
                message = f"no such entry of models; {near(name, entries)}"
                self.problems.append(Problem(None, f"--model {name}", message))
        for name, entry in entries.items():
            if name in self.told.models:
                entries[name] = named(entry, self.told.models[name])
            elif "" in self.told.models and not named_already(entry):
                entries[name] = named(entry, self.told.models[""])
                missing.append(name)
            else:
                folder = str(entry.get("model", ""))
                origin = self.unrolled.origin_of(("models", name, "model"))
                entries[name] = entry | ({"model": beside_file(origin, folder)} if folder else {})
        if "" in self.told.models and not missing:
            self.problems.append(Problem(None, "--model", "no entry of models lacks a model; say --model NAME=ID"))
        for name, entry in entries.items():
            filled = {"model": TRAINED} | entry if self.told.is_look and not named_already(entry) else entry
            for key, message in entry_problems(filled, self.unrolled):
                self.note_at(("models", name, *(key.split(".") if key else ())), message)


def beside_file(origin: str, path: str) -> str:
    """Return a relative path beside the file in which it was written, where there is such a one; else as it is."""
    if not origin or "://" in path or path.startswith(("/", "~")):
        return path
    candidate = storage.join(storage.folder_of(origin), path)
    is_there = storage.list_files(candidate) if storage.is_pattern(candidate) else storage.exists(candidate)
    return candidate if is_there else path


def beside(config: Any, origin: Callable[[str], str], prefix: str = "") -> Any:
    """Return a Config whose paths are looked for beside the file in which each was written, first."""
    changes: dict[str, Any] = {}
    for item in fields(config):
        value, path = getattr(config, item.name), prefix + item.name
        if item.metadata.get("path") and isinstance(value, str) and value:
            changes[item.name] = beside_file(origin(path), value)
        elif item.metadata.get("path") and isinstance(value, tuple):
            parts = enumerate(value)
            changes[item.name] = tuple(beside_file(origin(f"{path}.{number}"), part) for number, part in parts)
        elif isinstance(value, tuple) and any(map(is_dataclass, value)):
            changes[item.name] = tuple(beside(part, origin, f"{path}.{number}.") for number, part in enumerate(value))
    return replace(config, **changes) if changes else config


def capped(config: Any, limit: int | None) -> Any:
    """Return a Config of which every number of rows is at most `limit`."""
    if limit is None:
        return config
    rows = {item.name: getattr(config, item.name) for item in fields(config) if item.metadata.get("rows")}
    return replace(config, **{name: limit if value is None else min(value, limit) for name, value in rows.items()})


def described(source: TableSource | ModelSource) -> str:
    """Return where an input comes from, such as `curated (answer: correction)` or `Qwen/Qwen3-8B (style: chat)`."""
    if isinstance(source, TableSource):
        name, more = source.step or source.path, {"answer": source.answer} if source.answer else {}
        name += f".{source.table}" if source.table else ""
    else:
        name = source.step or str(source.settings.get("model", ""))
        more = {key: value for key, value in flatten(dict(source.settings)).items() if key != "model"}
    about = ", ".join(f"{key}: {value}" for key, value in more.items())
    return f"{name} ({about})" if about else name


def print_steps(graph: Graph) -> int:
    """Print every step: its kind, where its inputs come from, and all its settings; no URL's secret."""
    for step in graph.steps:
        results.print(f"{step.name}: {step.kind.name}", soft_wrap=True)
        for path, source in step.sources.items():
            results.print(redact_urls(f"  {path} <- {described(source)}"), soft_wrap=True)
        for name, value in redacted(flatten(to_dict(step.config))).items():
            if name not in step.sources:
                results.print(f"  {name} = {value!r}", soft_wrap=True)
    return DONE
