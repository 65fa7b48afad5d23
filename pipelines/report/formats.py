"""How values are written for a reader."""

from datetime import datetime
from typing import Any

CELL_CHARACTERS = 200


def cell(value: Any) -> str:
    """Write a table cell: thousands apart, three decimals where they matter, long texts cut."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        decimals = 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
        written = f"{value:,.{decimals}f}"
        return (written if written.strip("-0.") else written.lstrip("-")).replace("-", "−")
    if isinstance(value, list | tuple):
        return " – ".join(cell(part) for part in value)
    text = str(value)
    return text if len(text) <= CELL_CHARACTERS else text[: CELL_CHARACTERS - 1] + "…"


def is_numeric(value: Any) -> bool:
    """Return whether a cell stands to the right.

    It is a number, a gap where one could be, a share or an interval.
    """
    return not isinstance(value, str) or value.endswith(" %")


def share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def change(before: float | None, after: float | None) -> str:
    """Write a difference with its sign."""
    if before is None or after is None:
        return "–"
    return f"{after - before:+.3f}".replace("+0.000", "0").replace("-0.000", "0").replace("-", "−")


def spaced(name: str) -> str:
    """Write an identifier as words."""
    return name.replace("_", " ")


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def date(text: str | None) -> str:
    """Write an ISO date in words; anything else as it stands."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return cell(text)
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".rstrip()
