"""What the members of a squad do to each other, seen on a sample before a corpus is aligned (paper 002, figure 2).

Each aligner rewrites every row of the sample alone, with no guard; then the squad aligns the sample as it would the
corpus. What is generated stays in the response cache.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import apache_beam as beam
import numpy as np
import pyarrow as pa
from rich.table import Table as Grid

from pipelines.orders import ascending
from pipelines.runtime.beam import run_pipeline
from schemas import tables
from schemas.console import messages
from schemas.errors import UsageError
from transforms.alignment.align import Align
from transforms.alignment.policy import Member, Policy
from transforms.alignment.scoring import score_matrix
from transforms.alignment.trajectories import SplitAligned
from transforms.tables import storage
from transforms.tables.read import ReadTable
from transforms.tables.table import Table, read_table
from transforms.tables.write import WriteTables, write_tables

SAMPLE_ROWS = 64


@dataclass(frozen=True)
class Conflicts:
    """`change_MM[i, j]`: the mean change of score j where aligner i rewrote every row of the sample; how the squad's
    own run over the sample ended: the mean scores before and after, and the share of rows left below a threshold."""

    criteria: tuple[str, ...]
    rows: int
    change_MM: np.ndarray
    before_M: np.ndarray
    after_M: np.ndarray
    unmet: float

    @property
    def order(self) -> tuple[str, ...]:
        """Those that harm others first, so that these can repair it; among equals, those that help most first."""
        others = self.change_MM.copy()
        np.fill_diagonal(others, 0.0)
        harm_MM = np.minimum(others, 0)
        harms, helps = (harm_MM - harm_MM.T).sum(axis=1), np.maximum(others, 0).sum(axis=1)
        return tuple(self.criteria[index] for index in np.lexsort((-helps, harms)))


def find_conflicts(
    corpus: Table,
    members: Sequence[Member],
    policy: Policy,
    seed: int,
    cache: str,
    directory: str,
    beam_arguments: Sequence[str] = (),
    *,
    by_mean: bool = False,
    bf16: bool = False,
) -> Conflicts:
    """Align a sample, rows from all over the corpus, in `directory`, which is made for it and gone thereafter.

    With `by_mean` the squad goes in the order of the sample's mean scores.
    """
    if not corpus.rows:
        raise UsageError(f"{corpus.path}: has no row to look at")
    alone = Policy(routing="in_turn", steps=1, every_row=True, guard=False)
    runs = {f"member-{number}": replace(alone, order=(number,)) for number in range(len(members))}
    try:
        rows = corpus.sample(SAMPLE_ROWS, tables.RESPONSES.names)
        write_tables(storage.join(directory, "sample"), {"responses": rows}, {}, SAMPLE_ROWS)
        sample = read_table(storage.join(directory, "sample"))
        aligners = partial(Align, members, seed=seed, cache=cache, bf16=bf16)
        apart = _align(sample, members, runs, aligners, directory, beam_arguments)
        changes = []
        for table in apart.values():
            before_NM, after_NM = (score_matrix(table, name, members) for name in ("scores_before", "scores_after"))
            rewritten = np.isin(table.column("decision").to_pylist(), ("rewritten", "unchanged"))
            changes.append(
                (after_NM - before_NM)[rewritten].mean(axis=0) if rewritten.any() else np.zeros(len(members))
            )
        first = next(iter(apart.values()))
        before_M = np.nanmean(score_matrix(first, "scores_before", members), axis=0)
        if by_mean:
            policy = replace(policy, order=ascending(before_M))
        together = _align(sample, members, {"squad": policy}, aligners, directory, beam_arguments)["squad"]
    finally:
        storage.remove(directory)
    after_NM = score_matrix(together, "scores_after", members)
    met_N = (after_NM >= [member.threshold for member in members]).all(axis=1)
    return Conflicts(
        criteria=tuple(member.criterion for member in members),
        rows=sample.rows,
        change_MM=np.stack(changes),
        before_M=before_M,
        after_M=np.nanmean(after_NM, axis=0),
        unmet=float(1 - met_N.mean()),
    )


def _align(
    sample: Table,
    members: Sequence[Member],
    runs: dict[str, Policy],
    aligners: Callable[[Policy], Align],
    directory: str,
    beam_arguments: Sequence[str],
) -> dict[str, pa.RecordBatch]:
    """The sample's rows as each run of the squad leaves them."""
    aligned = tables.aligned(tables.RESPONSES, tuple(member.criterion for member in members))
    schemas = {
        "aligned": aligned,
        "trajectories": tables.TRAJECTORIES,
        "rejects": tables.with_error(tables.RESPONSES),
    }

    def build(root: beam.Pipeline) -> None:
        rows = root | ReadTable(sample)
        names = {index: target.name for index, target in sample.targets.items()}
        for name, policy in runs.items():
            write = WriteTables(
                storage.join(directory, name), schemas, SplitAligned(policy.steps, names), sample.targets, {}
            )
            rows | f"Align {name}" >> aligners(policy) | f"Write {name}" >> write

    run_pipeline(build, beam_arguments)
    found = {name: read_table(storage.join(directory, name)).to_arrow() for name in runs}
    return {name: table.combine_chunks().to_batches()[0] for name, table in found.items()}


def print_conflicts(found: Conflicts, rows: int) -> None:
    grid = Grid(
        title=f"what each aligner does to every score (mean change over {found.rows} rows)", title_justify="left"
    )
    grid.add_column("aligner")
    for criterion in found.criteria:
        grid.add_column(criterion, justify="right")
    for criterion, changes in zip(found.criteria, found.change_MM, strict=True):
        grid.add_row(criterion, *(f"{change:+.3f}" for change in changes))
    grid.add_row("squad, before", *(f"{mean:.3f}" for mean in found.before_M))
    grid.add_row("squad, after", *(f"{mean:.3f}" for mean in found.after_M))
    messages.print(grid)
    messages.print(f"suggested order (routing: fixed): {', '.join(found.order)}")
    messages.print(f"expected to stay below a threshold: {found.unmet:.0%}, about {round(found.unmet * rows):,} rows")
