"""Show on a sample what each aligner does to every score, before a corpus is aligned (paper 002, figure 2).

    alignbeam align answers.parquet --squad squad.yaml -o runs/mine --conflicts

Each aligner rewrites every row of the sample alone, with no guard. As a control, each row is scored with the rewrite of
another row too. Then the squad aligns the sample as it would the corpus. What is generated stays in the response cache.
Over all rows (`rows` as many or more), the table is paper 002's change of every other score at the first step.

The matrix is the table `conflicts`; `conflicts.json` has what the squad does as a whole, and an order for `fixed`.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from rich.table import Table as Grid

from pipelines.runtime import entrypoint
from pipelines.runtime.at_work import at_work
from pipelines.runtime.beam import run_pipeline
from pipelines.runtime.estimates import Outlook, Prospect
from pipelines.runtime.squads import SquadConfig, check_packs, outside, rewrite_estimates
from pipelines.runtime.stage import Stage
from pipelines.runtime.step import StageKind, Step, always
from schemas import tables
from schemas.console import messages
from schemas.errors import UsageError
from schemas.fields import setting
from schemas.squads import SquadRules, rules_of
from transforms.alignment.align import Align
from transforms.alignment.conflicts import Changes, conflict_rows, harmers_first, means, shifted
from transforms.alignment.layers import read_responses
from transforms.alignment.members import Member, criteria_of, members_of
from transforms.alignment.orders import ascending
from transforms.alignment.scoring import Score, score_matrix
from transforms.alignment.trajectories import SplitAligned
from transforms.tables import storage
from transforms.tables.chunks import Chunk
from transforms.tables.read import ReadTable
from transforms.tables.table import Table, read_manifest, read_table
from transforms.tables.write import WriteTables, sum_of_asked, write_tables

SUMMARY = "conflicts.json"
SHARD_ROWS = 1024
ALONE = SquadRules(routing="fixed", every_row=True, guard=False)


@dataclass(frozen=True, kw_only=True)
class Config(SquadConfig):
    """The squad's members and rules, as an `align` step has them."""

    rows: int = setting("rows of the sample, from all over the table", 64, rows=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows < 1:
            raise ValueError(f"rows: must be at least 1, not {self.rows}")
        if not any(member.inspector for member in self.members):
            raise ValueError("members: no criterion has an inspector, so there are no scores to look at; name one")


def do(config: Config, step: Step) -> None:
    """Align a sample by each member alone and by the squad, and write down what became of the scores."""
    responses, answer, started = step.table("responses"), step.answers["responses"], time.time()
    if not responses.rows:
        raise UsageError(f"{responses.path}: has no row to look at; give responses with rows")
    members = members_of(config.members, step.models, config.sampling)
    align = Align(members, rules_of(config), seed=config.seed, cache=step.place.cache_directory, bf16=config.bf16)
    with at_work(step.stage.directory), scratch(step.stage) as directory:
        sample = write_sample(responses, answer, config.rows, directory)
        runs = {f"member-{number}": replace(align, rules=ALONE, order=(number,)) for number in range(len(members))}
        alone = align_sample(sample, runs, directory, step.beam_arguments)
        changes = changes_of(alone, align, directory, step.beam_arguments)
        before_NM = matrix_of(alone["member-0"], "scores_before", members)
        if align.rules.needs_all_scores:  # the sample goes in the order of its own mean scores
            align = replace(align, order=ascending(np.array([mean or 0.0 for mean in means(before_NM)])))
        together = align_sample(sample, {"squad": align}, directory, step.beam_arguments)["squad"]
        after_NM = matrix_of(together, "scores_after", members)
        asked = sum_of_asked(read_manifest(storage.join(directory, name)).get("tokens") for name in (*runs, "squad"))
    rows = pa.Table.from_pylist(list(conflict_rows(criteria_of(members), changes, config.seed)), tables.CONFLICTS)
    summary = summarised(members, changes, before_NM, after_NM) | {"corpus_rows": responses.rows}
    storage.write_json(storage.join(step.stage.directory, SUMMARY), summary)
    about = step.stage.about | {"tokens": asked._asdict(), "sampled": sample.rows, "seconds": time.time() - started}
    write_tables(step.stage.directory, {"conflicts": rows}, about, SHARD_ROWS)


@contextmanager
def scratch(stage: Stage) -> Iterator[str]:
    """Yield a directory to work in, which is removed in the end."""
    directory = storage.join(stage.directory, "scratch")
    storage.remove(directory)
    try:
        yield directory
    finally:
        storage.remove(directory)


def write_sample(responses: Table, answer: str, rows: int, directory: str) -> Table:
    columns = list(dict.fromkeys(("id", "question", answer)))
    batches = [read_responses(batch, answer) for batch in responses.sample(rows, columns).to_batches()]
    path = storage.join(directory, "sample")
    write_tables(path, {"responses": pa.Table.from_batches(batches)}, {}, SHARD_ROWS)
    return read_table(path)


def changes_of(
    alone: Mapping[str, pa.Table], align: Align, directory: str, beam_arguments: Sequence[str]
) -> list[Changes]:
    """Return what each member did to every score of the rows that it rewrote alone."""
    answered = {}
    for name, table in alone.items():
        is_answered = np.isin(table["decision"].to_pylist(), ("rewritten", "unchanged"))
        answered[name] = table.filter(pa.array(is_answered))
    controls = score_controls(answered, align, directory, beam_arguments)
    changes = []
    for name, table in answered.items():
        before_NM, after_NM = (matrix_of(table, column, align.members) for column in ("scores_before", "scores_after"))
        changes.append(Changes(before_NM, after_NM, controls[name]))
    return changes


def score_controls(
    answered: Mapping[str, pa.Table], align: Align, directory: str, beam_arguments: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return the scores of every question with the rewrite of the row before, [N, M] for each run."""
    inspectors = {member.criterion: member.inspector for member in align.members}
    scores = pa.struct({criterion: pa.float64() for criterion in inspectors})
    schema = pa.schema({"id": pa.string(), "scores": scores})
    pairs = {}
    for name, table in answered.items():
        texts = pa.array(shifted(table["aligned"].to_pylist()), pa.string())
        path = storage.join(directory, f"{name}-control")
        rows = table.select(["id", "question"]).append_column("rewrite", texts)
        write_tables(path, {"pairs": rows}, {}, SHARD_ROWS)
        pairs[name] = read_table(path).head(None)  # without the shard of a table that is empty

    def build(root: beam.Pipeline) -> None:
        for name, table in pairs.items():
            score = Score(inspectors, "rewrite", "scores", "score controls", align.bf16)
            path = storage.join(directory, f"{name}-scores")
            write = WriteTables(path, {"scores": schema}, all_scores, table.targets, {})
            root | f"Read {name}" >> ReadTable(table) | f"Score {name}" >> score | f"Write {name}" >> write

    run_pipeline(build, beam_arguments)
    written = {name: read_table(storage.join(directory, f"{name}-scores")).to_arrow() for name in pairs}
    return {name: matrix_of(table, "scores", align.members) for name, table in written.items()}


def all_scores(chunk: Chunk) -> dict[str, pa.RecordBatch]:
    return {"scores": chunk.batch}


def align_sample(
    sample: Table, runs: Mapping[str, Align], directory: str, beam_arguments: Sequence[str]
) -> dict[str, pa.Table]:
    """Return the sample's rows as each run of the squad leaves them."""
    criteria = criteria_of(next(iter(runs.values())).members)
    schemas = {
        "aligned": tables.aligned(tables.RESPONSES, criteria),
        "trajectories": tables.TRAJECTORIES,
        "rejects": tables.with_error(tables.RESPONSES),
    }

    def build(root: beam.Pipeline) -> None:
        rows = root | ReadTable(sample)
        names = {index: target.name for index, target in sample.targets.items()}
        for name, align in runs.items():
            split = SplitAligned(align.rounds, names)
            write = WriteTables(storage.join(directory, name), schemas, split, sample.targets, {})
            rows | f"Align {name}" >> align | f"Write {name}" >> write

    run_pipeline(build, beam_arguments)
    return {name: read_table(storage.join(directory, name)).to_arrow() for name in runs}


def matrix_of(table: pa.Table, column: str, members: Sequence[Member]) -> np.ndarray:
    parts = [score_matrix(batch, column, members) for batch in table.to_batches()]
    return np.concatenate([np.empty((0, len(members))), *parts])


def summarised(
    members: Sequence[Member], changes: Sequence[Changes], before_NM: np.ndarray, after_NM: np.ndarray
) -> dict[str, Any]:
    """Return what the squad as a whole does to the sample; unmet: the share of rows left below a threshold."""
    criteria = criteria_of(members)
    thresholds_M = np.array([member.threshold for member in members])
    is_scored_M = np.array([bool(member.inspector) for member in members])
    is_met_N = (after_NM >= thresholds_M)[:, is_scored_M].all(axis=1)
    change_MM = np.stack([changed.mean_M for changed in changes])
    return {
        "criteria": list(criteria),
        "rows": len(after_NM),
        "before": means(before_NM),
        "after": means(after_NM),
        "unmet": float(1 - is_met_N.mean()),
        "order": list(harmers_first(criteria, change_MM)),
    }


def shows(stage: Stage) -> None:
    """Print the matrix, and what follows for the corpus."""
    summary = storage.read_json(storage.join(stage.directory, SUMMARY))
    rows = stage.table("conflicts").to_arrow().to_pylist()
    changes = {(row["aligner"], row["criterion"]): row["change"] for row in rows}
    rewritten = {name: max(row["rows"] for row in rows if row["aligner"] == name) for name in summary["criteria"]}
    messages.print(
        f"what each aligner does to every score (mean change over the rows of {summary['rows']} that it answered for)",
        style="bold",
        soft_wrap=True,
    )
    grid = Grid(box=None, pad_edge=False)
    grid.add_column("aligner")
    grid.add_column("rows", justify="right")
    for criterion in summary["criteria"]:
        grid.add_column(criterion, justify="right")
    for aligner in summary["criteria"]:
        cells = (_shown(changes[aligner, name], "+.3f") for name in summary["criteria"])
        grid.add_row(aligner, f"{rewritten[aligner]:,}", *cells)
    grid.add_row("squad, before", "", *(_shown(mean, ".3f") for mean in summary["before"]))
    grid.add_row("squad, after", "", *(_shown(mean, ".3f") for mean in summary["after"]))
    messages.print(grid)
    for name in (name for name, count in rewritten.items() if not count):
        said = f"{name}: no rewrite of it could be used: cut off (raise sampling.max_tokens), or the request failed"
        messages.print(said, style="yellow", soft_wrap=True)
    messages.print(f"suggested order (routing: fixed): {', '.join(summary['order'])}", soft_wrap=True)
    unmet = summary["unmet"]
    about = f"{unmet:.0%}, about {round(unmet * summary['corpus_rows']):,} rows"
    messages.print(f"expected to stay below a threshold: {about}")


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def estimate(config: Config, prospect: Prospect) -> Outlook:
    """Return an estimate for each member: every row of the sample once alone, and in its turns as one of the squad."""
    rows = len(config.members) ** 2
    times = 1 + (config.rounds or len(config.members)) / len(config.members)
    return Outlook(rows, tuple(rewrite_estimates(config, prospect, times, config.rows)), rows)


KIND = StageKind(
    name="conflicts",
    about="what each aligner of a squad does to every score, on a sample",
    config=Config,
    do=do,
    gives=lambda config, inputs: {"conflicts": tables.CONFLICTS},
    outside=outside,
    check=check_packs,
    estimate=estimate,
    runs_models=always,
    shows=shows,
)

if __name__ == "__main__":
    sys.exit(entrypoint.main(KIND, __doc__))
