"""How far a run has come: each stage with its rows, what was lost and why.

alignbeam status runs/mine
"""

import sys
from collections.abc import Sequence

from rich.table import Table as Grid

from pipelines.runtime.runs import RecordedStage, is_run, open_run
from schemas.command_line import DONE, DONE_WITH_REJECTS, FAILED, Parser, exit_code
from schemas.console import results
from transforms.tables import storage
from transforms.tables.entries import read_entries


def row_of(stage: RecordedStage) -> tuple[list[str], bool]:
    """Return a stage's line and whether it rejected rows.

    They come from its manifest, else from its complete shards.
    """
    head = [stage.name, stage.status, f"{stage.seconds or 0:,.1f}"]
    if stage.manifest is not None:
        counts = stage.manifest["counts"]
        reasons = [*counts["rejects"].items(), *counts["drops"].items()]
        lost = ", ".join(f"{rows:,} {reason}" for reason, rows in reasons)
        return [*head, f"{counts['in']:,}", f"{counts['kept']:,}", lost], bool(counts["rejects"])
    shards = read_entries(stage.path).values()
    rows = sum(shard["in"] for shard in shards)
    return [*head, f"{rows:,}", "", f"{len(shards)} shards are complete"], any(shard["rejects"] for shard in shards)


def print_status(output: str) -> int:
    """Print the stages of a run after those of its criteria; return the exit code.

    It is 1 where one failed, 3 where rows were rejected.
    """
    run = open_run(output)
    folders = [storage.join(output, name) for name in run.criteria]
    codes = [print_status(folder) for folder in folders if is_run(folder)]
    grid = Grid(title=f"{run.name}, criterion {run.criterion or ''}", title_justify="left", box=None, pad_edge=False)
    for heading in ("stage", "status", "seconds", "in", "kept", "lost"):
        grid.add_column(heading, justify="right" if heading in ("seconds", "in", "kept") else "left")
    code = DONE
    for stage in run.stages:
        row, is_rejecting = row_of(stage)
        grid.add_row(*row)
        if is_rejecting:
            code = DONE_WITH_REJECTS
    results.print(grid)
    codes.append(FAILED if any(stage.status == "failed" for stage in run.stages) else code)
    return FAILED if FAILED in codes else max(codes)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser("alignbeam status", __doc__)
    parser.add_argument("run", help="run directory")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: print_status(arguments.run))


if __name__ == "__main__":
    sys.exit(main())
