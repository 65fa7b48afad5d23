"""The report of a run: one HTML page that opens from disk and asks the network for nothing.

    alignbeam report runs/mine

Reads `run.json`, the stages' manifests and the tables that are there, so that it can be made of a run that is under way
or of a lone `align`. Writes `report.html` into the run directory and prints its path.
"""

import base64
import gzip
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2
from plotly.offline import get_plotlyjs

from pipelines.report import charts, formats, overview, sections
from pipelines.report.conflicts import conflicts_section
from pipelines.report.corpus import Corpus, columns_of, summarise
from pipelines.report.evaluations import evaluation_section, judged_by
from pipelines.report.graph_chart import graph_chart
from pipelines.report.numbers import numbers
from pipelines.report.parts import links_of
from pipelines.report.sections import Alignment
from pipelines.report.trajectories import FOLLOWED, Trajectories, follow, give_steps
from pipelines.report.views import browser_of
from pipelines.runtime import entrypoint
from pipelines.runtime.runs import RecordedStage, Run, open_run
from schemas.command_line import DONE
from schemas.console import results
from schemas.fields import setting
from transforms.tables import storage

PARTS = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Config:
    run: str = setting("directory that `alignbeam run` or `alignbeam align` wrote", positional=True)
    samples: int = setting("rows in the browser of samples, at most 1000", 240)

    def __post_init__(self) -> None:
        if not 0 <= self.samples <= 1000:
            raise ValueError(f"samples: must be between 0 and 1000, not {self.samples}")


def page(run: Run, samples: int) -> str:
    """Return the whole report as HTML."""
    finished = [stage for stage in run.of_kind("align") if stage.manifest is not None]
    alignments = [read_aligned(stage, samples // max(1, len(finished))) for stage in leading_first(run)]
    every_section = [
        sections.rows_section(run),
        sections.coverage_section(run, alignments),
        sections.duplicates_section(run),
        sections.training_section(run),
        sections.change_section(alignments),
        sections.steps_section(alignments),
        conflicts_section(run),
        evaluation_section(run),
    ]
    shown = [section for section in every_section if section.parts]
    drawn = {chart.name: chart.figure for section in shown for part in section.parts for chart in part.charts}
    tables = [overview.models_table(run), numbers("Versions", run.versions) if run.versions else None]
    plotly, script = get_plotlyjs(), (PARTS / "report.js").read_text(encoding="utf-8")
    return (
        environment()
        .get_template("report.html.jinja")
        .render(
            run=run,
            directory=run.path.rstrip("/").rpartition("/")[2],
            facts=overview.facts(run),
            warnings=overview.warnings(run),
            figures=overview.key_figures(run, alignments),
            graph=graph_chart(run.stages, links_of(shown, [stage.name for stage in run.stages])),
            sections=shown,
            browser=browser_of(alignments),
            steps=overview.steps_table(run),
            tables=[table for table in tables if table],
            plots=charts.to_json(drawn),
            plotly=packed_plotly(),
            style=(PARTS / "report.css").read_text(encoding="utf-8"),
            script=script,
            policy=policy([script, plotly]),
        )
    )


def leading_first(run: Run) -> list[RecordedStage]:
    """Return the align steps, those that the last evaluation judged before the others."""
    judged = [align for stage in run.of_kind("evaluate")[-1:] for align in judged_by(run, stage)]
    return judged + [align for align in run.of_kind("align") if align not in judged]


@cache
def packed_plotly() -> str:
    """Return plotly's script compressed, as base64; a process may write several reports."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def read_aligned(stage: RecordedStage, samples: int) -> Alignment:
    """Return an align step with its corpus, its samples with all their steps, and its trajectories.

    They are empty where it has not finished.
    """
    steps = stage.table("trajectories")
    trajectories = follow(steps.batches(FOLLOWED), samples) if steps else Trajectories()
    table = stage.table("aligned")
    if table is None:
        return Alignment(stage, Corpus(), trajectories)
    corpus = summarise(table.batches(columns_of(table.schema)), samples, trajectories.queues)
    if steps and corpus.samples:
        give_steps(steps.batches(), corpus.samples)
    return Alignment(stage, corpus, trajectories)


def environment() -> jinja2.Environment:
    """Return templates in which all is escaped unless they say otherwise.

    A missing name is an error.
    """
    made = jinja2.Environment(loader=jinja2.FileSystemLoader(PARTS), autoescape=True, undefined=jinja2.StrictUndefined)
    made.filters |= {"cell": formats.cell, "spaced": formats.spaced}
    made.tests["numeric"] = formats.is_numeric
    return made


def policy(scripts: Sequence[str]) -> str:
    """Return a content security policy: these scripts alone run, and nothing is fetched from anywhere."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def write(directory: str, samples: int = Config.samples) -> str:
    """Write the report of a run directory; return its path."""
    html = page(open_run(directory), samples)
    path = storage.join(directory, "report.html")
    with storage.open_output(path) as file:
        file.write(html.encode("utf-8"))
    return path


def run(config: Config, _: Sequence[str] = ()) -> int:
    """Write the report and print its path."""
    results.print(write(config.run, config.samples), soft_wrap=True)
    return DONE


def main(argv: Sequence[str] | None = None) -> int:
    about = {"program": "alignbeam report", "description": __doc__ or ""}
    return entrypoint.command_main(argv, Config, run, **about, runs_pipelines=False)


if __name__ == "__main__":
    sys.exit(main())
