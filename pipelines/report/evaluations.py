"""What judges say of aligned corpora: win rates and scores of every label, by category and over seeds.

An evaluation's metrics.json has figures for each label, which stands for one of the tables that it compared. Beside it
may lie controls.json and planted_truth.json, of runs in a made-up world that knows what is right.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.report import corpus_charts
from pipelines.report.charts import Cell
from pipelines.report.formats import cell, spaced
from pipelines.report.numbers import Numbers, numbers
from pipelines.report.parts import Part, Section, section, unfinished
from pipelines.runtime.runs import RecordedStage, Run

CONTROLS_NOTE = "What a judge or an aligner reaches that cannot do the task: the real one must be well above these."
SHARED_NOTE = "Labels are compared on the {rows} rows that all of them have."
SEEDS_NOTE = "Means over the seeds, with 95 % intervals that say how far a seed may move them."
OF_METRICS = ("labels", "over_seeds", "shared_rows", "lacking")  # what of metrics.json has a form of its own here
OF_A_LABEL = ("judges", "score_level", "by")  # and what of a label's figures
LEVELS = (("mean", "Mean score"), ("share_above", "Share of rows that score 0.5 or more"))


def read_metrics(stage: RecordedStage | None, file: str = "metrics.json") -> dict[str, Any]:
    """Return what an evaluation says in one of its files, nothing where it has not run."""
    return (stage.read_json(file) if stage else None) or {}


def judged_by(run: Run, stage: RecordedStage) -> list[RecordedStage]:
    """Return the align steps that an evaluation judged, in the order of its labels."""
    steps = {align.name: align for align in run.of_kind("align")}
    return [steps[name] for name in stage.inputs if name in steps]


def evaluation_section(run: Run) -> Section:
    return section("evaluation", "Evaluation", [evaluation_part(run, stage) for stage in run.of_kind("evaluate")])


def evaluation_part(run: Run, stage: RecordedStage) -> Part:
    metrics = read_metrics(stage)
    labels: dict[str, Any] = metrics.get("labels", {})
    note = " ".join([*_how_aligned(judged_by(run, stage), list(labels)), *_what_is_shared(metrics)])
    judges = {label: figures["judges"] for label, figures in labels.items() if figures.get("judges")}
    chart = corpus_charts.win_rates(judges, note)
    tables = [*levels_tables(labels, "" if chart else note), *by_category(labels)]
    if seeds := metrics.get("over_seeds"):
        tables += [over_seeds(seeds), *by_category(seeds, ", over seeds")]
    tables += [numbers(spaced(name).capitalize(), part) for name, part in _other_figures(metrics)]
    if truth := read_metrics(stage, "planted_truth.json"):
        tables.append(numbers("Planted truth", truth["rows"], truth["note"]))
    for name, part in read_metrics(stage, "controls.json").items():
        tables.append(numbers(f"Controls: {spaced(name)}", part, CONTROLS_NOTE))
    return Part(stage.name, [chart] if chart else [], tables, unfinished(stage))


def _other_figures(metrics: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what has no form of its own here, by name; what labels have in common stands in one table."""
    yield from ((name, part) for name, part in metrics.items() if part and name not in OF_METRICS)
    labels = metrics.get("labels", {})
    for name in dict.fromkeys(name for figures in labels.values() for name in figures if name not in OF_A_LABEL):
        parts = {label: figures[name] for label, figures in labels.items() if figures.get(name)}
        if parts:
            yield name, parts if len(labels) > 1 else next(iter(parts.values()))


def levels_tables(labels: Mapping[str, Any], note: str = "") -> list[Numbers]:
    """Show every judge's scores of the responses and of what each label made of them."""
    levels_of = {label: figures["score_level"] for label, figures in labels.items() if figures.get("score_level")}
    judges = dict.fromkeys(judge for levels in levels_of.values() for judge in levels)
    tables = []
    for key, title in LEVELS:
        rows: list[list[Cell]] = []
        for judge in judges:
            of_judge = [levels.get(judge) for levels in levels_of.values()]
            before = next(level["before"] for level in of_judge if level)
            after = [_estimate(level["after"], key) if level else "" for level in of_judge]
            rows.append([judge, _estimate(before, key), *after])
        if rows:
            columns = ("judge", "responses", *levels_of)
            tables.append(Numbers(f"{title}, with 95 % intervals", columns, rows, note))
    return tables


def by_category(labels: Mapping[str, Any], suffix: str = "") -> Iterator[Numbers]:
    """Show the win rates among the rows of each value of a column, with a column for each label."""
    columns = dict.fromkeys(column for figures in labels.values() for column in figures.get("by") or {})
    for column in columns:
        rows: dict[tuple[str, str], list[Cell]] = {}  # by value and judge
        for number, figures in enumerate(labels.values()):
            for value, of_value in (figures.get("by") or {}).get(column, {}).items():
                for judge in of_value.get("judges", []):
                    empty: list[Cell] = [value or "(none)", judge["judge"], judge.get("n"), *[""] * len(labels)]
                    rows.setdefault((value, judge["judge"]), empty)[3 + number] = _rate(judge)
        rates = ["win rate"] if len(labels) == 1 else [f"win rate, {label}" for label in labels]
        if rows:
            headings = (spaced(column), "judge", "rows", *rates)
            yield Numbers(f"By {spaced(column)}{suffix}", headings, list(rows.values()))


def over_seeds(names: Mapping[str, Any]) -> Numbers:
    """Show the means over seeds of the labels NAME@1, NAME@2, …: a row for each name and judge."""
    rows: list[list[Cell]] = []
    for name, figures in names.items():
        for judge in figures.get("judges", []):
            shift = (figures.get("score_shift") or {}).get(judge["judge"], {})
            mean = {"mean": shift.get("shift", {}).get("mean"), "mean_interval": shift.get("mean_shift_interval")}
            seeds = ", ".join(map(str, figures.get("seeds", [])))
            rows.append([name, judge["judge"], seeds, judge.get("n"), _rate(judge), _estimate(mean, "mean")])
    return Numbers("Over seeds", ("", "judge", "seeds", "rows", "win rate", "mean shift"), rows, SEEDS_NOTE)


def _estimate(level: Mapping[str, Any], key: str) -> str:
    """Write an estimate with its interval, as in `0.512 (0.478–0.549)`."""
    bounds = level.get(f"{key}_interval")
    interval = f" ({bounds[0]:.3f}–{bounds[1]:.3f})" if bounds else ""
    return "" if level.get(key) is None else f"{level[key]:.3f}{interval}"


def _rate(judge: Mapping[str, Any]) -> str:
    return _estimate({"win_rate": judge.get("win_rate"), "win_rate_interval": judge.get("ci95")}, "win_rate")


def _what_is_shared(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Say on which rows labels were compared, and how many each lacks."""
    if len(metrics.get("labels", {})) < 2 or metrics.get("shared_rows") is None:
        return
    yield SHARED_NOTE.format(rows=cell(metrics["shared_rows"]))
    if lacking := {label: rows for label, rows in (metrics.get("lacking") or {}).items() if rows}:
        yield f"Lacking: {', '.join(f'{cell(rows)} in {label}' for label, rows in lacking.items())}."


def _how_aligned(alignments: list[RecordedStage], labels: list[str]) -> Iterator[str]:
    """Say which rows could be rewritten, on which a win rate depends."""
    if len(alignments) != len(labels):  # some label is no alignment of this run
        return
    for align, label in zip(alignments, labels, strict=True):
        if align.setting("guard") is None:
            continue
        rows = "every row was" if align.setting("every_row") else "only rows below the threshold were"
        guard = "and a guard refused rewrites that scored lower" if align.setting("guard") else "without a guard"
        told = f"{label}: {rows} rewritten, {guard}" if len(labels) > 1 else f"{rows} rewritten, {guard}"
        yield f"{told[0].upper()}{told[1:]}; a row left as it was is a tie."
