"""What a squad's aligners did, step by step: scores as they stand after each, rows they rewrote, and what was refused.

The figures of paper 002 for any routing: every row counts at every step, those that were not rewritten too.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from pipelines.report.charts import (
    GREEN,
    GREY,
    ORANGE,
    RED,
    SERIES,
    SKY,
    Cell,
    Chart,
    axis,
    figure,
    label,
    names,
    stacked_bar,
    wrapped,
)
from pipelines.report.corpus_charts import QUANTILE_COLUMNS, quantiles
from pipelines.report.formats import share, spaced
from pipelines.report.numbers import Numbers
from pipelines.report.trajectories import Trajectories

MOST_TURNS = 24
MOST_FLAT = 6  # steps whose names fit side by side
DASHES = ("solid", "dot", "dashdot")  # for lines beyond those that have a colour of their own
OUTCOMES = {"rewritten": (GREEN, ""), "unchanged": (SKY, ""), "refused": (ORANGE, "/"), "failed": (RED, "x")}
STEPS_NOTE = (
    "The mean over all rows, those that were not rewritten too, of their scores as they stand after every step."
)
SEVERAL_NOTE = " Rows went to different aligners at a step: how many to each stands beside."
REFUSED_NOTE = "Rewrites that did not become the text, for the first reason that applied."


def aligners(trajectories: Trajectories, step: int, order: Sequence[str]) -> list[str]:
    """Return the aligners asked at a step.

    Where no row fell short, it is the one whose turn it was, if `order` names it.
    """
    return trajectories.members(step) or list(order[step - 1 : step] if step else ())


def step_names(trajectories: Trajectories, order: Sequence[str]) -> dict[int, str]:
    """Name steps by aligner, as in `1 · ethical`.

    A step has its number alone where rows went to several.
    """
    members = {step: aligners(trajectories, step, order) for step in trajectories.scores}
    return {
        step: f"{step} · {names[0]}" if len(names) == 1 else str(step) if step else "response"
        for step, names in members.items()
    }


def height(trajectories: Trajectories, order: Sequence[str]) -> int:
    """Return the pixels of both charts, which stand side by side.

    They leave room for the bars of one and the legend of the other.
    """
    bars = sum(len(aligners(trajectories, step, order)) for step in trajectories.scores)
    return max(320, 90 + 22 * min(bars, MOST_TURNS), 250 + 20 * len(trajectories.criteria))


def scores_by_step(trajectories: Trajectories, thresholds: Mapping[str, float], order: Sequence[str]) -> Chart | None:
    """Draw mean scores by step and criterion.

    Of a single criterion it also draws the middle half of the rows, as a band.
    """
    if not trajectories.scores:
        return None
    name_of = step_names(trajectories, order)
    x_of = {step: x for x, step in enumerate(name_of)}
    criteria = trajectories.criteria
    traces: list[go.Scatter] = []
    rows: list[tuple[Cell, ...]] = []
    drawn = list(thresholds.values())
    for number, criterion in enumerate(criteria):
        by_step = {step: scores[criterion] for step, scores in trajectories.scores.items() if criterion in scores}
        xs, means = [x_of[step] for step in by_step], [scores.mean for scores in by_step.values()]
        if len(criteria) == 1:  # several bands would hide one another
            low, high = zip(*(scores.quantiles([0.25, 0.75]) for scores in by_step.values()), strict=True)
            traces.append(_band(xs, low, high, SERIES[0]))
            drawn += [*low, *high]
        traces.append(_line(criterion, number, xs, means))
        drawn += means
        rows += [(name_of[step], criterion, scores.rows, *quantiles(scores)) for step, scores in by_step.items()]
    is_flat = len(name_of) <= MOST_FLAT or not any("·" in name for step, name in name_of.items() if step)
    chart = figure(
        traces,
        height(trajectories, order),
        xaxis=axis(
            "step",
            range=[-0.3, max(len(name_of) - 0.7, 0.3)],
            showgrid=False,
            ticklabeloverflow="allow",
            tickangle=0 if is_flat else -60,
            **names(list(name_of.values()), wrapped if is_flat else label),
        ),
        yaxis=axis("mean score", tickformat=".1f", range=[min(0.0, *drawn), max(1.0, *drawn) + 0.03]),
    )
    note = STEPS_NOTE + (SEVERAL_NOTE if any(len(trajectories.members(step)) > 1 for step in name_of) else "")
    for threshold in sorted(set(thresholds.values())):
        sharing = [name for name in thresholds if thresholds[name] == threshold]
        is_of_one = len(sharing) == 1 < len(criteria) and sharing[0] in criteria
        colour = _colour(criteria.index(sharing[0])) if is_of_one else GREY
        chart.add_hline(threshold, line={"dash": "dash", "width": 1, "color": colour})
    if thresholds:
        note += " Dashed: the thresholds below which rows are rewritten."
    return Chart(
        "trajectories", "Scores from step to step", note, chart, ("step", "criterion", *QUANTILE_COLUMNS[1:]), rows
    )


def _colour(number: int) -> str:
    return SERIES[number % len(SERIES)]


def _band(xs: Sequence[int], low: Sequence[float], high: Sequence[float], colour: str) -> go.Scatter:
    """Fill what lies between two lines: along the upper one, and back along the lower."""
    area = {"x": [*xs, *xs[::-1]], "y": [*high, *low[::-1]], "fill": "toself", "fillcolor": colour + "24"}
    return go.Scatter(**area, name="middle half", mode="lines", line={"width": 0}, hoverinfo="skip")


def _line(criterion: str, number: int, xs: Sequence[int], means: Sequence[float]) -> go.Scatter:
    return go.Scatter(
        name=label(criterion),
        x=xs,
        y=means,
        mode="lines+markers",
        line={"color": _colour(number), "width": 2.5, "dash": DASHES[number // len(SERIES) % len(DASHES)]},
        marker={"size": 8, "symbol": number % len(SERIES)},
        hovertemplate="%{fullData.name}: mean %{y:.3f}<extra></extra>",
    )


def rows_by_aligner(trajectories: Trajectories, order: Sequence[str]) -> Chart | None:
    """Draw what became of the rows at every step of every aligner.

    There is nothing to draw for a single criterion.
    """
    if len(trajectories.criteria) < 2:
        return None
    rows_of, rows_by = Counter[int](), Counter[tuple[int, str | None, str | None]]()
    for turn, rows in trajectories.turns.items():
        rows_of[turn.step] += rows
        rows_by[turn.step, turn.member, turn.decision] += rows
    turns = [  # a bar each: step, aligner, rows by outcome
        (step, name, [rows_by[step, name, outcome] for outcome in OUTCOMES])
        for step in sorted(rows_of)
        for name in aligners(trajectories, step, order)
    ]
    if not turns:
        return None
    drawn = turns[:MOST_TURNS]
    parts = [*((outcome, *look) for outcome, look in OUTCOMES.items()), ("not asked", GREY + "40", "")]
    lengths = [[*counts, rows_of[step] - sum(counts)] for step, _, counts in drawn]
    traces = [
        stacked_bar(part, [row[number] for row in lengths], colour, shape)
        for number, (part, colour, shape) in enumerate(parts)
        if any(row[number] for row in lengths)
    ]
    note = "Of all rows, how many each aligner was asked for at a step, and what became of what it wrote."
    if len(drawn) < len(turns):
        note += f" The first {len(drawn)} of {len(turns)}; the table has them all."
    return Chart(
        "aligners",
        "Who rewrote what",
        note,
        figure(
            traces,
            height(trajectories, order),
            barmode="stack",
            bargap=0.35,
            xaxis=axis("rows", tickformat=","),
            yaxis=axis(
                None, autorange="reversed", showgrid=False, **names([f"{step} · {name}" for step, name, _ in drawn])
            ),
        ),
        ("step", "aligner", "asked", *OUTCOMES, "not asked"),
        [(step, name, sum(counts), *counts, rows_of[step] - sum(counts)) for step, name, counts in turns],
    )


def refusals(trajectories: Trajectories) -> Numbers | None:
    """Count the rewrites of every aligner that were refused, by reason."""
    by_reason: Counter[str] = Counter()
    refused: dict[str, Counter[str]] = {}
    proposed: Counter[str] = Counter()
    for turn, rows in trajectories.turns.items():
        if turn.member is not None and turn.decision in ("rewritten", "unchanged", "refused"):
            proposed[turn.member] += rows
            if turn.decision == "refused":
                reason = turn.reason or "not given"
                by_reason[reason] += rows
                refused.setdefault(turn.member, Counter())[reason] += rows
    if not refused:
        return None
    reasons = sorted(by_reason, key=lambda reason: (-by_reason[reason], reason))
    members = dict.fromkeys(name for step in trajectories.scores for name in trajectories.members(step))
    lines: list[tuple[Cell, ...]] = []
    for name in members:
        counts = refused.get(name, Counter())
        total = counts.total()
        lines.append((name, *(counts[reason] for reason in reasons), total, share(total, proposed[name])))
    columns = ("aligner", *(spaced(reason) for reason in reasons), "refused", "of its rewrites")
    return Numbers("What was refused, and why", columns, lines, REFUSED_NOTE)
