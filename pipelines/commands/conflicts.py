"""What the members of a squad do to each other, seen on a sample before a corpus is aligned (paper 002, figure 2).

Each aligner rewrites every row of the sample alone, with no guard; then the squad aligns the sample as it would the
corpus. What is generated stays in the response cache. N rows, M members; `MM` is the member that rewrites, then the one
whose score changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import apache_beam as beam
import numpy as np
import pyarrow as pa
from rich.table import Table as Grid

from pipelines.runtime.beam import run_pipeline
from schemas import tables
from schemas.console import messages
from schemas.errors import UsageError
from schemas.squads import SquadRules
from transforms.alignment.align import Align
from transforms.alignment.members import criteria_of
from transforms.alignment.orders import ascending
from transforms.alignment.scoring import score_matrix
from transforms.alignment.trajectories import SplitAligned
from transforms.tables import storage
from transforms.tables.read import ReadTable
from transforms.tables.table import Table, read_table
from transforms.tables.write import WriteTables, write_tables

SAMPLE_ROWS = 64


@dataclass(frozen=True)
class Conflicts:
    """Hold what aligners do to scores on a sample, alone and as a squad.

    change_MM: the mean change of score j where aligner i alone rewrote every row. before_M, after_M: the mean scores
    before and after the squad's own run. unmet: the share of rows that it leaves below a threshold.
    """

    criteria: tuple[str, ...]
    rows: int
    change_MM: np.ndarray
    before_M: np.ndarray
    after_M: np.ndarray
    unmet: float

    @property
    def order(self) -> tuple[str, ...]:
        """Return the criteria in the order to suggest for `fixed`.

        Those that harm others come first, so that these can repair it; among equals, those that help most.
        """
        # a and b, a takes .3 from b, b gives .1 to a: on others [[0, -.3], [.1, 0]], harm [[0, -.3], [0, 0]]; net harm,
        # done less suffered, a -.3, b .3; help a 0, b .1: a comes first
        on_others_MM = self.change_MM.copy()
        np.fill_diagonal(on_others_MM, 0.0)
        harm_MM = np.minimum(on_others_MM, 0)
        net_harm_M, help_M = (harm_MM - harm_MM.T).sum(axis=1), np.maximum(on_others_MM, 0).sum(axis=1)
        return tuple(self.criteria[number] for number in np.lexsort((-help_M, net_harm_M)))


def find_conflicts(corpus: Table, align: Align, directory: str, beam_arguments: Sequence[str] = ()) -> Conflicts:
    """Align a sample from all over the corpus, by each member alone and by the squad.

    align: as the corpus would be aligned. Where its order follows from the scores of all rows, the sample goes in the
    order of its own mean scores. directory: where to work; it is made, and removed in the end.
    """
    if not corpus.rows:
        raise UsageError(f"{corpus.path}: has no row to look at; give a corpus with rows, or leave out --plan")
    members = align.members
    alone = SquadRules(routing="fixed", every_row=True, guard=False)
    runs = {f"member-{number}": replace(align, rules=alone, order=(number,)) for number in range(len(members))}
    try:
        rows = corpus.sample(SAMPLE_ROWS, tables.RESPONSES.names)
        write_tables(storage.join(directory, "sample"), {"responses": rows}, {}, SAMPLE_ROWS)
        sample = read_table(storage.join(directory, "sample"))
        apart = align_sample(sample, runs, directory, beam_arguments)
        changes = []
        for table in apart.values():
            before_NM, after_NM = (score_matrix(table, name, members) for name in ("scores_before", "scores_after"))
            is_answered = np.isin(table.column("decision").to_pylist(), ("rewritten", "unchanged"))
            change_NM = (after_NM - before_NM)[is_answered]
            changes.append(change_NM.mean(axis=0) if len(change_NM) else np.zeros(len(members)))
        first = next(iter(apart.values()))
        before_M = np.nanmean(score_matrix(first, "scores_before", members), axis=0)
        if align.rules.needs_all_scores:
            align = replace(align, order=ascending(before_M))
        together = align_sample(sample, {"squad": align}, directory, beam_arguments)["squad"]
    finally:
        storage.remove(directory)
    after_NM = score_matrix(together, "scores_after", members)
    is_met = (after_NM >= [member.threshold for member in members]).all(axis=1)
    return Conflicts(
        criteria=criteria_of(members),
        rows=sample.rows,
        change_MM=np.stack(changes),
        before_M=before_M,
        after_M=np.nanmean(after_NM, axis=0),
        unmet=float(1 - is_met.mean()),
    )


def align_sample(
    sample: Table, runs: dict[str, Align], directory: str, beam_arguments: Sequence[str]
) -> dict[str, pa.RecordBatch]:
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
    written = {name: read_table(storage.join(directory, name)).to_arrow() for name in runs}
    return {name: table.combine_chunks().to_batches()[0] for name, table in written.items()}


def print_conflicts(conflicts: Conflicts, rows: int) -> None:
    grid = Grid(
        title=f"what each aligner does to every score (mean change over {conflicts.rows} rows)", title_justify="left"
    )
    grid.add_column("aligner")
    for criterion in conflicts.criteria:
        grid.add_column(criterion, justify="right")
    for criterion, changes in zip(conflicts.criteria, conflicts.change_MM, strict=True):
        grid.add_row(criterion, *(f"{change:+.3f}" for change in changes))
    grid.add_row("squad, before", *(f"{mean:.3f}" for mean in conflicts.before_M))
    grid.add_row("squad, after", *(f"{mean:.3f}" for mean in conflicts.after_M))
    messages.print(grid)
    messages.print(f"suggested order (routing: fixed): {', '.join(conflicts.order)}")
    messages.print(
        f"expected to stay below a threshold: {conflicts.unmet:.0%}, about {round(conflicts.unmet * rows):,} rows"
    )
