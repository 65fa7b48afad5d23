"""Reading in Beam: chunks of a table, and columns of another table beside them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from transforms.tables import storage
from transforms.tables.chunks import Chunk
from transforms.tables.shards import Shard, read_shard, row_groups
from transforms.tables.table import Table


@dataclass
class ReadTable(beam.PTransform):
    """Chunks of a table, row group by row group; shards in `skip` are left out."""

    table: Table
    columns: list[str] | None = None
    skip: frozenset[int] = frozenset()
    chunk_rows: int | None = None

    def expand(self, root: beam.Pipeline) -> beam.PCollection[Chunk]:
        shards = [shard for shard in self.table.shards if shard.index not in self.skip]
        return (
            root
            | "Shards" >> beam.Create(shards)
            | "RowGroups" >> beam.FlatMap(row_groups)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.FlatMapTuple(self._read).with_output_types(Chunk)
        )

    def _read(self, shard: Shard, row_group: int) -> Iterator[Chunk]:
        return read_shard(shard, self.columns, row_group, self.chunk_rows)


@dataclass
class JoinRows(beam.PTransform):
    """Add `columns` of another table, whose shards have the same rows in the same order."""

    table: Table
    columns: tuple[str, ...]

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Chunk]:
        return chunks | beam.Map(self._join).with_output_types(Chunk)

    def _join(self, chunk: Chunk) -> Chunk:
        shard = next(shard for shard in self.table.shards if shard.index == chunk.shard)
        rows = _columns_of(shard.path, shard.mark, self.columns).slice(chunk.first_row, chunk.rows).combine_chunks()
        batch = chunk.batch
        for name in self.columns:
            batch = batch.append_column(name, rows.column(name).chunk(0))
        return chunk.with_batch(batch)


@lru_cache(maxsize=2)
def _columns_of(path: str, mark: str, columns: tuple[str, ...]) -> pa.Table:
    """Return columns of a file; `mark` tells its content from what was there before."""
    fs, local = storage.filesystem(path)
    with fs.open(local, "rb") as file:
        return pq.read_table(file, columns=list(columns))
