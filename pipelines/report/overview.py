"""What a report says of the whole run: the facts and large numbers at its top, and the tables at its end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.report.charts import Cell
from pipelines.report.evaluations import read_metrics
from pipelines.report.formats import cell, date, duration, share, spaced
from pipelines.report.numbers import Numbers
from pipelines.report.parts import anchored
from pipelines.report.sections import Alignment, members
from pipelines.runtime.runs import RecordedStage, Run
from schemas.tables import DECISIONS

MOST_NAMED = 6  # steps in a warning
WARNINGS = {
    "stale": "Stale, made with other settings or inputs than the run has now",
    "running": "Still running, or stopped from outside",
    "interrupted": "Interrupted; the same command again goes on there",
    "failed": "Failed",
    "partial": "Not complete",
}


@dataclass(frozen=True)
class Figure:
    """One of the large numbers at the top."""

    value: str
    name: str
    note: str


def facts(run: Run) -> list[tuple[str, str]]:
    """Return what stands under the title."""
    criteria = dict.fromkeys(str(member["criterion"]) for stage in run.of_kind("align") for member in members(stage))
    models = used_models(run.models)
    return [
        *([("Criterion" if len(criteria) == 1 else "Criteria", cell(", ".join(criteria)))] if criteria else []),
        ("Started", date(run.started)),
        ("Time in steps", duration(sum(stage.seconds or 0 for stage in run.stages))),
        ("Seed", "–" if run.seed is None else str(run.seed)),
        *([("Models" if len(models) > 1 else "Model", ", ".join(map(cell, models)))] if models else []),
    ]


def used_models(models: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return where each model is used, such as `triples model`, by model."""
    uses: dict[str, list[str]] = {}
    for use, model in models.items():
        uses.setdefault(str(model), []).append(use)
    return uses


def models_table(run: Run) -> Numbers | None:
    rows = [(model, ", ".join(uses)) for model, uses in used_models(run.models).items()]
    return Numbers("Models", ("model", "used as"), rows) if rows else None


def warnings(run: Run) -> list[str]:
    """Say which steps are not as they should be, and in which way."""
    told = []
    for status, meaning in WARNINGS.items():
        steps = [stage.name for stage in run.stages if stage.status == status]
        named = ", ".join(steps[:MOST_NAMED]) + (f" and {len(steps) - MOST_NAMED} more" if steps[MOST_NAMED:] else "")
        if steps:
            told.append(f"{meaning}: {named}.")
    return told


def key_figures(run: Run, alignments: Sequence[Alignment]) -> list[Figure]:
    """Return the large numbers, what came out before how it came about; of several alignments, those of the first."""
    figures = []
    for alignment in alignments[:1]:
        figures += _aligned_figures(alignment, f", {alignment.stage.name}" if len(alignments) > 1 else "")
    for name in ("questions", "triples"):
        rows = [stage.rows for stage in run.of_kind(name) if stage.rows]
        if rows:
            going_in = sum(part.going_in for part in rows)
            figures.append(Figure(cell(sum(part.kept for part in rows)), f"{name} kept", f"of {going_in:,}"))
    judged = [judge_figure for stage in run.of_kind("evaluate")[-1:] for judge_figure in _judged_figures(stage)]
    changes = len([figure for figure in figures if "→" in figure.value])
    return [*figures[:changes], *judged, *figures[changes:]]


def _aligned_figures(alignment: Alignment, where: str) -> list[Figure]:
    figures, corpus = [], alignment.corpus
    for name, after in corpus.after.items():
        means = [scores.mean for scores in (corpus.before[name], after) if scores.rows]
        if len(means) == 2:
            figures.append(Figure(f"{means[0]:.2f} → {means[1]:.2f}", f"mean score, {name}", f"before → after{where}"))
    if corpus.rows:
        figures.append(Figure(cell(corpus.rows), "rows aligned", f"{corpus.changed:,} changed{where}"))
    for decision in DECISIONS:
        if rows := corpus.decisions[decision]:
            figures.append(Figure(share(rows, corpus.rows), spaced(decision), f"{rows:,} row{'s' * (rows != 1)}"))
    return figures


def _judged_figures(stage: RecordedStage) -> list[Figure]:
    """Return the win rates of an evaluation's first label."""
    labels = read_metrics(stage).get("labels", {})
    figures = []
    for label, of_label in list(labels.items())[:1]:
        for judge in of_label.get("judges", []):
            interval = f"95 %: {judge['ci95'][0]:.2f} – {judge['ci95'][1]:.2f}" if judge["ci95"] else ""
            notes = [label] * (len(labels) > 1) + [interval] * bool(interval)
            figures.append(Figure(cell(judge["win_rate"]), f"win rate, {judge['judge']}", ", ".join(notes)))
    return figures


def steps_table(run: Run) -> Numbers:
    """List the steps of a run; each row can be led to."""
    columns = ("step", "kind", "status", "rows in", "kept", "dropped", "rejected", "time", "digest")
    anchors = [anchored("step", stage.name) for stage in run.stages]
    return Numbers("Steps", columns, [_step_row(stage) for stage in run.stages], anchors=anchors)


def _step_row(stage: RecordedStage) -> tuple[Cell, ...]:
    digest = (stage.manifest or {}).get("digest") or stage.path.rpartition("/")[2]
    rows = stage.rows if stage.has_tables else None
    status = f"{stage.status}: {', '.join(stage.because)}" if stage.because else stage.status
    digest = "–" if stage.status == "to do" else digest
    return stage.name, stage.kind, status, *(rows or (None,) * 4), duration(stage.seconds), digest
