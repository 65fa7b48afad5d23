"""Shards: the Parquet files of a table, read group by group in slices that know their place."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import StageError, UsageError
from transforms.tables import storage
from transforms.tables.chunks import CHUNK_BYTES, CHUNK_ROWS, Chunk
from transforms.tables.identity import content_id


class Target(NamedTuple):
    """What is written of an input shard: the name of its files, a mark of the content and the rows they are made of."""

    name: str
    mark: str = ""
    rows: int | None = None  # None where they are counted as they are read; an `end_of_shard` may say how many


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a table."""

    index: int
    path: str
    rows: int  # how many of its rows, from the first, belong to the table
    digest: str = ""  # of the file's content, where a manifest gives it
    name: str = ""  # its place in the table, without the ending; files that are made of it have the same

    @cached_property
    def mark(self) -> str:
        """Return what changes with its rows.

        It is the manifest's digest, else the file's size and time of change.
        """
        return content_id(str(self.rows), self.digest or storage.mark(self.path))


def parquet_footer(path: str) -> tuple[pq.FileMetaData, pa.Schema]:
    fs, local = storage.filesystem(path)
    try:
        with fs.open(local, "rb") as file:
            parquet = pq.ParquetFile(file)
            return parquet.metadata, parquet.schema_arrow.remove_metadata()
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise UsageError(f"{path}: not a whole Parquet file ({error})") from error


def rows_and_schema(path: str) -> tuple[int, pa.Schema]:
    metadata, schema = parquet_footer(path)
    return metadata.num_rows, schema


def read_shard(
    shard: Shard, columns: list[str] | None, row_group: int | None, chunk_rows: int | None = None
) -> Iterator[Chunk]:
    """Return the chunks of a shard, or of one row group.

    A chunk has at most `chunk_rows` (default CHUNK_ROWS) rows and about CHUNK_BYTES.
    """
    fs, local = storage.filesystem(shard.path)
    with fs.open(local, "rb") as file:
        parquet = pq.ParquetFile(file)
        if parquet.metadata.num_rows < shard.rows:
            raise StageError(f"{shard.path}: was changed while it was read; run the same command again")
        first_row = 0
        for group in range(parquet.num_row_groups):
            metadata = parquet.metadata.row_group(group)
            if row_group in (None, group):
                bytes_per_row = max(1, metadata.total_byte_size // max(1, metadata.num_rows))
                rows = max(1, min(chunk_rows or CHUNK_ROWS, CHUNK_BYTES // bytes_per_row))
                row = first_row
                groups = parquet.iter_batches(rows, row_groups=[group], columns=columns)
                for batch in groups:
                    batch = batch.slice(0, shard.rows - row).replace_schema_metadata(None)
                    yield Chunk(shard.index, row, batch.num_rows, batch)
                    row += batch.num_rows
                    if row >= shard.rows:
                        return
            first_row += metadata.num_rows
            if first_row >= shard.rows:
                return


def rows_at(shard: Shard, rows: np.ndarray, columns: list[str]) -> Iterator[pa.Table]:
    if not len(rows):
        return
    fs, local = storage.filesystem(shard.path)
    with fs.open(local, "rb") as file:
        parquet = pq.ParquetFile(file)
        metadata = parquet.metadata
        starts = np.cumsum([0, *(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))])
        groups = np.searchsorted(starts, rows, side="right") - 1
        for group in np.unique(groups):
            taken = parquet.read_row_group(group, columns).take(rows[groups == group] - starts[group])
            yield taken.select(columns).replace_schema_metadata(None)


def row_groups(shard: Shard) -> Iterator[tuple[Shard, int]]:
    """Return the row groups of a shard that hold rows of the table."""
    metadata, _ = parquet_footer(shard.path)
    first_row = 0
    for group in range(metadata.num_row_groups):
        if first_row < shard.rows:
            yield shard, group
        first_row += metadata.row_group(group).num_rows
