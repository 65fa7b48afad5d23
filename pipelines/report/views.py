"""Samples as a reader compares them: each text beside what an aligner made of it, with the scores of both."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.report.corpus import Sample, Scores, Shown, ShownStep
from pipelines.report.diff import DiffSpan, diff
from pipelines.report.formats import change
from pipelines.report.sections import Alignment
from pipelines.runtime.runs import RecordedStage
from schemas.tables import DECISIONS


class Side(NamedTuple):
    """One side of a comparison; `text` is None where there is nothing to compare with."""

    title: str
    text: Shown | None
    score_title: str
    scores: Scores


@dataclass(frozen=True)
class Comparison:
    """Two texts, where they differ, and the step from one to the other; `step` is None where there were several."""

    before: Side
    after: Side
    spans: list[DiffSpan]
    step: ShownStep | None = None

    @property
    def refused(self) -> bool:
        return self.step is not None and self.step.decision == "refused"

    @property
    def scores(self) -> list[tuple[str, float | None, float | None, str]]:
        """Return criterion, score before, score after, change."""
        rows = []
        for name in self.before.scores | self.after.scores:
            before, after = self.before.scores.get(name), self.after.scores.get(name)
            rows.append((name, before, after, change(before, after)))
        return rows


@dataclass(frozen=True)
class View:
    """A sample, its comparisons (at least one), and why it was refused or failed."""

    sample: Sample
    comparisons: list[Comparison]
    reason: str

    @property
    def gain(self) -> str:
        return f"{self.sample.gain:.6f}"


@dataclass(frozen=True)
class Browser:
    """The samples of every alignment, and what they can be chosen by; `rows` of all corpora together."""

    views: list[tuple[str, View]]
    rows: int
    alignments: list[str]
    decisions: list[str]
    members: list[str]
    reasons: list[str]


def browser_of(alignments: Sequence[Alignment]) -> Browser:
    """Return the views of all samples, each with the name of its align step."""
    shown = [(each.stage.name, view) for each in alignments for view in views(each.stage, each.corpus.samples)]
    turns = [comparison.step for _, view in shown for comparison in view.comparisons if comparison.step]
    decisions = sum((each.corpus.decisions for each in alignments), Counter[str]())
    return Browser(
        views=shown,
        rows=sum(each.corpus.rows for each in alignments),
        alignments=list(dict.fromkeys(name for name, _ in shown)),
        decisions=[decision for decision in DECISIONS if decisions[decision]],
        members=sorted({step.member for step in turns if step.member}),
        reasons=sorted({step.reason for step in turns if step.reason and step.decision == "refused"}),
    )


def views(align: RecordedStage, samples: Sequence[Sample]) -> list[View]:
    """Return views of samples of an align stage, with what went wrong where a row failed."""
    errors: dict[str, str] = {}
    table = align.table("rejects")
    failed = pa.array([sample.id for sample in samples if sample.decision == "failed"], pa.string())
    if table and len(failed):
        for batch in table.batches(["id", "error"]):
            rows = batch.filter(pc.is_in(batch.column("id").cast(pa.string()), failed)).to_pylist()
            errors.update((str(row["id"]), row["error"]) for row in rows)
    return [view(sample, errors.get(sample.id)) for sample in samples]


def view(sample: Sample, error: str | None) -> View:
    """Compare the response with the aligned text.

    Where aligners had several turns, each turn's two texts are compared too.
    """
    steps = list(_compare_steps(sample))
    whole = _compare(
        Side("Response", sample.response, "before", sample.before),
        Side("Aligned", None if sample.unchanged else sample.aligned, "after", sample.after),
    )
    if len(steps) == 1:
        [only] = steps
        shown = only if only.refused and only.after.text else replace(whole, step=only.step)
        return View(sample, [shown], error or (only.step and only.step.reason) or "")
    told_by_steps = sample.unchanged and any(step.after.text for step in steps)
    return View(sample, steps if told_by_steps else [whole, *steps], error or "")


def _compare_steps(sample: Sample) -> Iterator[Comparison]:
    """Compare the texts before and after every step at which an aligner was asked."""
    text, scores = sample.response, sample.before
    for step in sample.steps:
        if step.member is not None:
            refused = step.decision == "refused"
            title = "Response" if text is sample.response else "Text so far"
            before = Side(title, text, "kept" if refused else "before", scores)
            if refused:
                after = Side("Refused rewrite", step.text, "proposed", step.candidate)
            else:
                after = Side("Rewrite", step.text if step.decision == "rewritten" else None, "after", step.scores)
            yield _compare(before, after, step)
        if step.decision == "rewritten":
            text = step.text
        scores = step.scores


def _compare(before: Side, after: Side, step: ShownStep | None = None) -> Comparison:
    spans = diff(before.text.text if before.text else "", after.text.text) if after.text else []
    return Comparison(before, after, spans, step)
