"""How far a run has come: each stage with its rows, what was lost and why.

alignbeam status runs/mine
"""

import argparse
import sys
from collections.abc import Sequence

from rich.table import Table as Grid

from pipelines import entrypoint, runs
from pipelines.watch import console
from schemas.errors import UsageError
from transforms import storage
from transforms.tables import MANIFEST, read_entries


def rows_of(output: str, entry: dict) -> tuple[str, str, str]:
    """Rows in, rows kept, and reasons of a stage: from its manifest, else from the shards that are complete."""
    directory = storage.join(output, entry["directory"])
    manifest = storage.join(directory, MANIFEST)
    if storage.exists(manifest):
        counts = storage.read_json(manifest)["counts"]
        lost = [*counts["rejects"].items(), *counts["drops"].items()]
        return f"{counts['in']:,}", f"{counts['kept']:,}", ", ".join(f"{rows:,} {reason}" for reason, rows in lost)
    done = read_entries(directory)
    return f"{sum(shard['in'] for shard in done):,}", "", f"{len(done)} shards are complete"


def print_status(output: str) -> int:
    """Print the stages of a run; gives 3 where rows were rejected, 1 where a stage failed."""
    path = storage.join(output, runs.RUN_FILE)
    if not storage.exists(path):
        raise UsageError(f"{output}: no run there (it has no {runs.RUN_FILE})")
    run = storage.read_json(path)
    grid = Grid(title=f"{run['name']}, criterion {run['criterion']}", title_justify="left", box=None, pad_edge=False)
    for heading in ("stage", "status", "seconds", "in", "kept", "lost"):
        grid.add_column(heading, justify="right" if heading in ("seconds", "in", "kept") else "left")
    for entry in run["stages"]:
        rows_in, rows_kept, lost = rows_of(output, entry)
        grid.add_row(entry["stage"], entry["status"], f"{entry['seconds']:,.1f}", rows_in, rows_kept, lost)
    console.print(grid)
    return entrypoint.FAILED if any(entry["status"] == "failed" for entry in run["stages"]) else entrypoint.DONE


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="alignbeam status",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", help="run directory")
    arguments = parser.parse_args(argv)
    return entrypoint.exit_code(lambda: print_status(arguments.run))


if __name__ == "__main__":
    sys.exit(main())
