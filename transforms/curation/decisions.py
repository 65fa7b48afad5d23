"""Decisions about rows, by shard and row number: what crosses a shuffle in place of text.

Steps that compare rows with each other (duplicates, clusters) send hashes and row numbers through a shuffle and end in
decisions: for one shard, a batch of row numbers and marks. `OpenShards` groups them by shard, opens each shard once and
yields its chunks with the marks as columns. A row gets at most one drop decision: each step looks at what is left.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from transforms.tables import progress
from transforms.tables.chunks import HASHED_ROWS, Chunk, Keyed
from transforms.tables.marks import kept
from transforms.tables.table import Table

MARKS = ("drop_reason", "duplicate_of", "leaked_from", "cluster")
DECISIONS = pa.schema([("row", pa.int64()), *((name, pa.string()) for name in MARKS)])


def to_decisions(rows: pl.DataFrame) -> Iterator[Keyed]:
    """Make decisions from a frame, one batch per shard.

    The frame has columns `shard`, `row` and any of the marks.
    """
    marks = [pl.col(name) if name in rows.columns else pl.lit(None, pl.String).alias(name) for name in MARKS]
    rows = rows.select("shard", "row", *marks)
    for (shard,), of_shard in rows.partition_by("shard", as_dict=True, include_key=False).items():
        yield int(shard), one_batch(of_shard).cast(DECISIONS)


def one_batch(frame: pl.DataFrame) -> pa.RecordBatch:
    """Return a frame as a single Arrow batch."""
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks()
    return table.to_batches()[0] if len(table) else pa.RecordBatch.from_pylist([], table.schema)


def decisions_of(chunk: Chunk) -> Iterator[Keyed]:
    """Return the marks that a chunk's rows carry already, as decisions.

    There are none for a chunk without a marked row.
    """
    is_marked = pc.is_valid(chunk.batch.column("drop_reason"))
    rows = np.flatnonzero(is_marked) + chunk.first_row
    if len(rows):
        batch = chunk.batch.filter(is_marked)
        marks = [
            batch.column(name) if name in batch.schema.names else pa.nulls(len(rows), pa.string()) for name in MARKS
        ]
        yield chunk.shard, pa.RecordBatch.from_arrays([pa.array(rows), *marks], schema=DECISIONS)


def kept_rows(chunk: Chunk) -> tuple[pa.RecordBatch, np.ndarray]:
    """Return the kept rows of a chunk, and their numbers in the shard."""
    is_kept = kept(chunk.batch)
    return chunk.batch.filter(is_kept), np.flatnonzero(is_kept) + chunk.first_row


def by_bucket(batch: pa.RecordBatch, keys: np.ndarray, buckets: int) -> Iterator[Keyed]:
    """Part a batch into `buckets`, rows with equal keys (uint64) in the same one."""
    # keys [5, 4, 9], 3 buckets → bucket [2, 1, 0] → rows in the order [2, 1, 0], ends [1, 2, 3]
    if buckets == 1:
        yield 0, batch
        return
    bucket = (keys % np.uint64(buckets)).astype(np.uint16)  # NumPy sorts small integers in linear time
    batch = batch.take(pa.array(np.argsort(bucket, kind="stable")))
    ends = np.cumsum(np.bincount(bucket, minlength=buckets))
    for index, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        if start < end:
            yield index, batch.slice(start, end - start)


def with_decisions(batch: pa.RecordBatch, first_row: int, decisions: pa.Table) -> pa.RecordBatch:
    """Add the marks decided for a batch's rows as columns.

    The rows begin at `first_row` of their shard.
    """
    # a batch of rows [10, 11, 12], decisions about rows [4, 12, 10] → inside [1, 2] → source [2, -1, 1], null for -1
    rows = decisions.column("row").to_numpy()
    inside = np.flatnonzero((first_row <= rows) & (rows < first_row + batch.num_rows))
    source = np.full(batch.num_rows, -1)
    source[rows[inside] - first_row] = inside
    source = pa.array(source, mask=source < 0)
    for name in MARKS:
        batch = batch.append_column(name, decisions.column(name).combine_chunks().take(source))
    return batch


@dataclass
class OpenShards(beam.PTransform):
    """Open a table's shards and add the decisions about their rows as columns.

    columns: those that are read (None: all). skip: shards that are left out. step: what the progress shown calls it.
    """

    table: Table
    step: str
    columns: list[str] | None = None
    skip: frozenset[int] = frozenset()

    def expand(self, decisions: beam.PCollection[Keyed]) -> beam.PCollection[Chunk]:
        nothing = pa.RecordBatch.from_pylist([], DECISIONS)
        every_shard = [(shard.index, nothing) for shard in self.table.shards if shard.index not in self.skip]
        return (
            (decisions, decisions.pipeline | "Shards" >> beam.Create(every_shard).with_output_types(Keyed))
            | beam.Flatten()
            | "ByShard" >> beam.GroupByKey()
            | "Open" >> beam.FlatMapTuple(self._open).with_output_types(Chunk)
        )

    def _open(self, shard: int, batches: Iterable[pa.RecordBatch]) -> Iterator[Chunk]:
        if shard in self.skip:
            return
        decisions = pa.Table.from_batches(batches, DECISIONS).combine_chunks()
        first_row = 0
        for batch in open_shard(self.table, shard, self.columns):
            progress.add(self.step, done=batch.num_rows)
            yield Chunk(shard, first_row, batch.num_rows, with_decisions(batch, first_row, decisions))
            first_row += batch.num_rows


def open_shard(table: Table, index: int, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Read the batches of one shard, in order."""
    shard = next(shard for shard in table.shards if shard.index == index)
    return Table(table.path, (shard,), table.schema).batches(columns, HASHED_ROWS)
