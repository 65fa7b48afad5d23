"""Judge an aligned corpus: is each aligned text better than the response it replaced?

    alignbeam evaluate out --inspector models/judge -o out
    alignbeam evaluate out --inspector strict=models/judge --pair-ranker models/ranker --two-way hhh.jsonl.gz -o out

Win rate as paper 000, app. F defines it (wins / all rows), wins / decided rows, ties; two-way accuracy on files with a
right and a wrong option; shift of scores; change of length and edit distance. Written to metrics.json and as a table.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table as Grid

from pipelines import ingest
from pipelines.report.run_directory import RUN_FILE, read_run_file
from pipelines.runtime import entrypoint, runs
from pipelines.runtime.stage import Stage, complete
from schemas.command_line import setting
from schemas.console import messages
from schemas.errors import UsageError
from schemas.urls import without_query
from transforms.engines.encoder import model_config, model_digest
from transforms.evaluation.text_change import text_change
from transforms.evaluation.win_rates import margins, score_level, score_shift, two_way_accuracy, win_rate
from transforms.tables import progress, storage
from transforms.tables.chunks import Chunk
from transforms.tables.read import ReadTable
from transforms.tables.table import Table, read_table
from transforms.tables.write import WriteTables

TEXT_ROWS = 100_000  # rows whose texts are compared word by word
JUDGED = ("id", "question", "response", "aligned")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a recipe may set."""

    inspector: tuple[str, ...] = setting("a judge: FOLDER or NAME=FOLDER of an inspector; may be repeated", ())
    pair_ranker: str | None = setting("a judge: folder of converted pair-ranker weights", None)
    two_way: tuple[str, ...] = setting("file of items with columns prompt, chosen, rejected; may be repeated", ())


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    aligned: str = setting("run directory of `alignbeam align`, or a table with response and aligned", positional=True)
    output: str = setting("run directory for the results", short="-o")
    seed: int = setting("seed of the bootstrap intervals", 0)
    stage: str = "evaluate"  # what the stage is called, where a run aligns the same responses twice

    def __post_init__(self) -> None:
        if not self.inspector and not self.pair_ranker:
            raise ValueError("inspector, pair_ranker: give at least one judge")


@dataclass(frozen=True)
class Judge:
    """A model that compares two answers: an inspector by their scores, a pair-ranker directly."""

    name: str
    kind: str  # inspector | pair-ranker
    folder: str

    def compare(self, questions: list[str], before: list[str], after: list[str]) -> dict[str, np.ndarray]:
        """`margin` [N], positive where `after` is better, and an inspector's scores `before` and `after`."""
        if self.kind == "inspector":
            from transforms.engines.inspector import open_inspector

            inspector = open_inspector(self.folder)
            scores = inspector.score(questions * 2, before + after)
            first, second = scores[: len(before)], scores[len(before) :]
            same = np.array([x == y for x, y in zip(before, after, strict=True)], dtype=bool)
            return {"margin": margins(first, second, same), "before": first, "after": second}
        from transforms.engines.pair_ranker import open_pair_ranker

        return {"margin": open_pair_ranker(self.folder).compare(questions, after, before)}


def judges_of(config: Config) -> list[Judge]:
    """The judges in the order given; UsageError where a folder is no model or two judges share a name."""
    judges = []
    for given in config.inspector:
        name, equals, folder = given.partition("=")
        folder = folder if equals else given
        judges.append(Judge(name if equals else folder.rstrip("/").rpartition("/")[2], "inspector", folder))
    if config.pair_ranker:
        judges.append(Judge("pair-ranker", "pair-ranker", config.pair_ranker))
    for judge in judges:
        model_config(judge.folder)
    if len({judge.name for judge in judges}) < len(judges):
        raise UsageError(f"inspector: two judges are called alike: {[j.name for j in judges]}; give NAME=FOLDER")
    return judges


def find_aligned(path: str) -> Table:
    """The aligned table of a run directory, or the table at the path itself; UsageError where columns are missing."""
    if storage.exists(storage.join(path, RUN_FILE)):
        entries = read_run_file(path)["stages"]
        found = next((entry for entry in entries if entry["stage"] == "align" and entry["status"] == "complete"), None)
        if found is None:
            raise UsageError(f"{path}: no aligned corpus in this run; finish alignbeam align first")
        path = storage.join(path, found["directory"])
    table = read_table(path)
    if missing := set(JUDGED) - set(table.schema.names):
        raise UsageError(f"{path}: has no column {', '.join(sorted(missing))}")
    return table


@dataclass(frozen=True)
class JudgeBatch:
    """Adds one struct column per judge; rows without a response or an aligned text get nulls."""

    judges: tuple[Judge, ...]

    def __call__(self, chunk: Chunk) -> dict[str, pa.RecordBatch]:
        batch = chunk.batch
        wanted = pc.and_(pc.is_valid(batch.column("response")), pc.is_valid(batch.column("aligned")))
        rows = batch.filter(pc.and_(wanted, pc.is_valid(batch.column("question"))))
        texts = [rows.column(name).to_pylist() for name in ("question", "response", "aligned")]
        columns = {"id": rows.column("id").cast(pa.string())}
        for judge in self.judges:
            verdict = judge.compare(*texts)
            columns |= {f"{judge.name}/{name}": pa.array(values) for name, values in verdict.items()}
        progress.add("judge", done=chunk.rows)
        return {"judgements": pa.RecordBatch.from_pydict(columns)}

    def schema(self) -> pa.Schema:
        fields = [("id", pa.string())]
        for judge in self.judges:
            names = ("margin", "before", "after") if judge.kind == "inspector" else ("margin",)
            fields += [(f"{judge.name}/{name}", pa.float64()) for name in names]
        return pa.schema(fields)


def build(judges: Sequence[Judge], aligned: Table, stage: Stage, root: beam.Pipeline, skip: frozenset[int]) -> None:
    judge = JudgeBatch(tuple(judges))
    (
        root
        | "Read" >> ReadTable(aligned, list(JUDGED), skip)
        | "JudgeAndWrite"
        >> WriteTables(stage.directory, {"judgements": judge.schema()}, judge, aligned.targets, stage.about)
    )


def measure(judges: Sequence[Judge], judgements: pa.Table, aligned: Table, seed: int) -> dict:
    """The metrics of all judges, and of the texts themselves (the first 100,000 rows)."""
    results, shifts, levels = [], {}, {}
    for judge in judges:
        counts = win_rate(judgements[f"{judge.name}/margin"].to_numpy(), seed=seed)
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
            columns = {name: judgements[f"{judge.name}/{name}"].to_numpy() for name in ("before", "after")}
            shifts[judge.name] = score_shift(*columns.values(), seed=seed)
            levels[judge.name] = {name: score_level(scores, seed=seed) for name, scores in columns.items()}
    texts = aligned.head(TEXT_ROWS).to_arrow(["response", "aligned"])
    texts = texts.filter(pc.and_(pc.is_valid(texts["response"]), pc.is_valid(texts["aligned"])))
    change = text_change(texts["response"].to_pylist(), texts["aligned"].to_pylist())
    return {"judges": results, "score_shift": shifts, "score_level": levels, "text_change": change, "two_way": []}


def import_two_way(config: Config, beam_arguments: Sequence[str]) -> dict[str, Stage]:
    """The two-way files as tables, by the files' names; by their paths where two are called alike."""
    names = [without_query(path).rsplit("/", 1)[-1].split(".")[0] for path in config.two_way]
    imported = {}
    for name, path in zip(names, config.two_way, strict=True):
        settings = ingest.Config(
            corpus=path,
            output=storage.join(config.output, "two_way", name),
            kind="triples",
            response_column="rejected",
        )
        key = path if names.count(name) > 1 else name
        imported[key] = ingest.run(settings, beam_arguments, by_identity=True)
    return imported


def measure_two_way(judges: Sequence[Judge], name: str, imported: Stage, seed: int) -> list[dict]:
    """Two-way accuracy of every judge on one file."""
    items = imported.table("triples").to_arrow(["question", "response", "correction"])
    wrong, right = items["response"].to_pylist(), items["correction"].to_pylist()
    return [
        {"judge": judge.name, "file": name}
        | two_way_accuracy(judge.compare(items["question"].to_pylist(), wrong, right)["margin"], seed=seed)
        for judge in judges
    ]


def run(config: Config, beam_arguments: Sequence[str] = ()) -> Stage:
    """Judge the corpus unless it has been; writes metrics.json beside the judgements and prints the table."""
    return run_with_imports(config, beam_arguments)[-1]


def run_with_imports(config: Config, beam_arguments: Sequence[str] = ()) -> list[Stage]:
    """As `run`; before the stage stand the imports of the two-way files."""
    judges = judges_of(config)
    storage.check_writable(config.output)
    aligned = find_aligned(config.aligned)
    two_way = import_two_way(config, beam_arguments)
    identity = {
        "aligned": aligned.digest,
        "judges": [[judge.name, judge.kind, model_digest(judge.folder)] for judge in judges],
        "two_way": [[name, imported.table("triples").digest] for name, imported in two_way.items()],
        "seed": config.seed,
    }
    stage = Stage.under(config.output, config.stage, identity)
    metrics_path = storage.join(stage.directory, "metrics.json")
    if not stage.is_done() or not storage.exists(metrics_path):
        complete(stage, aligned, partial(build, judges, aligned, stage), beam_arguments)
        metrics = measure(judges, stage.table("judgements").to_arrow(), aligned, config.seed)
        for name, imported in two_way.items():
            metrics["two_way"] += measure_two_way(judges, name, imported, config.seed)
        storage.write_json(metrics_path, metrics)
    print_metrics(storage.read_json(metrics_path))
    return [*two_way.values(), stage]


def print_metrics(metrics: dict) -> None:
    grid = Grid(title="aligned against original", title_justify="left")
    for heading in ("judge", "rows", "win rate", "95 %", "wins / decided", "wins", "losses", "ties", "mean shift"):
        grid.add_column(heading, justify="left" if heading == "judge" else "right")
    for one in metrics["judges"]:
        shift = metrics["score_shift"].get(one["judge"])
        grid.add_row(
            one["judge"],
            f"{one['n']:,}",
            _rate(one["win_rate"]),
            f"{one['ci95'][0]:.3f}–{one['ci95'][1]:.3f}" if one["ci95"] else "",
            _rate(one["wins_over_decided"]),
            *(f"{one[name]:,}" for name in ("wins", "losses", "ties")),
            f"{shift['shift']['mean']:+.3f}" if shift and shift["shift"]["mean"] is not None else "",
        )
    messages.print(grid)
    for one in metrics["two_way"]:
        messages.print(f"two-way accuracy, {one['file']}, {one['judge']}: {_rate(one['accuracy'])} of {one['items']}")


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def main(argv: Sequence[str] | None = None) -> int:
    def command(config: Config, beam_arguments: Sequence[str]) -> list[Stage]:
        done = run_with_imports(config, beam_arguments)
        runs.Run(config.output).record(done[-1], "complete", 0.0)
        return done

    return entrypoint.main(argv, Config, command, program="alignbeam evaluate", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
