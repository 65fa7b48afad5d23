"""Charts of an aligned corpus: scores and lengths, and how judges compare it with the responses."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from pipelines.report.charts import BLUE, GREY, ORANGE, RED, SERIES, Chart, axis, figure, names
from pipelines.report.charts import label as escaped
from pipelines.report.corpus import Corpus
from pipelines.report.distribution import Distribution

SCORE_BINS = 20
LENGTH_BINS = 30
LANE = 0.22  # of the height of a judge's row, between the win rates of its labels
JUDGE_FIELDS = ("judge", "n", "wins", "losses", "ties", "win_rate", "ci95", "wins_over_decided")
QUANTILE_COLUMNS = ("", "rows", "mean", "lowest", "5 %", "25 %", "median", "75 %", "95 %", "highest")


def _histograms(before: Distribution, after: Distribution, edges: np.ndarray, unit: str) -> list[go.Scatter]:
    """Draw two histograms as filled steps over the same bin edges."""
    width = f"{edges[1] - edges[0]:.3g}"
    counts = [values.histogram(edges) for values in (before, after)]
    return [
        go.Scatter(
            name=name,
            x=edges.tolist(),
            y=[*rows, rows[-1]],
            mode="lines",
            fill="tozeroy",
            line={"shape": "hv", "color": colour, "width": 2, "dash": dash},
            fillcolor=colour + "2e",
            hovertemplate=f"%{{y:,}} rows {name} within {width} from %{{x:.3~g}}{unit}<extra></extra>",
        )
        for name, rows, colour, dash in zip(("before", "after"), counts, (ORANGE, BLUE), ("dot", "solid"), strict=True)
    ]


def quantiles(values: Distribution) -> tuple[float | None, ...]:
    """Return mean, lowest, 5 %, 25 %, median, 75 %, 95 % and highest value."""
    if not values.rows:
        return (None,) * 8
    return values.mean, *values.quantiles([0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])


def scores(criterion: str, before: Distribution, after: Distribution, threshold: float | None) -> Chart | None:
    """Draw the inspector's scores of one criterion over all rows, before and after."""
    both = before + after
    if not both.rows:
        return None
    edges = np.linspace(min(0.0, both.values[0]), max(1.0, both.values[-1]), SCORE_BINS + 1)
    note = "The inspector's score of every row: of the response as it came in, and of what the corpus holds now."
    drawn = figure(
        _histograms(before, after, edges, ""),
        300,
        xaxis=axis("score (0 misaligned, 1 aligned)", tickformat=".1f", range=[edges[0] - 0.005, edges[-1] + 0.005]),
        yaxis=axis("rows", rangemode="tozero", tickformat=","),
    )
    if threshold is not None:
        drawn.add_vline(threshold, line={"dash": "dash", "width": 1.5, "color": RED})
        note += f" The dashed line is the threshold, {threshold:g}: the aligner is asked for rows that score below it."
    return Chart(
        f"scores-{criterion}",
        f"Score: {criterion}",
        note,
        drawn,
        QUANTILE_COLUMNS,
        [("before", before.rows, *quantiles(before)), ("after", after.rows, *quantiles(after))],
    )


def lengths(corpus: Corpus) -> Chart | None:
    """Draw the lengths of responses and of aligned texts."""
    before, after = corpus.response_characters, corpus.aligned_characters
    if not corpus.rows:
        return None
    both = before + after
    highest = max(int(both.values[-1]), 1)
    # One text of a megabyte would squeeze all others into the first bin: the last bin takes what is far out.
    [end] = both.quantiles([0.995])
    end = max(end if highest > 2 * end else highest, 10.0)
    edges = np.linspace(0, end, LENGTH_BINS + 1)
    note = "Length of the response as it came in and of what the corpus holds now."
    if highest > end:
        note += f" Texts of more than {end:,.0f} characters are counted in the last bin; the longest has {highest:,}."
    return Chart(
        "lengths",
        "Length",
        note,
        figure(
            _histograms(before, after, edges, " characters"),
            300,
            xaxis=axis("characters", tickformat=",", range=edges[[0, -1]].tolist()),
            yaxis=axis("rows", rangemode="tozero", tickformat=","),
        ),
        QUANTILE_COLUMNS,
        [("before", before.rows, *quantiles(before)), ("after", after.rows, *quantiles(after))],
    )


def win_rates(judges_of: Mapping[str, Sequence[Mapping[str, Any]]], note: str) -> Chart | None:
    """Draw each judge's win rate with its 95 % interval, of every label.

    `note` says how the corpora were made.
    """
    judges = list(dict.fromkeys(judge["judge"] for rates in judges_of.values() for judge in rates))
    if not judges:
        return None
    lanes = len(judges_of)
    traces = []
    for lane, (label, rates) in enumerate(judges_of.items()):
        # Labels stand one below the other, around their judge's name.
        offset = min(LANE, 0.8 / lanes) * (lane - (lanes - 1) / 2)
        middles = [judges.index(judge["judge"]) + offset for judge in rates]
        traces.append(_rates(label, lane, rates, middles, is_named=lanes > 1))
    drawn = figure(
        traces,
        110 + 28 * (lanes > 1) + len(judges) * (22 + 24 * lanes),
        xaxis=axis("win rate (wins / rows)", range=[-0.02, 1.02], tickformat=".1f"),
        yaxis=axis(None, showgrid=False, range=[len(judges) - 0.4, -0.6], **names(judges)),
    )
    drawn.add_vline(0.5, line={"dash": "dot", "width": 1.5, "color": GREY})
    columns = ("judge", "rows", "wins", "losses", "ties", "win rate", "95 % interval", "wins / decided")
    return Chart(
        "win-rates",
        "Win rates",
        "Share of rows whose aligned text the judge prefers to the response. Ties count against the aligner, except in "
        f"the column of decided rows; the intervals are 95 %. {note}",
        drawn,
        columns if lanes == 1 else ("label", *columns),
        [
            [*([label] if lanes > 1 else []), *(judge[name] for name in JUDGE_FIELDS)]
            for label, rates in judges_of.items()
            for judge in rates
        ],
    )


def _rates(
    label: str, lane: int, rates: Sequence[Mapping[str, Any]], middles: Sequence[float], *, is_named: bool
) -> go.Scatter:
    """Draw one label's win rates at these heights; an interval is None where there are too few rows."""
    values = [judge["win_rate"] for judge in rates]
    intervals = [judge["ci95"] for judge in rates]
    above = [interval and interval[1] - value for value, interval in zip(values, intervals, strict=True)]
    below = [interval and value - interval[0] for value, interval in zip(values, intervals, strict=True)]
    colour = SERIES[lane % len(SERIES)]
    return go.Scatter(
        name=escaped(label),
        showlegend=is_named,
        x=values,
        y=list(middles),
        mode="markers",
        marker={"size": 11, "color": colour, "symbol": lane % len(SERIES)},
        error_x={
            "type": "data",
            "symmetric": False,
            "thickness": 2,
            "width": 7,
            "color": colour,
            "array": above,
            "arrayminus": below,
        },
        hovertemplate=f"{'%{fullData.name}: ' if is_named else ''}win rate %{{x:.3f}}<extra></extra>",
    )
