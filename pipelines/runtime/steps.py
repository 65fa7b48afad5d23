"""Doing planned steps: each is opened when its inputs are there, and done unless its directory says that it is.

`open_step` reads the inputs and tells the identity, and so the directory `<run>/<kind>/<digest>/`. `do_steps` is the
loop: it closes engines that a step does not use, starts it, and writes down how each step stands.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from pipelines.runtime.beam import on_all_processors
from pipelines.runtime.runs import DONE, Record
from pipelines.runtime.stage import Stage, changes
from pipelines.runtime.step import ModelSource, Outside, Place, PlannedStep, Step, TableSource, in_order
from pipelines.runtime.trained import check_local, fetch_trained, remove_trained
from pipelines.runtime.trainers import launcher
from pipelines.runtime.training_shards import digest_of_splits
from schemas.console import messages
from schemas.errors import StageError, UsageError
from schemas.fields import Edge, Takes, decisive, edges, unnamed
from schemas.settings import validated
from training.run_folder import base_digest
from transforms.engines.encoder import close_models, model_config
from transforms.engines.engine import EngineConfig
from transforms.engines.identity import engine_digest
from transforms.engines.inspector import check_inspector, inspector_digest
from transforms.engines.running import close_engines
from transforms.tables import storage
from transforms.tables.columns import check_texts
from transforms.tables.identity import content_id
from transforms.tables.table import MANIFEST, Table, read_manifest, read_table

ANSWER = "response"  # the column that is read as the answer where the maker names none
UNNAMED = "names nothing; a table or model is due here"
BEHIND = "its inputs have more or other shards"
NO_TEXT = {"scores", "identity"}  # columns that an input may need and that hold no text


@dataclass(frozen=True)
class Made:
    """A step that is done: its kind's answer column, and where its results lie."""

    stage: Stage
    answer: str = ""


def open_step(planned: PlannedStep, made: Mapping[str, Made], place: Place) -> Step:
    """Return a step with its inputs read and its directory known; loads no model.

    Raises UsageError, naming step and field, where an input is no table, or a model's folder none.
    """
    config, tables, answers, models = planned.config, {}, {}, {}
    for path in unnamed(config):
        raise UsageError(f"{planned.name}: {path}: {UNNAMED}")
    for edge in edges(config):
        source = planned.sources[edge.path]
        try:
            if isinstance(source, TableSource):
                tables[edge.path] = _open_table(config, edge, source, made)
                if isinstance(edge.edge, Takes) and edge.edge.answer:
                    answers[edge.path] = edge.answer or source.answer or maker_answer(source, made)
                if not planned.kind.trains:  # a trainer looks at its shards itself
                    _check_columns(edge, tables[edge.path], answers.get(edge.path, ""))
            else:
                models[edge.path] = _open_model(edge, source, made, place)
        except UsageError as error:
            raise UsageError(f"{planned.name}: {edge.path}: {error}") from error
    stage = _stage_of(planned, tables, answers, models, place)
    arguments = planned.beam_arguments
    if not planned.kind.runs_models(config):
        arguments = on_all_processors(arguments)
    return Step(planned.name, stage, place, tables, answers, models, arguments)


def _open_table(config: Any, edge: Edge, source: TableSource, made: Mapping[str, Made]) -> Table:
    try:
        table = read_table(made[source.step].stage.directory if source.step else source.path, source.table)
    except UsageError as error:
        hint = f"; do that step anew: --redo {source.step}" if source.step else ""
        raise UsageError(f"{error}{hint}") from error
    field_name = edge.path.partition(".")[0]
    limits = [getattr(config, item.name) for item in fields(config) if item.metadata.get("limits") == field_name]
    return table.head(next(iter(limits), None))


def _check_columns(edge: Edge, table: Table, answer: str) -> None:
    """Raise UsageError where an input lacks a column, or one that is to be text is none."""
    assert isinstance(edge.edge, Takes)
    needed = [*edge.edge.columns, *([answer] if answer else ())]
    check_texts(table.path, table.schema, [name for name in needed if name not in NO_TEXT & set(table.schema.names)])


def maker_answer(source: TableSource, made: Mapping[str, Made]) -> str:
    """Return the column that the maker of an input names as its answer."""
    if source.step:
        return made[source.step].answer or ANSWER
    has_manifest = storage.exists(storage.join(source.path, MANIFEST))
    return (read_manifest(source.path).get("answer") if has_manifest else "") or ANSWER


def _open_model(edge: Edge, source: ModelSource, made: Mapping[str, Made], place: Place) -> EngineConfig | str:
    settings = dict(source.settings)
    if source.step:
        settings["model"] = fetch_trained(made[source.step].stage, place)
    if getattr(edge.edge, "role", "") == "generator":
        return validated(EngineConfig, "engine", settings)
    return str(settings["model"])


def outside_problems(planned: PlannedStep) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a step's files, packs and models outside the run, as (field, message); loads no model.

    The field is "" where the message names it.
    """
    for edge in edges(planned.config):
        source = planned.sources.get(edge.path)
        if isinstance(source, ModelSource) and not source.step and is_named(source.settings):
            try:
                _check_model(planned, getattr(edge.edge, "role", ""), source.settings)
            except UsageError as error:
                yield edge.path, str(error)
    try:
        planned.kind.check(planned.config)
    except UsageError as error:
        yield "", str(error)


def is_named(settings: Mapping[str, Any]) -> bool:
    """Return whether a model has a name; a recipe that is only looked at may lack it."""
    return bool(settings.get("model")) or settings.get("engine") == "scripted"


def check_outside(steps: Sequence[PlannedStep], place: Place) -> None:
    """Raise UsageError with all that is wrong outside the run, before any work."""
    for planned in steps:
        planned.kind.recall(place)
    check_trainers(steps, place)
    problems = [
        f"{planned.name}: {path}: {message}" if path else f"{planned.name}: {message}"
        for planned in steps
        for path, message in outside_problems(planned)
    ]
    if problems:
        raise UsageError("\n".join(problems))


def check_trainers(steps: Sequence[PlannedStep], place: Place) -> None:
    """Raise UsageError where a step trains and has no local folder to work in, or nothing starts its trainer."""
    if any(planned.kind.trains for planned in steps):
        check_local(place)
        launcher(place.launch)


def _check_model(planned: PlannedStep, role: str, settings: Mapping[str, Any]) -> None:
    folder = str(settings.get("model", ""))
    if role == "generator":
        engine_digest(validated(EngineConfig, "engine", settings))
    elif role == "inspector":
        check_inspector(folder)
    elif planned.kind.trains:  # from a folder or a hub id
        base_digest(folder)
    else:
        model_config(folder)


def _stage_of(
    planned: PlannedStep,
    tables: Mapping[str, Table],
    answers: Mapping[str, str],
    models: Mapping[str, EngineConfig | str],
    place: Place,
) -> Stage:
    """Return the stage: its identity is the kind, its version, the Config with contents for names, and the outside."""
    kind, config = planned.kind, planned.config
    is_growing = kind.grows(config)
    roles = {edge.path: getattr(edge.edge, "role", "") for edge in edges(config)}

    def digest_at(path: str) -> Any:
        if path in models:
            return _model_digest(roles[path], models[path])
        source, table, answer = planned.sources[path], tables[path], answers.get(path, "")
        if kind.trains:
            return digest_of_splits(table)
        if not is_growing:
            return [table.digest, answer] if answer else table.digest
        name = source.table if isinstance(source, TableSource) and not is_main(table.path, source.table) else None
        source_path = storage.relative(table.path, place.output)
        return {"source": source_path, "table": name, "answer": answer, "schema": table.schema.to_string()}

    kind.recall(place)
    outside = kind.outside(config)
    identity = identity_of(planned, outside, digest_at)
    identity |= {name: storage.relative(path, place.output) for name, path in outside.paths.items()}
    followed = tables.values() if is_growing else ()
    inputs = followed_digest(*followed, outside=outside.follows) if followed or outside.follows else ""
    return Stage.under(place.output, planned.name, identity, inputs, kind.name, kind.answer)


def is_main(path: str, name: str | None) -> bool:
    """Return whether a table of a step, if it is named, is the one that comes first."""
    return name is not None and next(iter(read_manifest(path).get("tables", {})), None) == name


def followed_digest(*tables: Table, outside: str = "") -> str:
    """Return what the manifest of a kind that grows says of the inputs that its results were made of."""
    return content_id(*(table.digest for table in tables), outside)


def identity_of(planned: PlannedStep, outside: Outside, digest_at: Callable[[str], Any]) -> dict[str, Any]:
    """Return what decides a step's result, without the paths of what counts by where it lies.

    digest_at: returns what stands for the table or model at an edge's path.
    """
    kind = planned.kind
    head = {"stage": kind.name, "version": kind.version}
    return head | decisive(planned.config, digest_at) | dict(outside.decides)


def _model_digest(role: str, model: EngineConfig | str) -> str:
    if isinstance(model, EngineConfig):
        return engine_digest(model)
    return inspector_digest(model) if role == "inspector" else base_digest(model)


def do_steps(
    steps: Sequence[PlannedStep],
    record: Record,
    place: Place,
    *,
    chosen: Collection[str] | None = None,
    redo: Collection[str] = (),
    keep_going: bool = False,
) -> dict[str, Stage]:
    """Do the chosen steps that are not done; return the stages of all that are.

    chosen: names; None for all. redo: names whose results are made anew. keep_going: whether the steps that do not
    need a failed one are done all the same; the first error is raised in the end.
    """
    made: dict[str, Made] = {}
    redone: set[str] = set()
    errors: list[Exception] = []
    for planned in in_order(steps):
        missing = [name for name in planned.needs if name not in made]
        is_chosen = chosen is None or planned.name in chosen
        if missing:
            if is_chosen and not errors:
                raise UsageError(
                    f"{planned.name}: its input {', '.join(missing)} is not complete in {place.output}; "
                    f"do it too: --until {planned.name}"
                )
            continue
        try:
            step = open_step(planned, made, place)
            if is_chosen:
                _do(planned, step, record, redo=planned.name in redo and step.stage.directory not in redone)
                redone.add(step.stage.directory)  # of equal steps the first does it for all
            if step.stage.is_done():
                made[planned.name] = Made(step.stage, planned.kind.answer)
        except (UsageError, StageError) as error:
            if not is_chosen:  # whoever needs it is told
                continue
            if not keep_going:
                raise
            messages.print(f"failed: {error}", style="red", soft_wrap=True)
            errors.append(error)
    if errors:
        raise errors[0]
    return {name: step.stage for name, step in made.items()}


def _do(planned: PlannedStep, step: Step, record: Record, *, redo: bool) -> None:
    messages.print(planned.name, style="bold")
    stage = step.stage
    if redo and planned.kind.trains:
        remove_trained(stage, step.place)
    elif redo:
        storage.remove(stage.directory)
    if stage.is_done() and not (step.place.retry_failed and can_retry(planned, stage)):
        check_result(planned, stage)
        record.write_step(planned, stage, DONE)
        _say_results(planned, stage)
        return
    if edits := list(changes(record.entries().get(planned.name, {}).get("identity"), stage.identity)):
        is_asked = any(isinstance(model, EngineConfig) for model in step.models.values())
        again = ", with every completion that still fits" if is_asked else ""
        messages.print(f"  stale: {', '.join(edits)}; done again{again}", soft_wrap=True)
    elif stage.is_behind():
        messages.print(f"  stale: {BEHIND}; those are done, the others stay", soft_wrap=True)
    _make_room(planned, step)
    started = time.monotonic()
    record.write_step(planned, stage, "running")
    try:
        planned.kind.do(planned.config, step)
        if stage.is_done():
            check_result(planned, stage)
    except BaseException as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        record.write_step(planned, stage, status, time.monotonic() - started)
        raise
    status = DONE if stage.is_done() else "partial"
    record.write_step(planned, stage, status, time.monotonic() - started)
    if stage.is_done():
        _say_results(planned, stage)


def can_retry(planned: PlannedStep, stage: Stage) -> bool:
    """Return whether a step is done and rows of it failed for which a model can be asked again."""
    is_asked = planned.kind.runs_models(planned.config) and stage.is_done()
    return is_asked and bool(stage.read_manifest()["counts"]["rejects"])


def check_result(planned: PlannedStep, stage: Stage) -> None:
    """Raise StageError where a step's main table is empty or below the kind's floor, with what took its rows.

    A step that is done is checked each time: a second run is no way past the floor.
    """
    manifest = stage.read_manifest()
    main = next(iter(manifest.get("tables", {}).values()), None)
    if main is None:
        return
    planned.kind.check_yield(planned.config, stage)
    if main["rows"]:
        return
    counts = manifest["counts"]
    reasons = ", ".join(f"{rows:,} {reason}" for reason, rows in [*counts["rejects"].items(), *counts["drops"].items()])
    raise StageError(f"{planned.name}: not one of {counts['in']:,} rows is left: {reasons or 'the inputs have none'}")


def _make_room(planned: PlannedStep, step: Step) -> None:
    """Close the engines that a step does not use; before a trainer all of them, and the models that score."""
    if planned.kind.trains:
        close_engines()
        close_models()
        return
    close_engines(keep=[model for model in step.models.values() if isinstance(model, EngineConfig)])


def _say_results(planned: PlannedStep, stage: Stage) -> None:
    counts = stage.read_manifest()["counts"]
    messages.print(f"  {counts['kept']:,} of {counts['in']:,} rows")
    if planned.kind.shows:
        planned.kind.shows(stage)


def sources_of(config: Any, engine: Mapping[str, Any] | None = None) -> Iterator[tuple[str, TableSource | ModelSource]]:
    """Yield the source of each edge of a Config whose references are paths, folders and hub ids.

    engine: settings of EngineConfig for its generators.
    """
    for edge in edges(config):
        if isinstance(edge.edge, Takes):
            yield edge.path, TableSource(path=edge.reference, answer=edge.answer)
        else:
            yield edge.path, ModelSource({**(engine or {}), "model": edge.reference})


def alone(planned: PlannedStep, engine: Mapping[str, Any] | None = None) -> PlannedStep:
    """Return a step whose references are paths, as a command line has them; UsageError for one of another form."""
    try:
        return replace(planned, sources=dict(sources_of(planned.config, engine)))
    except ValueError as error:
        raise UsageError(f"{planned.name}: {error}") from error
