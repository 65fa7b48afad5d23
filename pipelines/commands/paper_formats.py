"""A paper's table with our figures beside the paper's, as CSV, LaTeX and on the terminal.

All have the paper's layout. In CSV every column is four: the paper's value, ours, and both ends of its interval.
"""

import csv
import io
import re
from collections.abc import Sequence

from rich.table import Table as Grid

from pipelines.commands.paper_tables import Cell, FilledPart, PaperTable, missing_cells
from pipelines.runtime.runs import Run

OF_A_CELL = ("paper", "ours", "low", "high")
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "→": r"$\to$",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}


def csv_text(parts: Sequence[FilledPart]) -> str:
    """Return the table as CSV: each part begins with a line of headings; empty cells say why in the last column."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    for filled in parts:
        part = filled.part
        names = [f"{column}: {name}" for column in part.columns for name in OF_A_CELL]
        writer.writerow([f"{part.title}: {part.corner}", *names, "rows", "not there yet"])
        for row, cells in filled.cells.items():
            values = [value for cell in cells for value in (cell.paper, cell.value, cell.low, cell.high)]
            writer.writerow([row, *values, _counts([cells]), "; ".join(_reasons(part.columns, cells))])
    return lines.getvalue()


def latex_text(target: str, table: PaperTable, parts: Sequence[FilledPart], run: Run) -> str:
    """Return the table as a tabular of LaTeX that needs no package."""
    width = 1 + 2 * max(len(filled.part.columns) for filled in parts)
    lines = [
        _comment(f"{target}: {table.paper}, recipe {table.recipe}, run {run.name}, seed {run.seed}"),
        rf"\begin{{tabular}}{{l{'rl' * (width // 2)}}}",
        r"\hline",
    ]
    for filled in parts:
        lines += [*_part_lines(filled, table.places, width), r"\hline"]
    notes = ["The figures are a toy's."] if run.toy else []
    notes += [f"Not there yet: {reason} ({_cells_of(count)})" for reason, count in missing_cells(parts).items()]
    if rows := _counts([cells for filled in parts for cells in filled.cells.values()]):
        notes.insert(0, f"Ours: of {rows} rows, with 95 % intervals")
    lines += [_across(escaped(note), width) for note in notes]
    return "\n".join([*lines, r"\end{tabular}", ""])


def _part_lines(filled: FilledPart, places: int, width: int) -> list[str]:
    part = filled.part
    heads = [rf"\multicolumn{{2}}{{l}}{{{escaped(column)}}}" for column in part.columns]
    lines = [
        _across(escaped(part.title), width),
        " & ".join([escaped(part.corner), *heads]) + r" \\",
        " & ".join(["", *["paper & ours"] * len(heads)]) + r" \\",
        r"\hline",
    ]
    for row, cells in filled.cells.items():
        pairs = [f"{escaped(cell.paper)} & {escaped(ours(cell, places))}" for cell in cells]
        lines.append(" & ".join([escaped(row), *pairs]) + r" \\")
    return lines


def grid_of(filled: FilledPart, places: int) -> Grid:
    """Return a part for the terminal."""
    grid = Grid(title=filled.part.title, title_justify="left")
    grid.add_column(filled.part.corner)
    for column in filled.part.columns:
        grid.add_column(f"{column}: paper", justify="right")
        grid.add_column("ours")
    for row, cells in filled.cells.items():
        grid.add_row(row, *(text for cell in cells for text in (cell.paper, ours(cell, places))))
    return grid


def ours(cell: Cell, places: int) -> str:
    """Return our figure with its interval, such as `0.812 (0.790–0.833)`; empty where there is none."""
    if cell.value is None:
        return ""
    text = f"{cell.value:.{places}f}"
    if cell.low is None or cell.high is None:
        return text
    return f"{text} ({cell.low:.{places}f}–{cell.high:.{places}f})"


def escaped(text: str) -> str:
    """Return a text that LaTeX prints as it is."""
    return "".join(LATEX.get(letter, letter) for letter in re.sub(r"\s+", " ", text))


def _comment(text: str) -> str:
    return "% " + re.sub(r"\s+", " ", text)


def _across(text: str, width: int) -> str:
    return rf"\multicolumn{{{width}}}{{l}}{{{text}}} \\"


def _counts(rows: Sequence[Sequence[Cell]]) -> str:
    """Return how many rows our figures are of: one number, or the least and the most."""
    counts = sorted({cell.n for cells in rows for cell in cells if cell.n is not None})
    return "–".join(str(count) for count in dict.fromkeys([*counts[:1], *counts[-1:]]))


def _reasons(columns: Sequence[str] | dict[str, str | None], cells: Sequence[Cell]) -> list[str]:
    return [f"{name}: {cell.missing}" for name, cell in zip(columns, cells, strict=True) if cell.missing]


def _cells_of(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"
