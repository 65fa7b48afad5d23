"""Judge an aligned corpus: is each aligned text better than the response it replaced?

    python -m pipelines.evaluate runs/mine/align/1a2b3c --inspector models/judge -o runs/mine

Win rate as paper 000, app. F defines it (wins / all rows), wins / decided rows, ties; two-way accuracy on files with a
right and a wrong option; shift of scores; change of length and edit distance. Written to metrics.json and as a table.
`alignbeam evaluate` takes a run directory, and files of two-way items as people have them.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table as Grid

from pipelines.runtime import entrypoint
from pipelines.runtime.stage import Stage, complete
from schemas.command_line import setting
from schemas.console import messages
from schemas.errors import UsageError
from schemas.urls import without_query
from transforms.engines.encoder import model_config, model_digest
from transforms.evaluation.judges import JUDGED, Judge, JudgeBatch
from transforms.evaluation.text_change import text_change
from transforms.evaluation.win_rates import score_level, score_shift, two_way_accuracy, win_rate
from transforms.tables import storage
from transforms.tables.read import ReadTable
from transforms.tables.table import Table, read_table
from transforms.tables.write import WriteTables

TEXT_ROWS = 100_000  # rows whose texts are compared word by word


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    inspector: tuple[str, ...] = setting("a judge: FOLDER or NAME=FOLDER of an inspector; may be repeated", ())
    pair_ranker: str | None = setting("a judge: folder of converted pair-ranker weights", None)


@dataclass(frozen=True, kw_only=True)
class Config(JudgeSettings):
    """What the stage is told. two_way: tables of triples by name, whose responses are the wrong options."""

    aligned: str = setting("table with the columns id, question, response and aligned", positional=True)
    output: str = setting("run directory for the results", short="-o")
    seed: int = setting("seed of the bootstrap intervals", 0)
    two_way: dict[str, str] = field(default_factory=dict)
    stage: str = "evaluate"  # what the stage is called, where a run aligns the same responses twice

    def __post_init__(self) -> None:
        check_has_judge(self)


def check_has_judge(settings: JudgeSettings) -> None:
    if not settings.inspector and not settings.pair_ranker:
        raise ValueError("inspector, pair_ranker: give at least one judge")


def judges_of(settings: JudgeSettings) -> list[Judge]:
    """Return the judges in the order given.

    Raises UsageError where a folder is no model or two judges share a name.
    """
    judges = []
    for named in settings.inspector:
        name, equals, folder = named.partition("=")
        if not equals or "://" in name:  # the = of a query
            folder, name = named, without_query(named).rstrip("/").rpartition("/")[2]
        judges.append(Judge(name, "inspector", folder))
    if settings.pair_ranker:
        judges.append(Judge("pair-ranker", "pair-ranker", settings.pair_ranker))
    for judge in judges:
        model_config(judge.folder)
    names = [judge.name for judge in judges]
    if len(set(names)) < len(names):
        raise UsageError(f"inspector: two judges are called alike: {names}; give NAME=FOLDER")
    return judges


def read_judged(path: str) -> Table:
    """Return the table of aligned rows at a path.

    Raises UsageError where it lacks a column that judges need.
    """
    table = read_table(path)
    if missing := set(JUDGED) - set(table.schema.names):
        raise UsageError(f"{path}: has no column {', '.join(sorted(missing))}")
    return table


def stage_for(config: Config, judges: Sequence[Judge], aligned: Table) -> Stage:
    identity = {
        "aligned": aligned.digest,
        "judges": [[judge.name, judge.kind, model_digest(judge.folder)] for judge in judges],
        "two_way": [[name, read_table(path, "triples").digest] for name, path in config.two_way.items()],
        "seed": config.seed,
    }
    return Stage.under(config.output, config.stage, identity, kind="evaluate")


def build(judges: Sequence[Judge], aligned: Table, stage: Stage, root: beam.Pipeline, skip: frozenset[int]) -> None:
    judge = JudgeBatch(tuple(judges))
    schemas = {"judgements": judge.schema()}
    (
        root
        | "Read" >> ReadTable(aligned, list(JUDGED), skip)
        | "JudgeAndWrite" >> WriteTables(stage.directory, schemas, judge, aligned.targets, stage.about)
    )


def measure(judges: Sequence[Judge], judgements: pa.Table, aligned: Table, seed: int) -> dict:
    """Return the metrics of all judges, and of the texts themselves (the first 100,000 rows)."""
    results, shifts, levels = [], {}, {}
    for judge in judges:
        counts = win_rate(judgements[judge.column("margin")].to_numpy(), seed=seed)
        results.append(
            {
                "judge": judge.name,
                "kind": judge.kind,
                "n": counts["rows"],
                "win_rate": counts["win_rate"],
                "ci95": counts["win_rate_interval"],
                "wins_over_decided": counts["decided_win_rate"],
                "wins_over_decided_ci95": counts["decided_win_rate_interval"],
                "wins": counts["wins"],
                "losses": counts["losses"],
                "ties": counts["ties"],
            }
        )
        if judge.kind == "inspector":
            columns = {name: judgements[judge.column(name)].to_numpy() for name in ("before", "after")}
            shifts[judge.name] = score_shift(*columns.values(), seed=seed)
            levels[judge.name] = {name: score_level(scores, seed=seed) for name, scores in columns.items()}
    texts = aligned.head(TEXT_ROWS).to_arrow(["response", "aligned"])
    texts = texts.filter(pc.and_(pc.is_valid(texts["response"]), pc.is_valid(texts["aligned"])))
    change = text_change(texts["response"].to_pylist(), texts["aligned"].to_pylist())
    return {"judges": results, "score_shift": shifts, "score_level": levels, "text_change": change, "two_way": []}


def measure_two_way(judges: Sequence[Judge], name: str, path: str, seed: int) -> list[dict]:
    """Return the two-way accuracy of every judge on one table of triples."""
    items = read_table(path, "triples").to_arrow(["question", "response", "correction"])
    questions, wrong, right = (items[column].to_pylist() for column in items.column_names)
    return [
        {"judge": judge.name, "file": name}
        | two_way_accuracy(judge.compare(questions, wrong, right)["margin"], seed=seed)
        for judge in judges
    ]


def run(config: Config, beam_arguments: Sequence[str] = ()) -> Stage:
    """Judge the corpus unless it has been; write metrics.json beside the judgements and print the table."""
    judges = judges_of(config)
    storage.check_writable(config.output)
    aligned = read_judged(config.aligned)
    stage = stage_for(config, judges, aligned)
    metrics_path = storage.join(stage.directory, "metrics.json")
    if not stage.is_done() or not storage.exists(metrics_path):
        complete(stage, aligned, partial(build, judges, aligned, stage), beam_arguments)
        metrics = measure(judges, stage.table("judgements").to_arrow(), aligned, config.seed)
        for name, path in config.two_way.items():
            metrics["two_way"] += measure_two_way(judges, name, path, config.seed)
        storage.write_json(metrics_path, metrics)
    print_metrics(storage.read_json(metrics_path))
    return stage


def print_metrics(metrics: dict) -> None:
    grid = Grid(title="aligned against original", title_justify="left")
    for heading in ("judge", "rows", "win rate", "95 %", "wins / decided", "wins", "losses", "ties", "mean shift"):
        grid.add_column(heading, justify="left" if heading == "judge" else "right")
    for judged in metrics["judges"]:
        shift = metrics["score_shift"].get(judged["judge"])
        grid.add_row(
            judged["judge"],
            f"{judged['n']:,}",
            _rate(judged["win_rate"]),
            f"{judged['ci95'][0]:.3f}–{judged['ci95'][1]:.3f}" if judged["ci95"] else "",
            _rate(judged["wins_over_decided"]),
            *(f"{judged[name]:,}" for name in ("wins", "losses", "ties")),
            f"{shift['shift']['mean']:+.3f}" if shift and shift["shift"]["mean"] is not None else "",
        )
    messages.print(grid)
    for judged in metrics["two_way"]:
        accuracy = f"{_rate(judged['accuracy'])} of {judged['items']}"
        messages.print(f"two-way accuracy, {judged['file']}, {judged['judge']}: {accuracy}")


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def main(argv: Sequence[str] | None = None) -> int:
    return entrypoint.main(argv, Config, run, program="python -m pipelines.evaluate", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
