"""Remove what a run needs no longer: results of other settings, and cache segments that answer nothing.

    alignbeam clean runs/mine            what it would free; nothing is removed
    alignbeam clean runs/mine --yes

A result is kept where run.json lists it as the newest of a step. Every completion that can still be reused stays.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table as Grid

from pipelines.recipe.registry import STAGES
from pipelines.runtime.at_work import at_work
from pipelines.runtime.runs import POINTERS, Run, open_run
from schemas.command_line import DONE, Parser, exit_code
from schemas.console import messages, results
from transforms.generation.cache_index import dead_segments
from transforms.tables import storage

CACHE = "cache"


@dataclass(frozen=True)
class Leftover:
    """A file or directory that nothing needs, with its size."""

    path: str
    why: str
    bytes: int


def leftovers(run: Run) -> Iterator[Leftover]:
    """Yield what a run needs no longer."""
    newest = {inside(stage.path, run) for stage in run.stages}
    gone = set()
    for kind in STAGES:
        for path in storage.list_directory(storage.join(run.path, kind)):
            # A trainer keeps checkpoints, settings and shards beside its model, under the model's name with an ending.
            if not any(inside(path, run) == kept or inside(path, run).startswith(f"{kept}.") for kept in newest):
                gone.add(inside(path, run))
                yield Leftover(path, "made with other settings or inputs", storage.size_of(path))
    for path in storage.list_in(storage.join(run.path, POINTERS), "**/*.json"):
        if storage.read_json(path).get("directory") in gone:
            yield Leftover(path, "names a result that is not needed", storage.size_of(path))
    cache = storage.join(run.path, CACHE)
    for name in dead_segments(cache):
        path = storage.join(cache, name)
        yield Leftover(path, "answers nothing that another segment does not", storage.size_of(path))


def inside(path: str, run: Run) -> str:
    """Return a path as seen from the run directory, however either was typed."""
    return storage.relative(path, run.path)


def clean(output: str, *, removes: bool) -> int:
    """Print what would be freed; remove it if told so."""
    open_run(output)  # before anything is written where no run is
    with at_work(output):
        run = open_run(output)
        unneeded = sorted(leftovers(run), key=lambda leftover: leftover.path)
        grid = Grid(box=None, pad_edge=False)
        for heading in ("what", "why", "MB"):
            grid.add_column(heading, justify="right" if heading == "MB" else "left")
        for leftover in unneeded:
            grid.add_row(inside(leftover.path, run), leftover.why, megabytes(leftover.bytes))
        if unneeded:
            results.print(grid)
        total = megabytes(sum(leftover.bytes for leftover in unneeded))
        if not removes:
            messages.print(f"{len(unneeded)} to remove, {total} MB; nothing was removed (--yes removes them)")
            return DONE
        for leftover in unneeded:
            storage.remove(leftover.path)
        messages.print(f"{len(unneeded)} removed, {total} MB")
    return DONE


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser("alignbeam clean", __doc__)
    parser.add_argument("run", help="run directory")
    parser.add_argument("--yes", action="store_true", help="remove what is listed")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: clean(arguments.run, removes=arguments.yes))


if __name__ == "__main__":
    sys.exit(main())
