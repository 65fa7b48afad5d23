"""Decisions about rows, by their place: what crosses a shuffle in place of text.

Steps that compare rows with each other (duplicates, clusters) send hashes and places through a shuffle and end in
decisions: for one shard, a batch of row numbers and marks. `OpenShards` groups them by shard, opens that shard once and
gives its chunks with the marks as columns. A row gets at most one drop decision: each step looks at what is left.
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
    """Decisions from a frame with columns `shard`, `row` and any of the marks, one batch per shard."""
    marks = [pl.col(name) if name in rows.columns else pl.lit(None, pl.String).alias(name) for name in MARKS]
    rows = rows.select("shard", "row", *marks)
    for (shard,), of_shard in rows.partition_by("shard", as_dict=True, include_key=False).items():
        yield int(shard), one_batch(of_shard).cast(DECISIONS)


def one_batch(frame: pl.DataFrame) -> pa.RecordBatch:
    """A frame as a single Arrow batch."""
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks()
    return table.to_batches()[0] if len(table) else pa.RecordBatch.from_pylist([], table.schema)


def decisions_of(chunk: Chunk) -> Iterator[Keyed]:
    """The marks that a chunk's rows carry already, as decisions; none for a chunk without a marked row."""
    marked = pc.is_valid(chunk.batch.column("drop_reason"))
    rows = np.flatnonzero(marked) + chunk.first_row
    if len(rows):
        batch = chunk.batch.filter(marked)
        marks = [
            batch.column(name) if name in batch.schema.names else pa.nulls(len(rows), pa.string()) for name in MARKS
        ]
        yield chunk.shard, pa.RecordBatch.from_arrays([pa.array(rows), *marks], schema=DECISIONS)


def undecided(chunk: Chunk) -> tuple[pa.RecordBatch, np.ndarray]:
    """The rows that are still in, and their numbers in the shard."""
    mask = kept(chunk.batch)
    return chunk.batch.filter(mask), np.flatnonzero(mask) + chunk.first_row


def by_bucket(batch: pa.RecordBatch, keys: np.ndarray, buckets: int) -> Iterator[Keyed]:
    """The rows of a batch, those with equal keys (uint64) in the same of `buckets` parts."""
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
    """The batch, whose rows begin at `first_row` of its shard, with the marks decided for them as columns."""
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
    """All chunks of a table with the decisions about their rows as columns.

    `columns` are those read; shards in `skip` are left out; `step` is what the progress shown calls it.
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
    """The batches of one shard, in order."""
    shard = next(shard for shard in table.shards if shard.index == index)
    return Table(table.path, (shard,), table.schema).batches(columns, HASHED_ROWS)
