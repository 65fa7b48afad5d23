"""Compare two runs: settings, counts and figures side by side, where they differ.

    alignbeam diff runs/monday runs/tuesday
    alignbeam diff runs/monday runs/tuesday --all

Steps are matched by name. Of a step that one run alone has done it is only said which; --all lists what it has.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table as Grid

from pipelines.runtime.runs import RecordedStage, Run, open_run
from schemas.command_line import DONE, Parser, exit_code
from schemas.console import messages, results
from schemas.settings import flatten

LEFT_OUT = ("history", "versions")  # of metrics: what no two runs share
ABSENT = "–"
DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{20}\b")  # a table's or model's: as many digits as directories have
Sides = dict[str, tuple[Any, Any]]  # by name, the value in each run; None where a run has none


def settings_of(stage: RecordedStage) -> dict[str, Any]:
    """Return what decided a step's result, by dotted name."""
    return flatten((stage.manifest or {}).get("identity", {}))


def counts_of(stage: RecordedStage) -> dict[str, Any]:
    return flatten((stage.manifest or {}).get("counts", {}))


def figures_of(stage: RecordedStage) -> dict[str, Any]:
    """Return the numbers of a step's metrics.json, by dotted name."""
    metrics = stage.read_json("metrics.json") or {}
    return dict(numbers_in({name: value for name, value in metrics.items() if name not in LEFT_OUT}))


def numbers_in(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number at any depth with its dotted name; a list's parts go by what they are called, or by number."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int | float):
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from numbers_in(part, f"{name}.{key}".strip("."))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            label = part.get("judge", number) if isinstance(part, Mapping) else number
            yield from numbers_in(part, f"{name}.{label}")


PARTS = {"settings": settings_of, "counts": counts_of, "figures": figures_of}


def one_sided(before: Run, after: Run) -> dict[str, tuple[str, str]]:
    """Return the steps that one of two runs has done and the other has not: how each stands."""
    names = dict.fromkeys(stage.name for run in (before, after) for stage in run.stages)
    standings: dict[str, tuple[str, str]] = {}
    for name in names:
        stages = before.stage(name), after.stage(name)
        is_there = [bool(stage and stage.manifest) for stage in stages]
        if is_there[0] != is_there[1]:
            left, right = (stage.status if stage else ABSENT for stage in stages)
            standings[name] = left, right
    return standings


def differences(before: Run, after: Run, *, shows_all: bool = False) -> dict[str, Sides]:
    """Return, by part, what differs between two runs: `step name` and the two values.

    Steps that only one run has done are left out unless all is shown.
    """
    left_out = {} if shows_all else one_sided(before, after)
    names = dict.fromkeys(stage.name for run in (before, after) for stage in run.stages if stage.name not in left_out)
    sides: dict[str, Sides] = {}
    for part, values_of in PARTS.items():
        sides[part] = {}
        for name in names:
            left, right = (values_of(stage) if (stage := run.stage(name)) else {} for run in (before, after))
            for key in dict.fromkeys([*left, *right]):
                pair = left.get(key), right.get(key)
                if shows_all or pair[0] != pair[1]:
                    sides[part][f"{name} {key}"] = pair
    return sides


def shown(value: Any) -> str:
    if value is None:
        return ABSENT
    return f"{value:.4g}" if isinstance(value, float) else DIGEST.sub(r"\1", str(value))


def print_differences(before: str, after: str, *, shows_all: bool) -> int:
    """Print a table for each part in which two runs differ."""
    runs = open_run(before), open_run(after)
    for part, rows in {"steps": one_sided(*runs), **differences(*runs, shows_all=shows_all)}.items():
        if not rows:
            messages.print(f"{part}: no difference")
            continue
        grid = Grid(title=part, title_justify="left", box=None, pad_edge=False)
        for heading in ("", before, after):
            grid.add_column(heading, overflow="fold")
        for name, pair in rows.items():
            grid.add_row(name, *map(shown, pair))
        results.print(grid)
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser("alignbeam diff", __doc__)
    parser.add_argument("before", help="run directory")
    parser.add_argument("after", help="run directory")
    parser.add_argument("--all", action="store_true", help="also what is equal")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: print_differences(arguments.before, arguments.after, shows_all=arguments.all))


if __name__ == "__main__":
    sys.exit(main())
