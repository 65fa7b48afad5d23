"""Who harms whom: what each aligner of a squad alone does to every criterion's score."""

from collections.abc import Iterator, Mapping
from typing import Any

import plotly.graph_objects as go

from pipelines.report.charts import BLUE, ORANGE, Cell, Chart, axis, figure, label, names
from pipelines.report.formats import cell, change, share
from pipelines.report.numbers import Numbers
from pipelines.report.parts import Part, Section, section, unfinished
from pipelines.runtime.runs import RecordedStage, Run

LEAST_SCALE = 0.05  # a change of so much has the full colour where all are smaller
NOTE = (
    "Each aligner rewrote every row of a sample alone, with no guard. A cell is the mean change of a criterion’s "
    "score: orange is harm, blue is help. The control has the rewrite of another row in its place."
)
NOTHING = "No aligner rewrote a row of the sample, so that no score changed."
COLUMNS = ("rows", "mean change", "95 % interval", "rows that fell", "control", "its interval")


def conflicts_section(run: Run) -> Section:
    return section("conflicts", "Conflicts", [conflicts_part(stage) for stage in run.of_kind("conflicts")])


def conflicts_part(stage: RecordedStage) -> Part:
    """Show a conflicts step's matrix, the squad's own scores on the sample, and the order of aligners to try."""
    table = stage.table("conflicts")
    rows = table.to_arrow().to_pylist() if table else []
    summary = stage.read_json("conflicts.json") or {}
    order = [f"Order to try with routing fixed: {', '.join(summary['order'])}."] if summary.get("order") else []
    chart = heat_map(rows, " ".join([NOTE, *order]))
    squad = squad_table(summary)
    missing = unfinished(stage) or ("" if chart else NOTHING)
    return Part(stage.name, [chart] if chart else [], [squad] if squad else [], missing)


def squad_table(summary: Mapping[str, Any]) -> Numbers | None:
    """Show what the squad as a whole does to the sample."""
    means = [summary.get(name) or [] for name in ("criteria", "before", "after")]
    rows = list(zip(*means, strict=False))
    if not rows:
        return None
    unmet = summary.get("unmet")
    note = f"{share(unmet, 1)} of the rows stay below a threshold." if unmet is not None else ""
    title = f"The squad on {cell(summary['rows'])} rows" if summary.get("rows") else "The squad on the sample"
    return Numbers(title, ("criterion", "before", "after"), rows, note)


def heat_map(rows: list[dict[str, Any]], note: str) -> Chart | None:
    """Draw the mean change of every criterion's score by every aligner."""
    changes = {(row["aligner"], row["criterion"]): row.get("change") for row in rows}
    if all(value is None for value in changes.values()):
        return None
    aligners = list(dict.fromkeys(aligner for aligner, _ in changes))
    criteria = list(dict.fromkeys(criterion for _, criterion in changes))
    cells = [[changes.get((aligner, criterion)) for criterion in criteria] for aligner in aligners]
    most = max([LEAST_SCALE, *(abs(value) for line in cells for value in line if value is not None)])
    trace = go.Heatmap(
        z=cells,
        text=[[change(0.0, value) for value in line] for line in cells],
        texttemplate="%{text}",
        customdata=[[f"{label(aligner)} on {label(criterion)}" for criterion in criteria] for aligner in aligners],
        xgap=2,
        ygap=2,
        zmin=-most,
        zmax=most,
        hoverongaps=False,
        colorscale=[[0, ORANGE], [0.5, "rgba(138,143,152,0.12)"], [1, BLUE]],
        colorbar={
            "title": {"text": "mean change", "side": "right", "font": {"size": 12.5}},
            "thickness": 10,
            "outlinewidth": 0,
            "tickformat": "+.2~f",
        },
        hovertemplate="%{customdata}: %{text}<extra></extra>",
    )
    drawn = figure(
        [trace],
        150 + 44 * len(aligners),
        xaxis=axis("criterion", showgrid=False, side="bottom", **names(criteria)),
        yaxis=axis("aligner", showgrid=False, autorange="reversed", **names(aligners)),
    )
    lines = [[row["aligner"], row["criterion"], *_figures(row)] for row in rows]
    return Chart("conflicts", "Who harms whom", note, drawn, ("aligner", "criterion", *COLUMNS), lines)


def _figures(row: Mapping[str, Any]) -> Iterator[Cell]:
    yield row.get("rows")
    yield row.get("change")
    yield _interval(row, "change")
    fallen = row.get("share_fallen")
    yield None if fallen is None else share(fallen, 1)
    yield row.get("control_change")
    yield _interval(row, "control")


def _interval(row: Mapping[str, Any], name: str) -> Cell:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return None if low is None or high is None else [low, high]
