"""The sections of a report: which charts and tables there are for what a run holds so far.

Steps are chosen by their kind, whatever they are called and however many there are. A section without anything to show
is left out; a part of it says that its step has not finished.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.report import corpus_charts, stage_charts, trajectory_charts
from pipelines.report.charts import Cell
from pipelines.report.corpus import Corpus
from pipelines.report.duplicates import find_duplicates
from pipelines.report.formats import cell, spaced
from pipelines.report.numbers import Numbers, numbers
from pipelines.report.parts import Part, Section, section, unfinished
from pipelines.report.trajectories import Trajectories
from pipelines.runtime.runs import RecordedStage, Run
from transforms.tables.table import Table

TOPIC_CHARACTERS = 80
MOST_REJECTS = 20  # of an import
TRAINING_FACTS = ("steps", "best_step", "parameters", "parameters_trained")
PAIRS_NOTE = "The first rows dropped for each reason but equal words, beside the row that made each of them go."


@dataclass(frozen=True)
class Alignment:
    """An align step, what its corpus holds, and how its rows came there."""

    stage: RecordedStage
    corpus: Corpus
    trajectories: Trajectories


def rows_section(run: Run) -> Section:
    drawn = [stage_charts.funnel(run.stages), stage_charts.reasons(run.stages)]
    tables = [table for stage in run.of_kind("import") if (table := import_rejects(stage))]
    return section("rows", "Rows", [Part("", [chart for chart in drawn if chart], tables)])


def import_rejects(stage: RecordedStage) -> Numbers | None:
    """List what an import could not use, by file and line; None where there is nothing."""
    table = stage.table("rejects")
    if table is None or not table.rows:
        return None
    names = [name for name in ("source", "line", "error", "raw") if name in table.schema.names]
    rows = table.head(MOST_REJECTS).to_arrow(names).to_pylist()
    cells: list[list[Cell]] = [[row[name] for name in names] for row in rows]
    note = f"The first {len(rows)} of {cell(table.rows)}." if len(rows) < table.rows else ""
    columns = [{"raw": "text", "error": "reason"}.get(name, name) for name in names]
    return Numbers(f"Not imported: {stage.name}", columns, cells, note)


def coverage_section(run: Run, alignments: Sequence[Alignment] = ()) -> Section:
    """Show what the questions of every step are about; of a run that has none, those of the first aligned corpus."""
    parts = []
    for stage in run.of_kind("questions"):
        chart = stage_charts.coverage(count_questions(stage.table("questions")))
        parts.append(Part(stage.name, [chart] if chart else [], missing=unfinished(stage)))
    if not parts and alignments:
        chart = stage_charts.coverage(count_questions(alignments[0].stage.table("aligned")))
        parts.append(Part("", [chart] if chart else []))
    return section("coverage", "Coverage", parts)


def count_questions(table: Table | None) -> Counter[tuple[str, str]]:
    """Count the questions of every (question type, topic)."""
    counts: Counter[tuple[str, str]] = Counter()
    columns = ["question_type", "topic"]
    if table and set(columns) <= set(table.schema.names):
        for batch in table.batches(columns):
            # A corpus brings its own columns: of any type, in any order.
            texts = (batch.column(name).cast(pa.string()) for name in columns)
            texts = (pc.fill_null(pc.utf8_slice_codeunits(text, 0, TOPIC_CHARACTERS), "not given") for text in texts)
            counts.update(zip(*(text.to_pylist() for text in texts), strict=True))
    return counts


def duplicates_section(run: Run) -> Section:
    parts = []
    for stage in run.of_kind("curate"):
        duplicates = find_duplicates(stage)
        chart = stage_charts.group_sizes(duplicates.sizes)
        rows = [(pair.reason, pair.dropped, pair.repeated) for pair in duplicates.pairs]
        pairs = Numbers("Side by side", ("reason", "dropped", "what it repeats"), rows, PAIRS_NOTE)
        parts.append(Part(stage.name, [chart] if chart else [], [pairs] if rows else []))
    return section("duplicates", "Duplicates", parts)


def training_section(run: Run) -> Section:
    parts = []
    for stage in run.stages:
        metrics = stage.read_json("metrics.json") if stage.kind.startswith("train_") else None
        if metrics is None:
            continue
        chart = stage_charts.losses(stage.name, metrics.get("history", []))
        rows = metrics.get("rows", {})
        splits = {name: metrics[name] for name in ("validation", "test") if metrics.get(name)}
        settings = {name: metrics[name] for name in TRAINING_FACTS if name in metrics}
        note = ", ".join(f"{cell(count)} {split} rows" for split, count in rows.items())
        note += "".join(f"; {spaced(name)}: {cell(value)}" for name, value in settings.items())
        parts.append(Part(stage.name, [chart] if chart else [], [numbers("Metrics", splits, note)]))
    return section("training", "Training", parts, beside=True)


def change_section(alignments: Sequence[Alignment]) -> Section:
    """Show scores and lengths before and after, of every align step."""
    parts = []
    for alignment in alignments:
        stage, corpus = alignment.stage, alignment.corpus
        limits = thresholds(stage)
        drawn = [
            *(
                corpus_charts.scores(name, corpus.before[name], after, limits.get(name))
                for name, after in corpus.after.items()
            ),
            corpus_charts.lengths(corpus),
        ]
        parts.append(Part(stage.name, [chart for chart in drawn if chart], missing=unfinished(stage)))
    return section("change", "Before and after", parts)


def steps_section(alignments: Sequence[Alignment]) -> Section:
    """Show what became of the rows from rewrite to rewrite, of every align step."""
    parts = []
    for alignment in alignments:
        stage, trajectories = alignment.stage, alignment.trajectories
        order = turns_of(stage, trajectories)
        drawn = [
            trajectory_charts.scores_by_step(trajectories, thresholds(stage), order),
            trajectory_charts.rows_by_aligner(trajectories, order),
        ]
        refused = trajectory_charts.refusals(trajectories)
        parts.append(Part(stage.name, [chart for chart in drawn if chart], [refused] if refused else []))
    return section("steps", "Step by step", parts)


def members(stage: RecordedStage) -> list[dict[str, Any]]:
    """Return the members of an align step's squad, as its identity names them."""
    return [member for member in stage.setting("members") or [] if member.get("criterion")]


def thresholds(stage: RecordedStage) -> dict[str, float]:
    """Return the score below which rows are rewritten, by criterion; none where every row is.

    A member that nobody scores for has none.
    """
    if stage.setting("every_row"):
        return {}
    scored = [member for member in members(stage) if member.get("inspector", True)]
    by_criterion = {member["criterion"]: member.get("threshold") for member in scored}
    return {criterion: threshold for criterion, threshold in by_criterion.items() if threshold is not None}


def turns_of(stage: RecordedStage, trajectories: Trajectories) -> list[str]:
    """Return the aligner of every step, where all rows take the same turns; else nothing."""
    criteria = [member["criterion"] for member in members(stage)]
    routing = stage.setting("routing")
    if routing in (None, "fixed"):
        return criteria
    if routing != "corpus-mean":
        return []
    scores = trajectories.scores.get(0, {})
    return sorted(criteria, key=lambda name: scores[name].mean if name in scores else 0)
