"""A table on disk: its shards in order, as its manifest, a folder or a glob lists them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from schemas.errors import UsageError
from schemas.names import check_name
from transforms.tables import storage
from transforms.tables.identity import content_id
from transforms.tables.shards import Shard, Target, read_shard, rows_and_schema, rows_at

if TYPE_CHECKING:
    import datasets
    import polars

SAMPLE_STRETCHES = 16
MANIFEST = "manifest.json"
MEND = "remove this file, and the command that wrote it goes on from what is there"


@dataclass(frozen=True)
class Table:
    """A table on disk: its shards, in order, and their common schema."""

    path: str
    shards: tuple[Shard, ...]
    schema: pa.Schema

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def digest(self) -> str:
        """Return what stands for the content in the identity of a stage that reads it.

        Not of the bytes where no manifest has their digest, because reading a corpus twice would cost more than it
        tells.
        """
        return content_id(self.schema.to_string(), *(f"{shard.name} {shard.mark}" for shard in self.shards))

    @property
    def targets(self) -> dict[int, Target]:
        """Return the target of every shard, by its index, for a stage that writes one shard of each."""
        return {
            shard.index: Target(shard.name or f"shard-{shard.index:05d}", shard.mark, shard.rows)
            for shard in self.shards
        }

    def head(self, limit: int | None) -> "Table":
        """Return the first `limit` rows (all of them for None); shards without a row are left out."""
        room, shards = self.rows if limit is None else limit, []
        for shard in self.shards:
            rows = min(room, shard.rows)
            room -= rows
            if rows:
                shards.append(replace(shard, rows=rows))
        return Table(self.path, tuple(shards), self.schema)

    def sample(self, rows: int, columns: list[str]) -> pa.Table:
        """Return about so many rows, in stretches from the first to the last.

        The row groups that hold them are read.
        """
        # 6 of 100 rows: 6 stretches of 1 → [0 19 39 59 79 99]
        # 20 of 100 rows: 16 stretches of 2, starts [0 6 13 … 98] → [0 1 6 7 13 14 … 98 99], 32 of them
        stretches = min(rows, SAMPLE_STRETCHES)
        length = -(-rows // stretches)
        starts = np.linspace(0, max(0, self.rows - length), stretches, dtype=np.int64)
        numbers = np.unique(starts[:, None] + np.arange(length))
        parts = [pa.schema([self.schema.field(name) for name in columns]).empty_table()]
        first = 0
        for shard in self.shards:
            parts += rows_at(shard, numbers[(numbers >= first) & (numbers < first + shard.rows)] - first, columns)
            first += shard.rows
        return pa.concat_tables(parts)

    def batches(self, columns: list[str] | None = None, chunk_rows: int | None = None) -> Iterator[pa.RecordBatch]:
        for shard in self.shards:
            for chunk in read_shard(shard, columns, None, chunk_rows):
                yield chunk.batch

    def to_arrow(self, columns: list[str] | None = None) -> pa.Table:
        """Return the whole table in memory: for small ones, such as seeds and topics."""
        schema = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
        return pa.Table.from_batches(self.batches(columns), schema)

    def to_polars(self, columns: list[str] | None = None) -> "polars.DataFrame":
        """Return the whole table in memory as a polars data frame."""
        import polars

        return polars.DataFrame(polars.from_arrow(self.to_arrow(columns)))

    def to_datasets(self, columns: list[str] | None = None) -> "datasets.Dataset":
        """Return the whole table in memory as a Hugging Face dataset."""
        import datasets

        return datasets.Dataset(datasets.table.InMemoryTable(self.to_arrow(columns)))


def read_table(path: str, name: str | None = None) -> Table:
    """Return the table at `path`: a stage directory, a Parquet file, a folder or a glob.

    Of a stage directory it is the table `name`, or the only one. Raises UsageError naming the file that is missing,
    truncated, or whose columns differ from the first shard's.
    """
    manifest_path = storage.join(path, MANIFEST)
    digests: dict[str, str] = {}
    root = path
    if name is not None or storage.exists(manifest_path):
        tables = read_manifest(path).get("tables")
        if not tables:
            raise UsageError(f"{path}: its {MANIFEST} lists no table")
        name = name or next(iter(tables))
        if name not in tables:
            raise UsageError(f"{path}: has no table {name!r}; it holds {', '.join(tables)}")
        root = storage.join(path, check_name(name, manifest_path))
        for shard in tables[name]["shards"]:
            inside = check_name(str(shard["path"]).removeprefix(f"{name}/"), manifest_path)
            digests[storage.join(root, inside)] = shard["digest"]
        files = list(digests)
        if not files:
            return Table(path, (), pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(tables[name]["schema_ipc"]))))
    elif storage.is_directory(path):
        files = storage.list_in(path, "**/*.parquet")
    elif storage.is_pattern(path):
        files, root = storage.list_files(path), storage.fixed_part(path)
    else:
        files, root = [path] if storage.exists(path) else [], storage.folder_of(path)
    if not files:
        raise UsageError(f"{path}: no Parquet file there")
    shards, schema = [], None
    footers = storage.for_each(rows_and_schema, files)
    for index, (file, (rows, file_schema)) in enumerate(zip(files, footers, strict=True)):
        schema = schema or file_schema
        if not file_schema.equals(schema):
            raise UsageError(f"{file}: its columns differ from the first file's: {_difference(schema, file_schema)}")
        name_of_file = storage.relative(file, root).removesuffix(".parquet")
        shards.append(Shard(index, file, rows, digests.get(file, ""), name_of_file))
    return Table(path, tuple(shards), schema)


def read_manifest(directory: str) -> dict:
    """Return what a stage wrote about its results; UsageError where the file is missing or damaged."""
    path = storage.join(directory, MANIFEST)
    try:
        manifest = storage.read_json(path)
    except UsageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise
        raise UsageError(f"{error}; {MEND}") from error
    for name in ("tables", "counts", "identity"):
        if not isinstance(manifest.get(name, {}), dict):
            raise UsageError(f"{path}: {name}: expected names and values; {MEND}")
    return manifest


def _difference(ours: pa.Schema, theirs: pa.Schema) -> str:
    here, there = {str(field) for field in ours}, {str(field) for field in theirs}
    return f"missing {sorted(here - there)}, more {sorted(there - here)}"
