"""Tables of the papers as a run can fill them: the paper's value, ours and its interval, cell by cell.

`tables.yaml` beside this file says what each table looks like, and where in a run each of our figures is read:

    000:table1:
      paper: Table 1
      recipe: paper_000
      parts:
        - title: Synthetic test data
          corner: Aligner
          columns: {Win rate (inspector): ethical}                # by name, what {column} stands for; null: not read
          rows: {GPT-2 Large: {key: GPT-2 Large, paper: ["0.870"]}}
          reads: {step: evaluation, table: win_rates, where: {label: "{row}", judge: "{column}"}, value: win_rate}

A cell whose step is not done, or has no such figure, stays empty and says why: no number is printed that this run did
not measure.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipelines.runtime.runs import DONE, RecordedStage, Run
from schemas.errors import UsageError
from schemas.recipe import near
from schemas.settings import read_yaml, validated
from transforms.evaluation.win_rates import score_level
from transforms.tables.table import Table

TABLES = Path(__file__).parent / "tables.yaml"
Number = int | float


@dataclass(frozen=True, kw_only=True)
class Reads:
    """Where a run has a figure: one row of a step's table, or one entry of a JSON file beside it.

    {row} and {column} stand for the keys of the cell. where: the row's columns and their values. at: the way into the
    file: a name, or what an entry of a list says. value, low, high, n: dotted names in that row or entry. mean: a
    column instead, or a name in one of maps, whose mean over all rows is the figure.
    """

    step: str
    table: str = ""
    where: dict[str, str | int] = field(default_factory=dict)
    file: str = ""
    at: tuple[str | dict[str, str], ...] = ()
    value: str = ""
    low: str = ""
    high: str = ""
    n: str = ""
    mean: str = ""

    def at_cell(self, row: str, column: str) -> "Reads":
        """Return this with the keys of a cell in place of {row} and {column}."""
        return replace(
            self,
            step=_filled(self.step, row, column),
            where={name: _filled(value, row, column) for name, value in self.where.items()},
            at=tuple(_filled(part, row, column) for part in self.at),
            mean=_filled(self.mean, row, column),
        )


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a paper's table: what {row} stands for, and the paper's values as they are printed there."""

    key: str
    paper: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows under one heading. needs: why the columns whose key is null are not read."""

    title: str
    corner: str
    columns: dict[str, str | None]
    rows: dict[str, Row]
    reads: Reads
    needs: str = ""

    def __post_init__(self) -> None:
        for name, row in self.rows.items():
            if row.paper and len(row.paper) != len(self.columns):
                raise ValueError(f"rows.{name}: {len(row.paper)} values of the paper for {len(self.columns)} columns")
        if None in self.columns.values() and not self.needs:
            raise ValueError("needs: say why a column is not read")


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table or figure of a paper. needs: what is missing to make it here, where it has no recipe."""

    paper: str
    about: str
    recipe: str = ""
    needs: str = ""
    places: int = 3
    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.recipe) == bool(self.needs) or bool(self.recipe) != bool(self.parts):
            raise ValueError("give recipe and parts, or what the table needs")


@dataclass(frozen=True)
class Cell:
    """A figure of the paper and ours; `missing` says why there is none of ours. n: how many rows ours is of."""

    paper: str = ""
    value: Number | None = None
    low: Number | None = None
    high: Number | None = None
    n: int | None = None
    missing: str = ""


@dataclass(frozen=True)
class FilledPart:
    """A part with its cells, by row."""

    part: Part
    cells: Mapping[str, tuple[Cell, ...]]


class NotThereError(Exception):
    """Raised with the reason why a run has no such figure."""


def read_tables(path: Path = TABLES) -> dict[str, PaperTable]:
    """Return all tables by target, such as `000:table1`."""
    return {target: validated(PaperTable, f"{path.name}: {target}", entry) for target, entry in _entries(path)}


def _entries(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from read_yaml(str(path)).items()


def find_table(target: str, tables: Mapping[str, PaperTable]) -> PaperTable:
    """Return the table of a target; UsageError where there is none, or it cannot be made here."""
    if target not in tables:
        raise UsageError(f"{target}: no such table; {near(target, tables)}")
    table = tables[target]
    if table.needs:
        raise UsageError(f"{target} ({table.paper}): cannot be made here yet; it needs {table.needs}")
    return table


def fill(table: PaperTable, run: Run) -> list[FilledPart]:
    """Return the parts of a table with every figure that the run has."""
    return [
        FilledPart(part, {name: tuple(_cells(part, row, run)) for name, row in part.rows.items()})
        for part in table.parts
    ]


def missing_cells(parts: Sequence[FilledPart]) -> dict[str, int]:
    """Return how many cells lack a figure of ours, by reason."""
    reasons: dict[str, int] = {}
    for part in parts:
        for cells in part.cells.values():
            for cell in cells:
                if cell.missing:
                    reasons[cell.missing] = reasons.get(cell.missing, 0) + 1
    return reasons


def _cells(part: Part, row: Row, run: Run) -> Iterator[Cell]:
    papers = row.paper or ("",) * len(part.columns)
    for column, paper in zip(part.columns.values(), papers, strict=True):
        if column is None:
            yield Cell(paper, missing=part.needs)
            continue
        try:
            yield replace(read_figure(part.reads.at_cell(row.key, column), run), paper=paper)
        except NotThereError as error:
            yield Cell(paper, missing=str(error))


def read_figure(reads: Reads, run: Run) -> Cell:
    """Return a figure of a run, without the paper's; NotThereError says why there is none."""
    stage = run.stage(reads.step)
    if stage is None:
        raise NotThereError(f"the run has no step {reads.step}")
    if stage.status != DONE:
        because = f" ({', '.join(stage.because)})" if stage.because else ""
        raise NotThereError(f"step {reads.step} is {stage.status}{because}")
    if reads.mean:
        return _mean(reads, _table(reads, stage))
    entry = _row(reads, _table(reads, stage)) if reads.table else _entry(reads, stage)
    value = _at(entry, reads.value)
    if value is None:
        raise NotThereError(f"step {reads.step} has no {reads.value} there")
    low, high, rows = (_at(entry, name) for name in (reads.low, reads.high, reads.n))
    return Cell(value=value, low=low, high=high, n=rows)


def _table(reads: Reads, stage: RecordedStage) -> Table:
    table = stage.table(reads.table)
    if table is None:
        raise NotThereError(f"step {reads.step} has no table {reads.table}")
    return table


def _row(reads: Reads, table: Table) -> dict[str, Any]:
    rows = [row for row in table.to_arrow().to_pylist() if _says(row, reads.where)]
    if len(rows) != 1:
        raise NotThereError(f"step {reads.step} has {len(rows)} rows of {_named(reads.where)}")
    return rows[0]


def _mean(reads: Reads, table: Table) -> Cell:
    column, _, name = reads.mean.partition(".")
    rows = [row for row in table.to_arrow([column, *reads.where]).to_pylist() if _says(row, reads.where)]
    maybe = [dict(row[column] or ()).get(name) if name else row[column] for row in rows]
    scores: list[float] = [score for score in maybe if score is not None]
    if not scores:
        raise NotThereError(f"step {reads.step} has no {reads.mean} where {_named(reads.where)}")
    level = score_level(scores)
    low, high = level["mean_interval"] or (None, None)
    return Cell(value=level["mean"], low=low, high=high, n=len(scores))


def _entry(reads: Reads, stage: RecordedStage) -> Any:
    entry = stage.read_json(reads.file)
    for part in reads.at:
        if isinstance(part, str):
            entry = entry.get(part) if isinstance(entry, dict) else None
        else:
            entries = entry if isinstance(entry, list) else []
            entry = next((item for item in entries if _says(item, part)), None)
        if entry is None:
            wanted = part if isinstance(part, str) else _named(part)
            raise NotThereError(f"step {reads.step} says nothing of {wanted}")
    return entry


def _at(entry: Any, name: str) -> Any:
    """Return what a dotted name leads to: names in mappings, positions in lists; None where there is nothing."""
    for part in name.split(".") if name else ():
        if isinstance(entry, dict):
            entry = entry.get(part)
        else:
            entry = entry[int(part)] if isinstance(entry, list | tuple) and int(part) < len(entry) else None
    return entry if name else None


def _says(row: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    return all(str(row.get(name)) == str(value) for name, value in where.items())  # YAML and keys may say 1 as "1"


def _named(where: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in where.items() if value != "")


def _filled(value: Any, row: str, column: str) -> Any:
    if isinstance(value, dict):
        return {name: _filled(item, row, column) for name, item in value.items()}
    return value.replace("{row}", row).replace("{column}", column) if isinstance(value, str) else value
