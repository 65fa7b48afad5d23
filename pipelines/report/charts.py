"""What every chart of a report has in common: a Plotly figure, the numbers it shows, one look.

Text in figures comes from models. Plotly reads a little HTML in labels, so every label is escaped; fonts, grid and
background are left to the page, which knows whether it is light or dark.
"""

import html
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

# After Okabe and Ito, so that colour-blind readers can tell them apart, in shades for white and for near-black.
BLUE, ORANGE, RED, GREEN, PURPLE, SKY = "#2f7fc1", "#d98a1f", "#c9543a", "#1f9e7a", "#b5679b", "#56a8d6"
GREY = "#8a8f98"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY)
LABEL_CHARACTERS = 28
WRAPPED_CHARACTERS = 14
SEPARATOR_TRANSLATION = {ord(mark): f"\\u{ord(mark):04x}" for mark in "<>&\u2028\u2029"}

Cell = str | int | float | list | None


@dataclass(frozen=True)
class Chart:
    """A figure, what it shows in words, and its numbers as a table (`columns`, `rows`)."""

    name: str
    title: str
    note: str
    figure: go.Figure
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def to_json(figures: Mapping[str, go.Figure]) -> str:
    """Return figures by name as JSON that may stand inside a `<script>` element.

    Nothing in it can end the element.
    """
    text = json.dumps({name: figure.to_plotly_json() for name, figure in figures.items()}, ensure_ascii=False)
    return text.translate(SEPARATOR_TRANSLATION)


def label(text: object, characters: int = LABEL_CHARACTERS) -> str:
    """Make a model's text an axis label: one short line, nothing in it read as markup."""
    return html.escape(_cut(text, characters), quote=False)


def wrapped(text: object) -> str:
    """Make a model's text an axis label of a few short lines.

    Such labels fit side by side under an axis.
    """
    return "<br>".join(html.escape(line, quote=False) for line in textwrap.wrap(_cut(text), WRAPPED_CHARACTERS))


def _cut(text: object, characters: int = LABEL_CHARACTERS) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= characters else line[: characters - 1] + "…"


def stacked_bar(name: str, values: Sequence[int], colour: str, shape: str) -> go.Bar:
    """Return one part of stacked bars of rows, hatched by `shape` so that it is known without its colour."""
    return go.Bar(
        name=name,
        orientation="h",
        y=list(range(len(values))),
        x=values,
        marker={
            "color": colour,
            "line": {"width": 0},
            "pattern": {"shape": shape, "fgcolor": "rgba(255,255,255,0.55)", "size": 6},
        },
        hovertemplate=f"%{{x:,}} {name}<extra></extra>",
    )


def figure(traces: Sequence[Any], height: int, **layout: Any) -> go.Figure:
    base: dict[str, Any] = {
        "template": None,
        "height": height,
        "margin": {"l": 8, "r": 18, "t": 8, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "xanchor": "left",
            "yanchor": "bottom",
            "traceorder": "normal",
        },
        "hoverlabel": {"align": "left"},
    }
    return go.Figure(list(traces), {**base, **layout})


def axis(title: str | None, **more: Any) -> dict[str, Any]:
    return {
        "title": {"text": title, "font": {"size": 12.5}},
        "automargin": True,
        "zeroline": False,
        "ticks": "",
        **more,
    }


def names(labels: Sequence[object], written: Callable[[object], str] = label) -> dict[str, Any]:
    """Place labels at the positions 0, 1, …: two labels that look alike stay two."""
    return {"tickmode": "array", "tickvals": list(range(len(labels))), "ticktext": [written(name) for name in labels]}
