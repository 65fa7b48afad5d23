"""Make a table or figure of a paper: print its cost, run its recipe, write the paper's values and ours side by side.

    alignbeam reproduce                                      what there is, and what the rest needs
    alignbeam reproduce 000:table1 --plan                    the cost alone
    alignbeam reproduce 000:table1 -o runs/paper_000         all flags of `alignbeam run` go with it

OUTPUT/tables/000-table1.csv and .tex have the paper's layout. A cell that the run has no figure for is empty and says
why. docs/papers.md lists what the papers claim, and what they leave out.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rich.table import Table as Grid

from pipelines.commands import run
from pipelines.commands.paper_formats import csv_text, grid_of, latex_text
from pipelines.commands.paper_tables import PaperTable, fill, find_table, missing_cells, read_tables
from pipelines.recipe.graph import Told
from pipelines.runtime.runs import is_run, open_run
from schemas.command_line import DONE
from schemas.console import messages, results
from schemas.fields import setting
from transforms.tables import storage


@dataclass(frozen=True, kw_only=True)
class Config(run.Config):
    recipe: str = setting("a table or figure, such as 000:table1; none: list them", "", positional=True)
    output: str = setting("run directory (default: runs/RECIPE)", "", short="-o")


def reproduce(target: str, config: run.Config, told: Told, tables: Mapping[str, PaperTable]) -> int:
    """Print what a table costs, run its recipe, write the table; return the exit code.

    The table is written after a failure too, with what is there.
    """
    table = find_table(target, tables)
    config = replace(config, recipe=table.recipe, output=config.output or f"runs/{table.recipe}")
    messages.print(f"{target}: {table.paper} by recipe {table.recipe}", soft_wrap=True)
    code = run.run(replace(config, plan=True), told)
    if config.plan:
        return code
    try:
        return run.run(config, told)
    finally:
        if is_run(config.output):
            write_table(target, table, config.output)


def write_table(target: str, table: PaperTable, output: str) -> None:
    """Write a table as CSV and LaTeX with the figures that a run has; print it, and what is not there yet."""
    finished = open_run(output)
    parts = fill(table, finished)
    texts = {"csv": csv_text(parts), "tex": latex_text(target, table, parts, finished)}
    for ending, text in texts.items():
        path = storage.join(output, "tables", f"{target.replace(':', '-')}.{ending}")
        with storage.open_output(path) as file:
            file.write(text.encode())
        messages.print(f"written: {path}", soft_wrap=True)
    for part in parts:
        messages.print(grid_of(part, table.places))
    if finished.toy:
        messages.print("Our figures are a toy's.")
    for reason, count in missing_cells(parts).items():
        messages.print(f"not there yet: {count} of ours: {reason}", soft_wrap=True)


def print_targets(tables: Mapping[str, PaperTable]) -> int:
    """Print every table and figure, with the recipe that makes it or what it needs."""
    groups: dict[str, list[str]] = {}
    for target, table in tables.items():
        groups.setdefault(f"by recipe {table.recipe}" if table.recipe else f"needs {table.needs}", []).append(target)
    for heading, targets in groups.items():
        results.print(heading, style="bold", soft_wrap=True)
        grid = Grid(box=None, show_header=False)
        grid.add_column(min_width=max(map(len, tables)))
        for target in targets:
            grid.add_row(target, f"{tables[target].paper}: {tables[target].about}")
        results.print(grid)
    return DONE


def do(config: Config, told: Told) -> int:
    """Make the table that is named, or list them all; return the exit code."""
    tables = read_tables()
    return reproduce(config.recipe, config, told, tables) if config.recipe else print_targets(tables)


def main(argv: Sequence[str] | None = None) -> int:
    return run.recipe_main(argv, Config, do, program="alignbeam reproduce", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
