"""Quotas: at most so many rows for every value of a column, such as a topic or a document."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from transforms.curation.decisions import by_bucket, one_batch, to_decisions, undecided
from transforms.curation.preference import row_hashes
from transforms.tables.chunks import Chunk, Keyed
from transforms.texts.shingles import scramble
from transforms.texts.words import byte_hashes


@dataclass
class DropOverQuota(beam.PTransform):
    """Decisions that drop, of every value of `column`, all rows but `most`; a row without a value counts for none.

    Which rows stay is a draw that the seed and each row's content decide: the same in any order, and of the rows that
    were there, added ones can only push some out.
    """

    column: str
    most: int
    seed: int
    buckets: int

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Keyed]:
        return (
            chunks
            | "Values" >> beam.FlatMap(self._values).with_output_types(Keyed)
            | "ByValue" >> beam.GroupByKey()
            | "Draw" >> beam.FlatMapTuple(self._draw).with_output_types(Keyed)
        )

    def _values(self, chunk: Chunk) -> Iterator[Keyed]:
        batch, rows = undecided(chunk)
        rows = rows[pc.is_valid(batch.column(self.column)).to_numpy(zero_copy_only=False)]
        batch = batch.filter(pc.is_valid(batch.column(self.column)))
        if batch.num_rows:
            values = byte_hashes(batch.column(self.column).cast(pa.string()))
            draws = scramble(row_hashes(batch) ^ np.uint64(xxhash.xxh3_64_intdigest(f"quota {self.seed}".encode())))
            members = pl.DataFrame({"value": values, "draw": draws, "row": rows}).with_columns(
                shard=pl.lit(chunk.shard)
            )
            yield from by_bucket(one_batch(members), values, self.buckets)

    def _draw(self, bucket: int, batches: Iterable[pa.RecordBatch]) -> Iterator[Keyed]:
        members = pl.from_arrow(pa.Table.from_batches(batches)).sort("draw", "shard", "row")
        over = members.filter(pl.int_range(pl.len()).over("value") >= self.most)
        yield from to_decisions(over.with_columns(drop_reason=pl.lit("over_quota")))
