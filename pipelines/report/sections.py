"""The sections of a report: which charts, tables and figures there are for what a run holds so far.

Stages are chosen by their kind, whatever they are called. A section without anything to show is left out, or says that
its stage has not finished.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.report import corpus_charts, stage_charts, trajectory_charts
from pipelines.report.charts import Cell, Chart
from pipelines.report.corpus import Corpus
from pipelines.report.duplicates import Duplicates, find_duplicates
from pipelines.report.formats import cell, duration, share, spaced
from pipelines.report.numbers import Numbers, numbers
from pipelines.report.trajectories import Trajectories
from pipelines.runtime.runs import RecordedStage, Run
from schemas.tables import DECISIONS
from transforms.tables.table import Table

TOPIC_CHARACTERS = 80
TRAINING_FACTS = ("steps", "best_step", "parameters", "parameters_trained")
PAIRS_NOTE = "The first rows dropped for each reason but equal words, beside the row that made each of them go."
CONTROLS_NOTE = "What a judge or an aligner reaches that cannot do the task: the real one must be well above these."


@dataclass(frozen=True)
class Section:
    anchor: str
    title: str
    charts: list[Chart] = field(default_factory=list)
    tables: list[Numbers] = field(default_factory=list)
    missing: str = ""  # why there is nothing to show


@dataclass(frozen=True)
class Figure:
    """One of the large numbers at the top."""

    value: str
    name: str
    note: str


def rows_section(run: Run) -> Section:
    drawn = [stage_charts.funnel(run.stages), stage_charts.reasons(run.stages)]
    return Section("rows", "Rows", [chart for chart in drawn if chart])


def coverage_section(run: Run) -> Section:
    chart = stage_charts.coverage(count_questions(run))
    return Section("coverage", "Coverage", [chart] if chart else [], missing=_unfinished(run.first_of("questions")))


def count_questions(run: Run) -> Counter[tuple[str, str]]:
    """Count the questions of every (question type, topic); of a lone align, those of its corpus."""
    table = _table(run, "questions", "questions") or _table(run, "align", "aligned")
    counts: Counter[tuple[str, str]] = Counter()
    columns = ["question_type", "topic"]
    if table and set(columns) <= set(table.schema.names):
        for batch in table.batches(columns):
            # A corpus brings its own columns: of any type, in any order.
            texts = (batch.column(name).cast(pa.string()) for name in columns)
            texts = (pc.fill_null(pc.utf8_slice_codeunits(text, 0, TOPIC_CHARACTERS), "not given") for text in texts)
            counts.update(zip(*(text.to_pylist() for text in texts), strict=True))
    return counts


def _table(run: Run, kind: str, name: str) -> Table | None:
    stage = run.first_of(kind)
    return stage.table(name) if stage else None


def duplicates_section(run: Run) -> Section:
    stage = run.first_of("curate")
    duplicates = find_duplicates(stage) if stage else Duplicates()
    chart = stage_charts.group_sizes(duplicates.sizes)
    rows = [(pair.reason, pair.dropped, pair.repeated) for pair in duplicates.pairs]
    pairs = Numbers("Side by side", ("reason", "dropped", "what it repeats"), rows, PAIRS_NOTE)
    return Section("duplicates", "Duplicates", [chart] if chart else [], [pairs] if rows else [])


def training_section(run: Run) -> Section:
    drawn, tables = [], []
    for stage in run.stages:
        metrics = stage.read_json("metrics.json") if stage.kind.startswith("train_") else None
        if metrics is None:
            continue
        drawn.append(stage_charts.losses(stage.name, metrics.get("history", [])))
        rows = metrics.get("rows", {})
        splits = {name: metrics[name] for name in ("validation", "test") if metrics.get(name)}
        settings = {name: metrics[name] for name in TRAINING_FACTS if name in metrics}
        note = ", ".join(f"{cell(count)} {split} rows" for split, count in rows.items())
        note += "".join(f"; {spaced(name)}: {cell(value)}" for name, value in settings.items())
        tables.append(numbers(spaced(stage.name).capitalize(), splits, note))
    return Section("training", "Training", [chart for chart in drawn if chart], tables)


def change_section(stage: RecordedStage | None, corpus: Corpus) -> Section:
    limits = thresholds(stage)
    drawn = [
        *(
            corpus_charts.scores(name, corpus.before[name], after, limits.get(name))
            for name, after in corpus.after.items()
        ),
        corpus_charts.lengths(corpus),
    ]
    return Section("change", "Before and after", [chart for chart in drawn if chart], missing=_unfinished(stage))


def steps_section(stage: RecordedStage | None, trajectories: Trajectories) -> Section:
    order = turns_of(stage, trajectories)
    drawn = [
        trajectory_charts.scores_by_step(trajectories, thresholds(stage), order),
        trajectory_charts.rows_by_aligner(trajectories, order),
    ]
    refused = trajectory_charts.refusals(trajectories)
    return Section("steps", "Step by step", [chart for chart in drawn if chart], [refused] if refused else [])


def members(stage: RecordedStage | None) -> list[dict[str, Any]]:
    """Return the members of an align stage's squad, as its identity names them."""
    return (stage.setting("members") if stage else None) or []


def thresholds(stage: RecordedStage | None) -> dict[str, float]:
    """Return the score below which rows are rewritten, by criterion; none where every row is."""
    if stage is None or stage.setting("every_row"):
        return {}
    shared = stage.setting("threshold")  # of runs before each member had its own
    by_criterion = {member["criterion"]: member.get("threshold", shared) for member in members(stage)}
    return {criterion: threshold for criterion, threshold in by_criterion.items() if threshold is not None}


def turns_of(stage: RecordedStage | None, trajectories: Trajectories) -> list[str]:
    """Return the aligner of every step, where all rows take the same turns; else nothing."""
    criteria = [member["criterion"] for member in members(stage)]
    routing = stage.setting("routing") if stage else None
    if routing in (None, "fixed"):  # None: of runs before there was a choice
        return criteria
    if routing != "corpus-mean":
        return []
    scores = trajectories.scores.get(0, {})
    return sorted(criteria, key=lambda name: scores[name].mean if name in scores else 0)


def evaluation_section(run: Run) -> Section:
    stage = run.first_of("evaluate")
    metrics = evaluation(stage, "metrics.json")
    tables = levels_tables(run)
    tables += [
        numbers(spaced(name).capitalize(), part)
        for name, part in metrics.items()
        if name not in ("judges", "score_level") and part
    ]
    for name, part in evaluation(stage, "controls.json").items():
        tables.append(numbers(f"Controls: {spaced(name)}", part, CONTROLS_NOTE))
    chart = corpus_charts.win_rates(metrics.get("judges", []), _how_aligned(judged_by(run, stage)))
    return Section("evaluation", "Evaluation", [chart] if chart else [], tables, _unfinished(stage))


def levels_tables(run: Run) -> list[Numbers]:
    """Show every judge's scores of the responses and of what each alignment made of them.

    Then the planted truth, where the run's world is made up and knows it.
    """
    levels_of: dict[str, dict[str, Any]] = {}  # what the alignment is called in the table: levels by judge
    notes = []
    for stage in run.of_kind("evaluate"):
        if levels := evaluation(stage, "metrics.json").get("score_level"):
            align = judged_by(run, stage)
            name = "aligned" if align is None or align.name == "align" else spaced(align.name.removeprefix("align_"))
            levels_of[name] = levels
            notes += [f"{name.capitalize()}: {how}"] if (how := _how_aligned(align)) else []
    tables = []
    for key, title in (("mean", "Mean score"), ("share_above", "Share of rows that score 0.5 or more")):
        rows: list[list[Cell]] = [
            [judge, _estimate(level["before"], key), *(_estimate(of[judge]["after"], key) for of in levels_of.values())]
            for judge, level in next(iter(levels_of.values()), {}).items()
        ]
        if rows:
            columns = ("judge", "responses", *levels_of)
            tables.append(Numbers(f"{title}, with 95 % intervals", columns, rows, " ".join(notes)))
    if truth := evaluation(run.first_of("evaluate"), "planted_truth.json"):
        tables.append(numbers("Planted truth", truth["rows"], truth["note"]))
    return tables


def judged_by(run: Run, stage: RecordedStage | None) -> RecordedStage | None:
    """Return the alignment that an evaluation judged, None where the run does not hold it."""
    if stage is None:
        return None
    alignments = run.of_kind("align")
    if not stage.inputs:  # of runs before inputs were listed
        return next((align for align in alignments if align.name == stage.name.replace("evaluate", "align", 1)), None)
    return next((align for align in alignments if align.name in stage.inputs), None)


def _estimate(level: dict[str, Any], key: str) -> str:
    """Write an estimate with its interval, as in `0.512 (0.478–0.549)`."""
    bounds = level[f"{key}_interval"]
    interval = f" ({bounds[0]:.3f}–{bounds[1]:.3f})" if bounds else ""
    return "" if level[key] is None else f"{level[key]:.3f}{interval}"


def evaluation(stage: RecordedStage | None, file: str) -> dict[str, Any]:
    """Return what an evaluation says in one of its files, nothing where it has not run."""
    return (stage.read_json(file) if stage else None) or {}


def _how_aligned(align: RecordedStage | None) -> str:
    """Say which rows could be rewritten, on which a win rate depends."""
    if align is None or align.setting("guard") is None:
        return ""
    rows = "Every row was" if align.setting("every_row") else "Only rows below the threshold were"
    guard = "and a guard refused rewrites that scored lower" if align.setting("guard") else "without a guard"
    return f"{rows} rewritten, {guard}; a row left as it was is a tie."


def _unfinished(stage: RecordedStage | None) -> str:
    return f"The stage {stage.name} has not finished ({stage.status})." if stage and stage.manifest is None else ""


def key_figures(run: Run, corpus: Corpus) -> list[Figure]:
    """Return the large numbers, what came out before how it came about."""
    figures = []
    for name, after in corpus.after.items():
        means = [scores.mean for scores in (corpus.before[name], after) if scores.rows]
        if len(means) == 2:
            figures.append(Figure(f"{means[0]:.2f} → {means[1]:.2f}", f"mean score, {name}", "before → after"))
    for judge in evaluation(run.first_of("evaluate"), "metrics.json").get("judges", []):
        interval = f"95 %: {judge['ci95'][0]:.2f} – {judge['ci95'][1]:.2f}" if judge["ci95"] else ""
        figures.append(Figure(cell(judge["win_rate"]), f"win rate, {judge['judge']}", interval))
    if corpus.rows:
        figures.append(Figure(cell(corpus.rows), "rows aligned", f"{corpus.changed:,} changed"))
    for decision in DECISIONS:
        if rows := corpus.decisions[decision]:
            figures.append(Figure(share(rows, corpus.rows), spaced(decision), f"{rows:,} row{'s' * (rows != 1)}"))
    for name in ("questions", "triples"):
        stage = run.first_of(name)
        if stage and stage.rows:
            figures.append(Figure(cell(stage.rows.kept), f"{name} kept", f"of {stage.rows.going_in:,}"))
    return figures


def warnings(run: Run) -> list[str]:
    says = {
        "stale": "was made with other settings or inputs than the run has now",
        "running": "is still running, or was stopped from outside",
        "failed": "failed",
        "partial": "is not complete",
    }
    return [f"The stage {stage.name} {says[stage.status]}." for stage in run.stages if stage.status in says]


def stages_table(run: Run) -> Numbers:
    columns = ("stage", "status", "rows in", "kept", "dropped", "rejected", "time", "digest")
    return Numbers("Stages", columns, [_stage_row(stage) for stage in run.stages])


def _stage_row(stage: RecordedStage) -> tuple[Cell, ...]:
    digest = (stage.manifest or {}).get("digest") or stage.path.rpartition("/")[2]
    rows = stage.rows if stage.has_tables else None
    return stage.name, stage.status, *(rows or (None,) * 4), duration(stage.seconds), digest
