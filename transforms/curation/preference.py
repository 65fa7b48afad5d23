"""Preference: which of several alike rows stays, and the decisions that drop the others."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy import ndarray

from transforms.curation.decisions import to_decisions
from transforms.tables.chunks import Keyed
from transforms.tables.columns import is_text
from transforms.tables.table import Table
from transforms.texts.shingles import scramble
from transforms.texts.words import GOLDEN, byte_hashes

ROWS_PER_BUCKET = 100_000
MAX_BUCKETS = 64
FIRST, LONGEST = "first", "longest"
PREFERRED = ["cost", "name", "tie", "shard", "row"]


def buckets_for(table: Table) -> int:
    """Return into how many parts a table's hashes are cut; no result depends on the number."""
    return min(max(table.rows // ROWS_PER_BUCKET, 2), MAX_BUCKETS)


def row_hashes(batch: pa.RecordBatch) -> ndarray:
    """Hash the content of every row over all its columns, whatever their order: uint64[N]."""
    hashes = np.zeros(batch.num_rows, np.uint64)
    for name in sorted(batch.schema.names):
        column = batch.column(name)
        if pa.types.is_nested(column.type):
            column = pa.array([json.dumps(value, default=str) for value in column.to_pylist()], pa.string())
        elif not is_text(column.type):
            column = pl.from_arrow(column).cast(pl.String).to_arrow(compat_level=pl.CompatLevel.oldest())
        is_there = column.is_valid().to_numpy(zero_copy_only=False)
        hashes = scramble(hashes * GOLDEN + byte_hashes(column) + is_there)
    return hashes


@dataclass(frozen=True)
class Preference:
    """Which of several alike rows stays: the `first`, the `longest`, or that with the highest number in a column.

    `first` is by id, `longest` by the characters of `columns`; any other `keep` names the column of numbers. Ties go to
    the smallest id, then to the smallest hash of the row.
    """

    keep: str = FIRST
    columns: tuple[str, ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        """Return the columns that decide, besides the id."""
        return {FIRST: (), LONGEST: self.columns}.get(self.keep, (self.keep,))

    def rank(self, batch: pa.RecordBatch) -> pl.DataFrame:
        """Return `cost`, `name` and `tie`, by which rows are to be sorted: float64, text, uint64."""
        cost = np.zeros(batch.num_rows)
        if self.keep == LONGEST:
            for name in self.columns:
                cost -= pc.fill_null(pc.utf8_length(batch.column(name)), 0).to_numpy(zero_copy_only=False)
        elif self.keep != FIRST:
            cost -= (
                pc.cast(batch.column(self.keep), pa.float64(), safe=False)
                .fill_null(-np.inf)
                .to_numpy(zero_copy_only=False)
            )
        return pl.DataFrame({"cost": cost, "name": pl.from_arrow(batch.column("id")), "tie": row_hashes(batch)})


def drop_repeats(members: pl.DataFrame, repeated: ndarray, reason: str) -> Iterator[Keyed]:
    """Drop the members that repeat another, and name it.

    `repeated` has that one's number among them, or -1.
    """
    # names [a, b, c], repeated [-1, -1, 0] → c is dropped as the duplicate of a
    dropped = np.flatnonzero(repeated >= 0)
    repeated_names = members["name"].gather(repeated[dropped])
    yield from to_decisions(members[dropped].with_columns(duplicate_of=repeated_names, drop_reason=pl.lit(reason)))
