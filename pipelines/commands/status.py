"""How far a run has come: each stage with its rows, what was lost and why.

alignbeam status runs/mine
"""

import sys
from collections.abc import Sequence

from rich.table import Table as Grid

from pipelines.report.run_directory import RUN_FILE, read_run_file
from schemas.command_line import DONE, DONE_WITH_REJECTS, FAILED, Parser, exit_code
from schemas.console import results
from schemas.errors import UsageError
from transforms.tables import storage
from transforms.tables.entries import read_entries
from transforms.tables.table import MANIFEST


def rows_of(output: str, entry: dict) -> tuple[str, str, str, bool]:
    """Rows in, rows kept, reasons, whether rows were rejected: from a stage's manifest, else its complete shards."""
    directory = storage.join(output, entry["directory"])
    manifest = storage.join(directory, MANIFEST)
    if storage.exists(manifest):
        counts = storage.read_json(manifest)["counts"]
        reasons = [*counts["rejects"].items(), *counts["drops"].items()]
        lost = ", ".join(f"{rows:,} {reason}" for reason, rows in reasons)
        return f"{counts['in']:,}", f"{counts['kept']:,}", lost, bool(counts["rejects"])
    done = read_entries(directory).values()
    rejected = any(shard["rejects"] for shard in done)
    return f"{sum(shard['in'] for shard in done):,}", "", f"{len(done)} shards are complete", rejected


def print_status(output: str) -> int:
    """Print the stages of a run, after those of its criteria; gives 1 where one failed, else 3 where rows were
    rejected."""
    if not storage.exists(storage.join(output, RUN_FILE)):
        raise UsageError(f"{output}: no run there (it has no {RUN_FILE})")
    run = read_run_file(output)
    codes = [
        print_status(folder)
        for name in run.get("criteria", [])
        if storage.exists(storage.join(folder := storage.join(output, name), RUN_FILE))
    ]
    grid = Grid(title=f"{run['name']}, criterion {run['criterion']}", title_justify="left", box=None, pad_edge=False)
    for heading in ("stage", "status", "seconds", "in", "kept", "lost"):
        grid.add_column(heading, justify="right" if heading in ("seconds", "in", "kept") else "left")
    code = DONE
    for entry in run["stages"]:
        rows_in, rows_kept, lost, rejected = rows_of(output, entry)
        grid.add_row(entry["stage"], entry["status"], f"{entry['seconds']:,.1f}", rows_in, rows_kept, lost)
        if rejected:
            code = DONE_WITH_REJECTS
    results.print(grid)
    codes.append(FAILED if any(entry["status"] == "failed" for entry in run["stages"]) else code)
    return FAILED if FAILED in codes else max(codes)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser("alignbeam status", __doc__)
    parser.add_argument("run", help="run directory")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: print_status(arguments.run))


if __name__ == "__main__":
    sys.exit(main())
