"""What a report's sections are made of: a part for each step of a kind, with its charts and tables."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from pipelines.report.charts import Chart
from pipelines.report.numbers import Numbers
from pipelines.runtime.runs import RecordedStage


@dataclass(frozen=True)
class Part:
    """What is shown of one step, or of the whole run where `step` is empty."""

    step: str = ""
    charts: list[Chart] = field(default_factory=list)
    tables: list[Numbers] = field(default_factory=list)
    missing: str = ""  # why there is nothing to show
    anchor: str = ""

    @property
    def is_empty(self) -> bool:
        return not (self.charts or self.tables or self.missing)


@dataclass(frozen=True)
class Section:
    """Parts under one heading; `beside` where two of them stand side by side."""

    anchor: str
    title: str
    parts: list[Part] = field(default_factory=list)
    beside: bool = False


def section(anchor: str, title: str, parts: Iterable[Part], *, beside: bool = False) -> Section:
    """Return a section of the parts that show something.

    Where there are several, their charts' names have the steps' before them, because a page has one chart of a name.
    """
    shown = [part for part in parts if not part.is_empty]
    if len(shown) > 1:
        shown = [
            replace(part, charts=[replace(chart, name=f"{part.step} {chart.name}".strip()) for chart in part.charts])
            for part in shown
        ]
    return Section(anchor, title, [replace(part, anchor=anchored(anchor, part.step)) for part in shown], beside)


def anchored(prefix: str, step: str) -> str:
    """Return the anchor of a step's part: letters, digits, `-`, `_`, and a dot for anything else."""
    return f"{prefix}-{re.sub('[^A-Za-z0-9_-]', '.', step)}" if step else prefix


def links_of(sections: Iterable[Section], steps: Iterable[str]) -> Mapping[str, str]:
    """Return the anchor that tells most of each step: of its first part, else of its row among the steps."""
    links = {step: anchored("step", step) for step in steps}
    part_links: dict[str, str] = {}
    for each in sections:
        for part in each.parts:
            if part.step in links:
                part_links.setdefault(part.step, part.anchor)
    return links | part_links


def unfinished(stage: RecordedStage) -> str:
    """Say that a step has nothing to show yet, nothing where it has."""
    return f"The step {stage.name} has not finished ({stage.status})." if stage.manifest is None else ""
