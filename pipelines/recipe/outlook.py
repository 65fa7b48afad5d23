"""What a recipe would make and cost: a walk over its steps, each with the rows that its inputs have or will have.

    alignbeam run recipe.yaml -o runs/mine --plan

No model is loaded, and nothing is asked. A step that is done is not counted. After a run with `--limit 20` the tokens
that will be generated are told from what it took (pipelines.runtime.measured).
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from rich.table import Table as Grid

from pipelines.recipe.graph import Graph
from pipelines.runtime.estimates import (
    CPU_FLOPS,
    GPU_FLOPS,
    SAMPLE_ROWS,
    Estimate,
    Measured,
    Outlook,
    Prospect,
    Sample,
)
from pipelines.runtime.measured import measured
from pipelines.runtime.step import ModelKind, ModelSource, Place, PlannedStep, Step, TableSource
from pipelines.runtime.steps import ANSWER, Made, open_step
from schemas.command_line import DONE
from schemas.console import messages
from schemas.criteria.pack import Pack, load_pack
from schemas.errors import UsageError
from schemas.fields import Edge, Takes, edges
from schemas.settings import validated
from transforms.engines.engine import EngineConfig
from transforms.engines.prompt_tokens import BYTES_PER_TOKEN
from transforms.tables import storage
from transforms.tables.columns import is_text
from transforms.tables.table import Table, read_table
from transforms.training_data.aligner_format import SEPARATORS

HEADINGS = (
    "step",
    "kind",
    "model",
    "rows",
    "requests",
    "prompt\ntokens",
    "generated\ntokens",
    "as in",
    "weights",
    "GPU h",
    "CPU h",
)
LEFT = ("step", "kind", "model")  # these are folded where the line is short, and numbers never
WIDTH_FOR_KINDS = 120  # a shorter line has no room for the kinds


@dataclass(frozen=True)
class StepOutlook:
    """What is known of a step: whether it is done, its rows, and what it would cost."""

    step: PlannedStep
    outlook: Outlook
    is_done: bool = False

    @property
    def name(self) -> str:
        return self.step.name

    @property
    def rows(self) -> int | None:
        return self.outlook.rows

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        return self.outlook.estimates


def outlook_of(steps: Sequence[PlannedStep], place: Place) -> list[StepOutlook]:
    """Return the outlook of every step, in order; loads no model.

    Raises UsageError where a model's folder is none.
    """
    walk = Walk({step.name: step for step in steps}, place, tuple(packs_of(steps)))
    return [walk.look_at(step) for step in steps]


def packs_of(steps: Sequence[PlannedStep]) -> Iterator[Pack]:
    """Yield the packs of all steps, each once."""
    names = {
        str(getattr(step.config, item.name)): None
        for step in steps
        for item in fields(step.config)
        if "pack" in item.metadata and getattr(step.config, item.name)
    }
    yield from map(load_pack, names)


class Walk:
    """Goes from step to step, and knows those before."""

    def __init__(self, steps: dict[str, PlannedStep], place: Place, packs: tuple[Pack, ...]):
        self.steps = steps
        self.place = place
        self.packs = packs
        self.made: dict[str, Made] = {}  # of the steps that are done
        self.outlooks: dict[str, Outlook] = {}
        self.smaller: dict[str, Measured | None] = {}

    def look_at(self, planned: PlannedStep) -> StepOutlook:
        """Return the outlook of a step, all that it needs looked at before."""
        step = self.done(planned)
        if step:
            self.made[planned.name] = Made(step.stage, planned.kind.answer)
            tables = step.stage.read_manifest().get("tables", {})
            rows = next((table["rows"] for table in tables.values()), None)
            outlook = Outlook(rows, likely=rows)
        else:
            outlook = planned.kind.estimate(planned.config, self.prospect(planned))
            if planned.kind.trains:
                outlook = replace(outlook, rows=None, likely=None, sample=None)
        self.outlooks[planned.name] = outlook
        return StepOutlook(planned, outlook, is_done=step is not None)

    def done(self, planned: PlannedStep) -> Step | None:
        """Return a step that is done, None for any other; its models are looked at only where there are results."""
        home = storage.join(self.place.output, planned.kind.name)
        if not storage.is_directory(home) or any(name not in self.made for name in planned.needs):
            return None
        try:
            step = open_step(planned, self.made, self.place)
            return step if step.stage.is_done() else None
        except UsageError:  # what is wrong is said before the run
            return None

    def prospect(self, planned: PlannedStep) -> Prospect:
        """Return what is known of a step's inputs and models."""
        facts: dict[str, dict[str, Any]] = {item.name: {} for item in fields(Prospect)}
        for edge in edges(planned.config):
            source = planned.sources[edge.path]
            if isinstance(source, TableSource):
                self.note_table(planned, edge, source, facts)
            else:
                self.note_model(edge, source, facts)
        mappings = {name: values for name, values in facts.items() if name not in ("measured", "packs")}
        return Prospect(**mappings, measured=self.smaller_run(planned.name), packs=self.packs)

    def smaller_run(self, name: str) -> Measured | None:
        """Return what a smaller run of a step took."""
        if name not in self.smaller:
            self.smaller[name] = measured(self.steps[name], self.place)
        return self.smaller[name]

    def note_table(self, planned: PlannedStep, edge: Edge, source: TableSource, facts: dict[str, dict]) -> None:
        """Note an input: its rows, at most and probably, its table where it is there, and rows like its own."""
        path = edge.path
        maker = self.steps[source.step].kind if source.step else None
        if isinstance(edge.edge, Takes) and edge.edge.answer:
            facts["answers"][path] = edge.answer or source.answer or (maker and maker.answer) or ANSWER
        limit = limit_of(planned.config, path)
        table = self.table_of(source)
        if table is not None:
            table = table.head(limit)
            facts["tables"][path] = table
            facts["rows"][path] = facts["likely"][path] = table.rows
            facts["samples"][path] = sample_of(table, is_real=True)
            return
        outlook = self.outlooks[source.step] if source.step and is_main(self.steps[source.step], source) else None
        for name in ("rows", "likely"):
            rows = getattr(outlook, name, None)
            facts[name][path] = rows if rows is None or limit is None else min(rows, limit)
        facts["shares"][path] = outlook.shares if outlook else {}
        sample = self.smaller_table(source) or (outlook and outlook.sample)
        if sample:
            facts["samples"][path] = sample

    def table_of(self, source: TableSource) -> Table | None:
        """Return an input table, None where it is not there yet."""
        if source.step:
            made = self.made.get(source.step)
            return read_table(made.stage.directory, source.table) if made else None
        try:
            return read_table(source.path, source.table)
        except UsageError:
            return None

    def smaller_table(self, source: TableSource) -> Sample | None:
        """Return rows of the table that a smaller run of the same step made."""
        run = self.smaller_run(source.step) if source.step else None
        if run is None or not run.tables.get(source.table or next(iter(run.tables), "")):
            return None
        return sample_of(read_table(run.directory, source.table), is_real=True)

    def note_model(self, edge: Edge, source: ModelSource, facts: dict[str, dict]) -> None:
        """Note a model: its settings, and what the recipe calls it; before it is trained, those of its base."""
        settings, path = dict(source.settings), edge.path
        facts["names"][path] = source.step or str(settings.get("model", ""))
        if source.step in self.made:
            settings["model"] = self.made[source.step].stage.directory
        elif source.step:
            settings["model"] = self.base_of(source.step)
            facts["added"][path] = added_by(self.steps[source.step])
        is_generator = getattr(edge.edge, "role", "") == "generator"
        facts["models"][path] = (
            validated(EngineConfig, "engine", settings) if is_generator else str(settings.get("model", ""))
        )

    def base_of(self, name: str) -> str:
        """Return the folder or hub id of the model that a step, or those before it, train on."""
        for source in self.steps[name].sources.values():
            if isinstance(source, ModelSource):
                if not source.step:
                    return str(source.settings.get("model", ""))
                made = self.made.get(source.step)
                return made.stage.directory if made else self.base_of(source.step)
        return name


def limit_of(config: Any, path: str) -> int | None:
    """Return how many rows of an input a Config takes at most."""
    name = path.partition(".")[0]
    limits = [getattr(config, item.name) for item in fields(config) if item.metadata.get("limits") == name]
    return next(iter(limits), None)


def is_main(maker: PlannedStep, source: TableSource) -> bool:
    """Return whether a table is its maker's main one, as far as that is known before it is made."""
    if source.table is None:
        return True
    tables = maker.kind.gives(maker.config, {})
    return not isinstance(tables, ModelKind) and source.table == next(iter(tables), None)


def sample_of(table: Table, *, is_real: bool) -> Sample:
    """Return texts of rows from all over a table."""
    texts = [column.name for column in table.schema if is_text(column.type)]
    return Sample(table.sample(SAMPLE_ROWS, texts), is_real)


def added_by(trainer: PlannedStep) -> tuple[str, ...]:
    """Return the texts that a model gets tokens for as it is trained: a whole aligner's separators."""
    is_whole_aligner = trainer.kind.name == "train_aligner" and not getattr(trainer.config, "adapter", False)
    return SEPARATORS if is_whole_aligner else ()


def print_outlook(graph: Graph, chosen: Collection[str], place: Place) -> int:
    """Print what the chosen steps would make and cost; return the exit code."""
    return print_outlooks([one for one in outlook_of(graph.steps, place) if one.name in chosen])


def print_outlooks(outlooks: Sequence[StepOutlook]) -> int:
    """Print outlooks as a table with totals, and what they rest on; return the exit code."""
    grid = Grid(box=None, pad_edge=False)
    lines = [line for one in outlooks for line in lines_of(one)]
    estimates = [estimate for one in outlooks for estimate in one.estimates]
    if len(estimates) > 1:
        lines.append(total_of(estimates))
    columns = [number for number, name in enumerate(HEADINGS) if name != "kind" or messages.width >= WIDTH_FOR_KINDS]
    for name in (HEADINGS[column] for column in columns):
        is_text = name in LEFT
        grid.add_column(name, justify="left" if is_text else "right", no_wrap=not is_text, overflow="fold")
    for line in lines:
        grid.add_row(*(line[column] for column in columns))
    messages.print("plan (nothing was loaded, asked or spent)", style="bold")
    messages.print(grid)
    for one in outlooks:
        for note in one.outlook.notes:
            messages.print(f"{one.name}: at most, {note}", style="yellow", soft_wrap=True)
    messages.print(rests_on(estimates))
    return DONE


def lines_of(one: StepOutlook) -> Iterator[tuple[str, ...]]:
    """Yield the lines of a step: one for each kind of request, or one that says its rows."""
    kind, rows = one.step.kind.name, "" if one.step.kind.trains else number(one.rows)
    if one.is_done:
        yield one.name, kind, "done", rows, *("",) * 7
    elif not one.estimates:
        yield one.name, kind, "", rows, *("",) * 7
    for estimate in one.estimates:
        name = f"{one.name}: {estimate.part}" if estimate.part else one.name
        asked = (number(estimate.requests), number(estimate.prompt_tokens), number(estimate.generated_tokens))
        yield name, kind, estimate.model, rows, *asked, estimate.basis or "at most", *sizes_of([estimate])


def total_of(estimates: Sequence[Estimate]) -> tuple[str, ...]:
    """Return the line of totals."""
    parts = [(one.requests, one.prompt_tokens, one.generated_tokens) for one in estimates]
    return "all", "", "", "", *map(total, zip(*parts, strict=True)), "", *sizes_of(estimates)


def sizes_of(estimates: Sequence[Estimate]) -> tuple[str, str, str]:
    """Return the size of the largest model, and the hours on a GPU and a CPU."""
    weights = [one.memory_gb for one in estimates if one.memory_gb is not None]
    largest = max(weights, default=None)
    on_gpu, on_cpu = (total([one.hours(flops) for one in estimates], "{:,.1f}") for flops in (GPU_FLOPS, CPU_FLOPS))
    return number(largest, "{:,.1f} GB"), on_gpu, on_cpu


def total(parts: Sequence[float | None], form: str = "{:,}") -> str:
    """Return a sum, with a question mark where a part of it is not known."""
    numbers = [part for part in parts if part is not None]
    return " + ".join(
        [*([form.format(sum(numbers))] if numbers else []), *(["?"] if len(numbers) < len(parts) else [])]
    )


def number(value: float | None, form: str = "{:,}") -> str:
    return "?" if value is None else form.format(value)


def rests_on(estimates: Sequence[Estimate]) -> str:
    """Return what the numbers of a plan rest on, in a few sentences."""
    counted = "counted by the models' own tokenizers"
    if not all(one.is_counted for one in estimates):
        counted += f", or at {BYTES_PER_TOKEN:g} bytes each where a model's tokenizer is not on this machine"
    return (
        f"Rows, requests and prompt tokens are at most so many; tokens are {counted}. Generated tokens are "
        "those that the sampling allows, or about as many as a smaller run took. Training and scoring are not counted. "
        f"Hours assume {GPU_FLOPS:.0e} FLOP/s per GPU and {CPU_FLOPS:.0e} per CPU, 2 FLOP per parameter and token; "
        "divide by GPUs."
    )
