"""Judge aligned tables: is each answer better than the response it replaced?

    python -m pipelines.evaluate runs/mine/align/1a2b3c --inspector models/judge -o runs/mine

Win rate as paper 000, app. F defines it (wins / all rows), wins / decided rows, ties; two-way accuracy on triples with
a right and a wrong option; shift of scores; change of length and edit distance. Several tables are judged by label, on
the rows that all of them have. `alignbeam evaluate` takes a run directory, and files of two-way items as people have
them.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from rich.table import Table as Grid

from pipelines.runtime import entrypoint
from pipelines.runtime.estimates import Outlook, Prospect
from pipelines.runtime.stage import Stage, complete, identity_digest
from pipelines.runtime.step import Schemas, StageKind, Step, always
from schemas.console import messages
from schemas.errors import StageError, UsageError
from schemas.fields import Edge, Seed, edges, setting, takes, uses
from schemas.tables import WIN_RATES
from schemas.urls import without_query
from transforms.evaluation.figures import Figures, by_category, figures, two_way, win_rates_table
from transforms.evaluation.judges import JUDGED, Judge, JudgeBatch, is_category
from transforms.evaluation.over_seeds import over_seeds, replicates
from transforms.evaluation.shared_rows import SharedRows, shared_rows
from transforms.evaluation.text_change import text_change
from transforms.tables import storage
from transforms.tables.columns import check_texts
from transforms.tables.read import ReadTable
from transforms.tables.table import Table
from transforms.tables.write import WriteTables, write_tables

METRICS = "metrics.json"  # lies beside the main table
ALONE = "aligned"  # the label of a table that has none
ANSWER = "aligned"  # the column that is judged where the maker names none but the response itself
CORRECTION = "correction"  # what is judged of a table of corrections
JUDGEMENTS = "judgements"
PAIR_RANKER = "pair-ranker"
TWO_WAY = ["question", "response", CORRECTION]
TEXT_ROWS = 100_000  # rows whose texts are compared word by word
SHARD_ROWS = 100_000
TablesByLabel = dict[str, str | dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which tables are judged by whom. Judges without a name are called as they are referred to."""

    aligned: str | TablesByLabel = takes(
        "aligned table, or several by label", *JUDGED, answer=True, labelled=True, positional=True
    )
    inspectors: tuple[str, ...] | dict[str, str] = uses(
        "inspector", "a judge: FOLDER or NAME=FOLDER of an inspector; may be repeated", (), also="--inspector"
    )
    pair_ranker: str = uses("pair-ranker", "a judge: folder of converted pair-ranker weights", "")
    two_way: tuple[str, ...] | dict[str, str] = takes(
        "NAME=TABLE of triples whose response is the wrong option; may be repeated",
        *TWO_WAY,
        default=(),
    )
    by: tuple[str, ...] = setting("column whose categories get figures of their own; may be repeated", ())
    minimum_shared: float = setting(
        "stop if a smaller share of the rows is judged under every label", 0.5, decides=False
    )
    seed: Seed = setting("seed of the bootstrap intervals", 0)

    def __post_init__(self) -> None:
        # By name, so that names count in the identity, and are the paths of the edges.
        for name in ("inspectors", "two_way"):
            object.__setattr__(self, name, self.named(name, getattr(self, name)))
        if not self.inspectors and not self.pair_ranker:
            raise ValueError("inspectors, pair_ranker: give at least one judge")
        if self.pair_ranker and PAIR_RANKER in self.inspectors:
            raise ValueError(f"inspectors: {PAIR_RANKER} is what the pair-ranker is called; choose another name")
        if not 0 <= self.minimum_shared <= 1:
            raise ValueError(f"minimum_shared: must be between 0 and 1, not {self.minimum_shared}")
        if len(set(self.by)) < len(self.by):
            raise ValueError(f"by: a column is there twice: {', '.join(self.by)}")

    def named(self, field_name: str, references: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
        """Return references by name; those in a list are names themselves."""
        if isinstance(references, Mapping):
            return dict(references)
        if len(set(references)) < len(references):
            raise ValueError(f"{field_name}: one is there twice: {', '.join(references)}")
        return {reference: reference for reference in references}


@dataclass(frozen=True, kw_only=True)
class FolderConfig(Config):
    """The Config of a command line, where judges and tables are folders."""

    def named(self, field_name: str, references: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
        return dict(references) if isinstance(references, Mapping) else by_name(field_name, references)


def by_name(flag: str, references: Sequence[str]) -> dict[str, str]:
    """Return what NAME=FOLDER and FOLDER say, by name; a folder's own name where there is no other.

    Raises UsageError where two share a name.
    """
    folders: dict[str, str] = {}
    for reference in references:
        name, equals, folder = reference.partition("=")
        if not equals or "://" in name:  # the = of a query
            folder, name = reference, without_query(reference).rstrip("/").rpartition("/")[2]
        if name in folders:
            raise UsageError(f"{flag}: two are called alike: {name}; give NAME=FOLDER")
        folders[name] = folder
    return folders


def aligned_edges(config: Config) -> list[Edge]:
    return [edge for edge in edges(config) if edge.path.partition(".")[0] == "aligned"]


def label_of(path: str) -> str:
    """Return the label of an aligned table by the path of its edge: `aligned.guard on` → `guard on`."""
    return path.partition(".")[2] or ALONE


def answer_of(answer: str) -> str:
    """Return the column that is judged; a response is not judged against itself."""
    return ANSWER if answer == "response" else answer


def check_columns(source: str, schema: pa.Schema, answer: str, by: Sequence[str]) -> None:
    """Raise UsageError where a table lacks a column that judges read or categories are taken from."""
    if "id" not in schema.names:
        raise UsageError(f"{source}: has no column 'id'; it has {', '.join(schema.names)}")
    check_texts(source, schema, [*JUDGED[1:], answer])
    for name in by:
        if name not in schema.names:
            raise UsageError(f"by: {source} has no column {name!r}; it has {', '.join(schema.names)}")
        if not is_category(schema.field(name).type):
            raise UsageError(f"by: column {name!r} of {source} holds {schema.field(name).type}, which is no category")


def check_tables(config: Config, step: Step) -> None:
    """Raise UsageError where an aligned table lacks a column."""
    for path in step.under("aligned"):
        table = step.table(path)
        check_columns(table.path, table.schema, answer_of(step.answers[path]), config.by)


def judges_of(config: Config, step: Step) -> list[Judge]:
    """Return the judges in the Config's order."""
    judges = [Judge(name, "inspector", step.folder(f"inspectors.{name}")) for name in config.inspectors]
    return judges + ([Judge(PAIR_RANKER, PAIR_RANKER, step.folder("pair_ranker"))] if config.pair_ranker else [])


def judgements_of(step: Step, path: str, judge: JudgeBatch) -> pa.Table:
    """Return the judgements of an aligned table, a row for each of its rows; only what is left is judged."""
    table = step.table(path)
    identity = {
        "aligned": table.digest,
        "answer": judge.answer,
        "judges": [[judge.name, judge.kind] for judge in judge.judges],
        "by": list(judge.by),
    }
    directory = storage.join(step.stage.directory, JUDGEMENTS, identity_digest(identity))
    stage = Stage(directory, step.name, identity, kind=step.stage.kind)

    def build(root: beam.Pipeline, skip: frozenset[int]) -> None:
        (
            root
            | "Read" >> ReadTable(table, judge.reads(table.schema), skip)
            | "JudgeAndWrite"
            >> WriteTables(stage.directory, {JUDGEMENTS: judge.schema()}, judge, table.targets, stage.about)
        )

    complete(stage, table, build, step.beam_arguments)
    return stage.table(JUDGEMENTS).to_arrow()


def compared_rows(judgements: Mapping[str, pa.Table], judge: Judge) -> SharedRows:
    """Return the rows that figures are taken of: those judged; of several labels those that all have, none failed."""
    is_counted = {}
    for label, rows in judgements.items():
        is_counted[label] = rows[judge.column("margin")].is_valid().to_numpy()
        if len(judgements) > 1:
            is_counted[label] &= ~rows["failed"].to_numpy()
    return shared_rows({label: rows["id"] for label, rows in judgements.items()}, is_counted)


def measure_texts(table: Table, answer: str, numbers: np.ndarray) -> dict[str, Any]:
    """Return how far the texts of these rows moved, of those among the first 100,000."""
    texts = table.head(TEXT_ROWS).to_arrow(["response", answer])
    texts = texts.take(np.sort(numbers[numbers < texts.num_rows]))
    return text_change(texts["response"].to_pylist(), texts[answer].to_pylist())


def do(config: Config, step: Step) -> None:
    """Judge every table; write the figures of the rows that they share, as metrics.json and as the main table."""
    check_tables(config, step)
    judges = judges_of(config, step)
    paths = {label_of(path): path for path in step.under("aligned")}
    answers = {label: answer_of(step.answers[path]) for label, path in paths.items()}
    judgements = {
        label: judgements_of(step, path, JudgeBatch(tuple(judges), answers[label], config.by))
        for label, path in paths.items()
    }
    shared = compared_rows(judgements, judges[0])
    labels = {}
    for label, path in paths.items():
        numbers = shared.numbers[label]
        rows = judgements[label].take(numbers)
        labels[label] = figures(judges, rows, config.seed)
        labels[label]["text_change"] = measure_texts(step.table(path), answers[label], numbers)
        labels[label]["by"] = by_category(judges, rows, config.by, config.seed)
    seeds = {
        name: over_seeds({seed: labels[label] for seed, label in by_seed.items()})
        for name, by_seed in replicates(labels).items()
    }
    accuracies = [
        figure
        for name in config.two_way
        for figure in two_way(judges, name, step.table(f"two_way.{name}").to_arrow(TWO_WAY), config.seed)
    ]
    metrics = {
        "labels": labels,
        "over_seeds": seeds,
        "two_way": accuracies,
        "shared_rows": shared.rows,
        "lacking": shared.lacking,
    }
    storage.write_json(storage.join(step.stage.directory, METRICS), metrics)
    counts = {"in": shared.total, "kept": shared.rows, "drops": {}, "rejects": {}}
    tables = {"win_rates": win_rates_table(labels, seeds)}
    write_tables(step.stage.directory, tables, step.stage.about, SHARD_ROWS, counts)


def check_shared(config: Config, stage: Stage) -> None:
    """Raise StageError where labels share too few rows to be compared."""
    counts, lacking = stage.read_manifest()["counts"], metrics_of(stage)["lacking"]
    if len(lacking) == 1 or counts["kept"] >= config.minimum_shared * counts["in"]:
        return
    reasons = ", ".join(f"{label} lacks {rows:,}" for label, rows in lacking.items())
    raise StageError(
        f"{stage.name}: {counts['kept']:,} of {counts['in']:,} rows are judged under every label, under the floor of "
        f"{config.minimum_shared:.0%}: {reasons}. Align the same responses under all, or lower minimum_shared"
    )


def metrics_of(stage: Stage) -> dict[str, Any]:
    return storage.read_json(storage.join(stage.directory, METRICS))


def gives(config: Config, inputs: Schemas) -> Schemas:
    """Return the schema of the win rates; UsageError where a table lacks a column."""
    for edge in aligned_edges(config):
        if (schema := inputs.get(edge.path)) is not None:
            corrected = CORRECTION if CORRECTION in schema.names and ANSWER not in schema.names else ANSWER
            check_columns(edge.path, schema, answer_of(edge.answer) if edge.answer else corrected, config.by)
    return {"win_rates": WIN_RATES}


def estimate(config: Config, prospect: Prospect) -> Outlook:
    """Return the outlook: a row for each label and judge; how many categories there are is not known before."""
    labels = [label_of(edge.path) for edge in aligned_edges(config)]
    judges = len(config.inspectors) + bool(config.pair_ranker)
    return Outlook(None if config.by else (len(labels) + len(replicates(labels))) * judges)


def shows(stage: Stage) -> None:
    """Print a table of the judges for each label, its categories below it, and what labels lack."""
    metrics = metrics_of(stage)
    for label, of_label in metrics["labels"].items():
        print_rates(label, of_label)
    for name, of_name in metrics["over_seeds"].items():
        print_rates(f"{name}, mean of {len(of_name['seeds'])} seeds:", of_name)
    for label, rows in metrics["lacking"].items():
        if rows:
            messages.print(f"{label} lacks {rows:,} rows; {metrics['shared_rows']:,} are compared", soft_wrap=True)
    for judged in metrics["two_way"]:
        accuracy = f"{_rate(judged['accuracy'])} of {judged['items']}"
        messages.print(f"two-way accuracy, {judged['file']}, {judged['judge']}: {accuracy}", soft_wrap=True)


def print_rates(label: str, of_label: Figures) -> None:
    grid = Grid(title=f"{label} against original", title_justify="left")
    for heading in ("judge", "rows", "win rate", "95 %", "wins / decided", "wins", "losses", "ties", "mean shift"):
        grid.add_column(heading, justify="left" if heading == "judge" else "right")
    for judged in of_label["judges"]:
        shift = of_label["score_shift"].get(judged["judge"])
        grid.add_row(
            judged["judge"],
            f"{judged['n']:,}",
            _rate(judged["win_rate"]),
            _interval(judged["ci95"]),
            _rate(judged["wins_over_decided"]),
            *(f"{judged[name]:,}" if name in judged else "" for name in ("wins", "losses", "ties")),
            f"{shift['shift']['mean']:+.3f}" if shift and shift["shift"]["mean"] is not None else "",
        )
    messages.print(grid)
    for column, values in of_label["by"].items():
        grid = Grid(title=f"{label} by {column}: win rates", title_justify="left")
        for heading in (column, "rows", *(judged["judge"] for judged in of_label["judges"])):
            grid.add_column(heading, justify="left" if heading == column else "right")
        for value, part in values.items():
            rates = [f"{_rate(judged['win_rate'])} ({_interval(judged['ci95'])})" for judged in part["judges"]]
            grid.add_row(value or "(none)", f"{part['judges'][0]['n']:,}", *rates)
        messages.print(grid)


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(bounds: Sequence[float] | None) -> str:
    return f"{bounds[0]:.3f}–{bounds[1]:.3f}" if bounds else ""


KIND = StageKind(
    name="evaluate",
    about="aligned tables to win rates: is each answer better than the response it replaced?",
    config=Config,
    do=do,
    gives=gives,
    estimate=estimate,
    runs_models=always,
    check_yield=check_shared,
    shows=shows,
)


def main(argv: Sequence[str] | None = None) -> int:
    return entrypoint.main(replace(KIND, config=FolderConfig), __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
