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

from pipelines.report import charts, formats, sections
from pipelines.report.corpus import Corpus, columns_of, summarise
from pipelines.report.numbers import numbers
from pipelines.report.trajectories import FOLLOWED, Trajectories, follow, give_steps
from pipelines.report.views import views
from pipelines.runtime import entrypoint
from pipelines.runtime.runs import RecordedStage, Run, open_run
from schemas.command_line import DONE, setting
from schemas.console import results
from schemas.tables import DECISIONS
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
    align = run.first_of("align")
    corpus, trajectories = read_aligned(align, samples)
    every_section = [
        sections.rows_section(run),
        sections.coverage_section(run),
        sections.duplicates_section(run),
        sections.training_section(run),
        sections.change_section(align, corpus),
        sections.steps_section(align, trajectories),
        sections.evaluation_section(run),
    ]
    shown = [section for section in every_section if section.charts or section.tables or section.missing]
    drawn = {chart.name: chart.figure for section in shown for chart in section.charts}
    views_of_samples = views(align, corpus.samples)
    turns = [comparison.step for view in views_of_samples for comparison in view.comparisons if comparison.step]
    lists = (("Models", run.models), ("Versions", run.versions))
    plotly, script = get_plotlyjs(), (PARTS / "report.js").read_text(encoding="utf-8")
    return (
        environment()
        .get_template("report.html.jinja")
        .render(
            run=run,
            directory=run.path.rstrip("/").rpartition("/")[2],
            facts=facts(run),
            warnings=sections.warnings(run),
            figures=sections.key_figures(run, corpus),
            sections=shown,
            views=views_of_samples,
            members=sorted({step.member for step in turns if step.member}),
            reasons=sorted({step.reason for step in turns if step.reason and step.decision == "refused"}),
            rows=corpus.rows,
            decisions=[decision for decision in DECISIONS if corpus.decisions[decision]],
            stages=sections.stages_table(run),
            versions=[numbers(title, named) for title, named in lists if named],
            plots=charts.to_json(drawn),
            plotly=packed_plotly(),
            style=(PARTS / "report.css").read_text(encoding="utf-8"),
            script=script,
            policy=policy([script, plotly]),
        )
    )


@cache
def packed_plotly() -> str:
    """Return plotly's script compressed, as base64; a run of several criteria writes a report for each."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def read_aligned(align: RecordedStage | None, samples: int) -> tuple[Corpus, Trajectories]:
    """Return an aligned corpus, its samples with all their steps, and its trajectories.

    They are empty where there is none.
    """
    steps = align.table("trajectories") if align else None
    trajectories = follow(steps.batches(FOLLOWED), samples) if steps else Trajectories()
    table = align.table("aligned") if align else None
    if table is None:
        return Corpus(), trajectories
    corpus = summarise(table.batches(columns_of(table.schema)), samples, trajectories.queues)
    if steps and corpus.samples:
        give_steps(steps.batches(), corpus.samples)
    return corpus, trajectories


def environment() -> jinja2.Environment:
    """Return templates in which all is escaped unless they say otherwise.

    A missing name is an error.
    """
    made = jinja2.Environment(loader=jinja2.FileSystemLoader(PARTS), autoescape=True, undefined=jinja2.StrictUndefined)
    made.filters |= {"cell": formats.cell, "spaced": formats.spaced}
    made.tests["numeric"] = formats.is_numeric
    return made


def facts(run: Run) -> list[tuple[str, str]]:
    """Return what stands under the title."""
    return [
        ("Criterion", formats.cell(run.criterion)),
        ("Started", formats.date(run.started)),
        ("Time in stages", formats.duration(sum(stage.seconds or 0 for stage in run.stages))),
        ("Seed", "–" if run.seed is None else str(run.seed)),
        *((formats.spaced(name).capitalize(), formats.cell(model)) for name, model in run.models.items()),
    ]


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
    return entrypoint.command_main(argv, Config, run, program="alignbeam report", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
