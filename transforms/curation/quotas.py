"""Quotas: at most so many rows for every value of a column, such as a topic or a document."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from transforms.curation.decisions import by_bucket, kept_rows, one_batch, to_decisions
from transforms.curation.preference import row_hashes
from transforms.tables.chunks import Chunk, Keyed
from transforms.texts.shingles import scramble
from transforms.texts.words import byte_hashes


@dataclass
class DropOverQuota(beam.PTransform):
    """Drop all rows but `most` of every value of `column`; a row without a value counts for none.

    The seed and each row's content decide which rows stay: the order does not matter, and rows that are added can only
    push some of the earlier ones out.
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
        batch, rows = kept_rows(chunk)
        has_value = pc.is_valid(batch.column(self.column))
        batch, rows = batch.filter(has_value), rows[has_value.to_numpy(zero_copy_only=False)]
        if batch.num_rows:
            values = byte_hashes(batch.column(self.column).cast(pa.string()))
            salt = np.uint64(xxhash.xxh3_64_intdigest(f"quota {self.seed}".encode()))
            members = pl.DataFrame({"value": values, "draw": scramble(row_hashes(batch) ^ salt), "row": rows})
            yield from by_bucket(one_batch(members.with_columns(shard=pl.lit(chunk.shard))), values, self.buckets)

    def _draw(self, bucket: int, batches: Iterable[pa.RecordBatch]) -> Iterator[Keyed]:
        # at most 1: values [x, y, x] in the order of their draws → rank [0, 0, 1] within the value → the last is over
        members = pl.from_arrow(pa.Table.from_batches(batches)).sort("draw", "shard", "row")
        rank = pl.int_range(pl.len()).over("value")
        over = members.filter(rank >= self.most)
        yield from to_decisions(over.with_columns(drop_reason=pl.lit("over_quota")))
