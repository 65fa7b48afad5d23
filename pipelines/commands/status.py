"""How far a run has come: each step under the last one that it needs, with its rows, what was lost and why.

alignbeam status runs/mine
"""

import sys
from collections.abc import Iterator, Sequence

from rich.cells import cell_len

from pipelines.report.formats import cell, duration
from pipelines.report.graph_layout import layers_of
from pipelines.runtime.runs import RecordedStage, open_run
from schemas.command_line import DONE, DONE_WITH_REJECTS, FAILED, Parser, exit_code
from schemas.console import results

visible = results.visible
INDENT = "  "
HEADINGS = ("step", "status", "rows", "time")


def tree(stages: Sequence[RecordedStage]) -> Iterator[tuple[int, RecordedStage, list[str]]]:
    """Yield the steps as a tree: depth, step, and what it needs besides the step above it.

    A step stands once, under the last of the steps that it needs; roots need none of the run.
    """
    layer_of = layers_of({stage.name: stage.inputs for stage in stages})
    number_of = {stage.name: number for number, stage in enumerate(stages)}
    needs, below = {}, dict[str, list[RecordedStage]]()
    for stage in stages:
        earlier = [name for name in stage.inputs if layer_of.get(name, layer_of[stage.name]) < layer_of[stage.name]]
        needs[stage.name] = sorted(earlier, key=lambda name: (layer_of[name], number_of[name]))
        below.setdefault(needs[stage.name][-1] if earlier else "", []).append(stage)
    left = [(0, stage) for stage in reversed(below.get("", []))]
    while left:
        depth, stage = left.pop()
        yield depth, stage, needs[stage.name][:-1]
        left += [(depth + 1, after) for after in reversed(below.get(stage.name, []))]


def row_of(depth: int, stage: RecordedStage) -> list[str]:
    """Return a step's line: its name, how it stands, rows kept of those that went in, and its time."""
    rows = stage.rows
    kept = "" if rows is None else f"{cell(rows.kept)} of {cell(rows.going_in)}"
    return [INDENT * depth + visible(stage.name), visible(stage.status), kept, duration(stage.seconds or None)]


def details(stage: RecordedStage, more: Sequence[str]) -> Iterator[str]:
    """Yield what else is to say of a step, a line each."""
    if stage.because:
        yield f"{stage.status}: {', '.join(stage.because)}"
    if stage.shards:
        yield f"{stage.shards:,} {'shard is' if stage.shards == 1 else 'shards are'} complete"
    counts = stage.counts or {}
    reasons = [*counts.get("rejects", {}).items(), *counts.get("drops", {}).items()]
    if reasons:
        yield f"lost: {', '.join(f'{rows:,} {reason}' for reason, rows in reasons)}"
    if more:
        yield f"also needs {', '.join(more)}"


def print_status(output: str) -> int:
    """Print the steps of a run; return the exit code.

    It is 1 where one failed, 3 where rows were rejected.
    """
    run = open_run(output)
    entries = list(tree(run.stages))
    rows = [list(HEADINGS), *(row_of(depth, stage) for depth, stage, _ in entries)]
    widths = [max(cell_len(row[number]) for row in rows) for number in range(len(HEADINGS))]
    notes = [[INDENT * (depth + 2) + text for text in details(stage, more)] for depth, stage, more in entries]
    results.print(run.name, style="bold", soft_wrap=True)
    for row, lines in zip(rows, [[], *notes], strict=True):
        padded = [text + " " * (width - cell_len(text)) for text, width in zip(row[:2], widths[:2], strict=True)]
        padded += [" " * (width - cell_len(text)) + text for text, width in zip(row[2:], widths[2:], strict=True)]
        results.print("  ".join(padded).rstrip(), soft_wrap=True)
        for line in lines:
            results.print(line, style="dim", soft_wrap=True)
    if any(stage.status == "failed" for stage in run.stages):
        return FAILED
    return DONE_WITH_REJECTS if any((stage.counts or {}).get("rejects") for stage in run.stages) else DONE


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser("alignbeam status", __doc__)
    parser.add_argument("run", help="run directory")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: print_status(arguments.run))


if __name__ == "__main__":
    sys.exit(main())
