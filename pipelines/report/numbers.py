"""Metrics as they lie in JSON files, made into tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.report.charts import Cell
from pipelines.report.formats import cell, spaced
from schemas.settings import flatten


@dataclass(frozen=True)
class Numbers:
    """A table that no chart draws; `anchors` are those of its rows, where they can be led to."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    anchors: Sequence[str] = ()


def numbers(title: str, value: Any, note: str = "") -> Numbers:
    """Make a JSON value a table; single values beside distributions go to the note.

    It has a row for each distribution, for each object of a list or mapping, or for each value of a single object.
    """
    if isinstance(value, Mapping):
        parts = dict(_parts(value))
        rows = [
            {"": spaced(name), **_distribution(part, parts.get(_interval_of(name)))}
            for name, part in parts.items()
            if _is_distribution(part)
        ]
        if rows:
            told = parts.keys() & {_interval_of(name) for name, part in parts.items() if _is_distribution(part)}
            others = {name: part for name, part in parts.items() if name not in told and not _is_distribution(part)}
            rest = [f"{spaced(name)}: {cell(part)}" for name, part in others.items()]
            value, note = rows, "; ".join([note, *rest] if note else rest)
        elif value and all(isinstance(part, Mapping) for part in value.values()):
            value = [{"": spaced(name), **part} for name, part in value.items()]
    if isinstance(value, list):
        flat = [flatten(row) if isinstance(row, Mapping) else {"": row} for row in value]
        columns = list(dict.fromkeys(name for row in flat for name in row))
        return Numbers(
            title, [_heading(name) for name in columns], [[row.get(name) for name in columns] for row in flat], note
        )
    return Numbers(title, ("", "value"), [(_heading(name), part) for name, part in flatten(value).items()], note)


def _parts(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Return the distributions and single values in nested objects, by dotted name."""
    for name, part in value.items():
        if isinstance(part, Mapping) and not _is_distribution(part):
            yield from _parts(part, f"{prefix}{name}, ")
        else:
            yield prefix + name, part


def _is_distribution(value: Any) -> bool:
    return isinstance(value, Mapping) and "quantiles" in value


def _distribution(value: Mapping[str, Any], interval: Cell) -> dict[str, Cell]:
    quantiles = value["quantiles"] or {}
    named = {f"{100 * float(name):g} %": quantile for name, quantile in quantiles.items()}
    own = {name: part for name, part in value.items() if name != "quantiles"}
    return own | named | ({} if interval is None else {"95 % interval of the mean": interval})


def _interval_of(name: str) -> str:
    """Return what the interval of a distribution's mean is called beside it: `shift` → `mean_shift_interval`."""
    home, comma, own = name.rpartition(", ")
    return f"{home}{comma}mean_{own}_interval"


def _heading(name: str) -> str:
    return spaced(name).replace("ci95", "95 % interval").replace(".", ", ")
