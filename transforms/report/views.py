"""Samples as a reader compares them: the response beside what it became, or beside the rewrite that was refused."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from transforms.report.corpus import Sample, Shown
from transforms.report.diff import Run as DiffRun
from transforms.report.diff import diff
from transforms.report.formats import change
from transforms.report.run_directory import Run


@dataclass(frozen=True)
class View:
    """A sample, what its response is compared with (`rewrite`, if there is anything), and where the two differ."""

    sample: Sample
    title: str
    rewrite: Shown | None
    runs: list[DiffRun]
    reason: str  # why it was refused or failed

    @property
    def gain(self) -> str:
        return f"{self.sample.gain:.6f}"

    @property
    def scores(self) -> list[tuple[str, float | None, float | None, str]]:
        """Criterion, score before, score after, change."""
        rows = []
        for name in self.sample.before | self.sample.after:
            before, after = self.sample.before.get(name), self.sample.after.get(name)
            rows.append((name, before, after, change(before, after)))
        return rows


def views(run: Run, samples: Sequence[Sample]) -> list[View]:
    """Views of samples, with what went wrong where a row failed."""
    errors: dict[str, str] = {}
    table = run.table("align", "rejects")
    failed = pa.array([sample.id for sample in samples if sample.decision == "failed"], pa.string())
    if table and len(failed):
        for batch in table.batches(["id", "error"]):
            rows = batch.filter(pc.is_in(batch.column("id").cast(pa.string()), failed)).to_pylist()
            errors.update((str(row["id"]), row["error"]) for row in rows)
    return [view(sample, errors.get(sample.id)) for sample in samples]


def view(sample: Sample, error: str | None) -> View:
    """Compare the response with the aligned text or, where it was refused, with the rewrite."""
    title, rewrite = "Aligned", None if sample.unchanged else sample.aligned
    if sample.decision == "refused":
        refused = [step.text for step in sample.steps if step.decision == sample.decision]
        title, rewrite = "Refused rewrite", refused[-1] if refused else None
    reasons = [step.reason for step in sample.steps if step.reason]
    runs = diff(sample.response.text if sample.response else "", rewrite.text) if rewrite else []
    return View(sample, title, rewrite, runs, error or ", ".join(dict.fromkeys(reasons)))
