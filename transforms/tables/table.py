"""Tables on disk and batches in Beam.

A table is a list of Parquet shards. It is read as `Chunk`s, slices that know their shard and first row, and written
by `WriteTables`: part files for runs of chunks, joined per shard, listed in a `manifest.json` that is written last. A
part of a bundle that is replayed is left behind and removed in the end; a shard that is complete is not done again.
"""

import struct
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from schemas.errors import StageError, UsageError
from transforms.tables import storage
from transforms.tables.identity import content_id
from transforms.tables.marks import kept

CHUNK_ROWS = 1024  # where a row costs a model's answer
HASHED_ROWS = 16384  # where it costs microseconds
CHUNK_BYTES = 4 << 20
GROUP_ROWS = 16384
BLOCK_ROWS = 16
SAMPLE_PLACES = 16
GROUP_BYTES = 64 << 20
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows [first_row, first_row + rows) of a shard, as they stand now: a transform may change the batch, never
    the range of input rows it accounts for."""

    shard: int
    first_row: int
    rows: int
    batch: pa.RecordBatch

    def with_batch(self, batch: pa.RecordBatch) -> "Chunk":
        return Chunk(self.shard, self.first_row, self.rows, batch)


def end_of_shard(shard: int, rows: int) -> Chunk:
    """What follows the last chunk of a shard whose rows nobody knew before."""
    return Chunk(shard, rows, 0, pa.RecordBatch.from_arrays([], schema=pa.schema([])))


class ChunkCoder(beam.coders.Coder):
    """Arrow IPC: unlike a pickle, it carries the slice and not the buffer that the slice was cut from."""

    _place = struct.Struct("<qqq")

    def encode(self, chunk: Chunk) -> bytes:
        sink = pa.BufferOutputStream()
        sink.write(self._place.pack(chunk.shard, chunk.first_row, chunk.rows))
        with pa.ipc.new_stream(sink, chunk.batch.schema) as writer:
            writer.write_batch(chunk.batch)
        return sink.getvalue().to_pybytes()

    def decode(self, encoded: bytes) -> Chunk:
        shard, first_row, rows = self._place.unpack_from(encoded)
        with pa.ipc.open_stream(pa.py_buffer(encoded)[self._place.size :]) as reader:
            return Chunk(shard, first_row, rows, reader.read_next_batch())

    def estimate_size(self, chunk: Chunk) -> int:
        return chunk.batch.nbytes  # Beam's counters would encode a chunk to learn its size

    def is_deterministic(self) -> bool:
        return True


beam.coders.registry.register_coder(Chunk, ChunkCoder)


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
        """What changes with its rows: from the manifest's digest, else from the file's size and time of change."""
        return content_id(str(self.rows), self.digest or storage.mark(self.path))


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
        """What stands for the content in the identity of a stage that reads it.

        Not of the bytes where no manifest has their digest, for reading a corpus twice would cost more than it tells.
        """
        return content_id(self.schema.to_string(), *(f"{shard.name} {shard.mark}" for shard in self.shards))

    @property
    def targets(self) -> dict[int, Target]:
        """What is written by a stage that makes one shard of each, by the shard's index."""
        return {
            shard.index: Target(shard.name or f"shard-{shard.index:05d}", shard.mark, shard.rows)
            for shard in self.shards
        }

    def head(self, limit: int | None) -> "Table":
        """The first `limit` rows (all of them for None); shards without a row are left out."""
        room, shards = self.rows if limit is None else limit, []
        for shard in self.shards:
            rows = min(room, shard.rows)
            room -= rows
            if rows:
                shards.append(replace(shard, rows=rows))
        return Table(self.path, tuple(shards), self.schema)

    def sample(self, rows: int, columns: list[str]) -> pa.Table:
        """About so many rows, from SAMPLE_PLACES places between the first and the last; their row groups are read."""
        places = min(rows, SAMPLE_PLACES)
        neighbours = -(-rows // places)
        starts = np.linspace(0, max(0, self.rows - neighbours), places, dtype=np.int64)
        found = np.unique(starts[:, None] + np.arange(neighbours))
        parts = [pa.schema([self.schema.field(name) for name in columns]).empty_table()]
        first = 0
        for shard in self.shards:
            parts += _rows_at(shard, found[(found >= first) & (found < first + shard.rows)] - first, columns)
            first += shard.rows
        return pa.concat_tables(parts)

    def batches(self, columns: list[str] | None = None, chunk_rows: int | None = None) -> Iterator[pa.RecordBatch]:
        for shard in self.shards:
            for chunk in read_shard(shard, columns, None, chunk_rows):
                yield chunk.batch

    def to_arrow(self, columns: list[str] | None = None) -> pa.Table:
        """The whole table in memory: for small ones, such as seeds and topics."""
        schema = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
        return pa.Table.from_batches(self.batches(columns), schema)


def read_table(path: str, name: str | None = None) -> Table:
    """The table at `path`: a stage directory (table `name`, or its only one), a Parquet file, a folder or a glob.

    Raises UsageError naming the file that is missing, truncated, or whose columns differ from the first shard's.
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
        root = storage.join(path, storage.check_name(name, manifest_path))
        for shard in tables[name]["shards"]:
            inside = storage.check_name(str(shard["path"]).removeprefix(f"{name}/"), manifest_path)
            digests[storage.join(root, inside)] = shard["digest"]
        files = list(digests)
        if not files:
            return Table(path, (), pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(tables[name]["schema_ipc"]))))
    elif storage.is_directory(path):
        files = storage.list_in(path, "**/*.parquet")
    elif any(mark in path for mark in "*?["):
        files, root = storage.list_files(path), storage.fixed_part(path)
    else:
        files, root = [path] if storage.exists(path) else [], storage.fixed_part(path)
    if not files:
        raise UsageError(f"{path}: no Parquet file there")
    shards, schema = [], None
    found = storage.for_each(_rows_and_schema, files)
    for index, (file, (rows, file_schema)) in enumerate(zip(files, found, strict=True)):
        schema = schema or file_schema
        if not file_schema.equals(schema):
            raise UsageError(f"{file}: its columns differ from the first file's: {_difference(schema, file_schema)}")
        name_of_file = storage.relative(file, root).removesuffix(".parquet")
        shards.append(Shard(index, file, rows, digests.get(file, ""), name_of_file))
    return Table(path, tuple(shards), schema)


def read_manifest(directory: str) -> dict:
    return storage.read_json(storage.join(directory, MANIFEST))


def _parquet_footer(path: str) -> tuple[pq.FileMetaData, pa.Schema]:
    fs, local = storage.filesystem(path)
    try:
        with fs.open(local, "rb") as file:
            parquet = pq.ParquetFile(file)
            return parquet.metadata, parquet.schema_arrow.remove_metadata()
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise UsageError(f"{path}: not a whole Parquet file ({error})") from error


def _rows_and_schema(path: str) -> tuple[int, pa.Schema]:
    metadata, schema = _parquet_footer(path)
    return metadata.num_rows, schema


def _difference(ours: pa.Schema, theirs: pa.Schema) -> str:
    here, there = {str(field) for field in ours}, {str(field) for field in theirs}
    return f"missing {sorted(here - there)}, more {sorted(there - here)}"


def read_shard(
    shard: Shard, columns: list[str] | None, row_group: int | None, chunk_rows: int | None = None
) -> Iterator[Chunk]:
    """The chunks of a shard, or of one of its row groups: at most `chunk_rows` (default CHUNK_ROWS) rows and about
    CHUNK_BYTES each."""
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


def _rows_at(shard: Shard, rows: np.ndarray, columns: list[str]) -> Iterator[pa.Table]:
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
    """The row groups of a shard that hold rows of the table."""
    metadata, _ = _parquet_footer(shard.path)
    first_row = 0
    for group in range(metadata.num_row_groups):
        if first_row < shard.rows:
            yield shard, group
        first_row += metadata.row_group(group).num_rows


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
class MapBatches(beam.PTransform):
    """Apply pure functions RecordBatch -> RecordBatch, in order."""

    functions: tuple[Callable[[pa.RecordBatch], pa.RecordBatch], ...]

    def __init__(self, *functions: Callable[[pa.RecordBatch], pa.RecordBatch]):
        super().__init__()
        self.functions = functions

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Chunk]:
        return chunks | beam.Map(self._apply).with_output_types(Chunk)

    def _apply(self, chunk: Chunk) -> Chunk:
        batch = chunk.batch
        for function in self.functions:
            batch = function(batch)
        return chunk.with_batch(batch)


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
    """Columns of a file; `mark` tells its content from what was there before."""
    fs, local = storage.filesystem(path)
    with fs.open(local, "rb") as file:
        return pq.read_table(file, columns=list(columns))


Split = Callable[[Chunk], dict[str, pa.RecordBatch]]


@dataclass(frozen=True)
class SplitMarks:
    """Part a chunk into the table `name`, its `drops` and its `rejects` by the marks of transforms.tables.marks."""

    name: str

    def __call__(self, chunk: Chunk) -> dict[str, pa.RecordBatch]:
        batch = chunk.batch
        parts = {self.name: batch.filter(kept(batch))}
        names = batch.schema.names
        failed = pc.is_valid(batch.column("error")) if "error" in names else None
        if failed is not None:
            parts["rejects"] = batch.filter(failed)
        if "drop_reason" in names:
            dropped = pc.is_valid(batch.column("drop_reason"))
            parts["drops"] = batch.filter(pc.and_not(dropped, failed) if failed is not None else dropped)
        return parts


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with exactly the columns of `schema`: absent ones null, others left out.

    Raises StageError naming the column whose type does not fit.
    """
    columns = []
    for field in schema:
        index = batch.schema.get_field_index(field.name)
        if index < 0:
            columns.append(pa.nulls(batch.num_rows, field.type))
            continue
        try:
            columns.append(batch.column(index).cast(field.type))
        except pa.ArrowInvalid as error:
            raise StageError(f"column {field.name!r} does not fit {field.type}: {error}") from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def write_tables(
    directory: str, tables: dict[str, pa.Table], about: dict, shard_rows: int, counts: dict | None = None
) -> None:
    """Write tables that are in memory, cut into shards of `shard_rows`, and the manifest; for what a driver makes."""
    listed = {}
    for name, table in tables.items():
        shards = []
        for index, start in enumerate(range(0, max(1, table.num_rows), shard_rows)):
            path = f"{name}/shard-{index:05d}.parquet"
            part = table.slice(start, shard_rows)
            with storage.open_output(storage.join(directory, path)) as sink:
                pq.write_table(part, sink, compression="zstd", row_group_size=GROUP_ROWS)
            digest, size = storage.content_digest(storage.join(directory, path))
            shards.append({"path": path, "rows": part.num_rows, "bytes": size, "digest": digest})
        listed[name] = _describe(table.schema) | {"rows": table.num_rows, "shards": shards}
    rows = next(iter(tables.values())).num_rows
    counts = counts or {"in": rows, "kept": rows, "drops": {}, "rejects": {}}
    storage.write_json(storage.join(directory, MANIFEST), {**about, "tables": listed, "counts": counts, "seconds": 0.0})


def _describe(schema: pa.Schema) -> dict:
    return {
        "rows": 0,
        "schema": [f"{field.name}: {field.type}" for field in schema],
        "schema_ipc": schema.serialize().to_pybytes().hex(),
        "shards": [],
    }


@dataclass
class WriteTables(beam.PTransform):
    """Write chunks as one shard per input shard and table, then the manifest. Gives the manifest's path, or None.

    `schemas` names the tables, the main one first: it has a file for every shard, the others only where they have
    rows. `split` parts a chunk into these tables. `targets` names the files by the shard's index. All of them must be
    there before the manifest is written; those in the directory already, from a run before, count if they were made of
    the same content. A `partial` task writes its shards and leaves the manifest to the task that completes them.

    A shard whose rows all pass in one bundle is complete then and there; of others, the parts are joined in the end.
    """

    directory: str
    schemas: dict[str, pa.Schema]
    split: Split
    targets: Mapping[int, Target]
    about: dict
    partial: bool = False

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[str | None]:
        entries = (
            chunks
            | "WriteParts" >> beam.ParDo(_WriteParts(self)).with_output_types(tuple[int, dict])
            | "GroupByShard" >> beam.GroupByKey()
            | "JoinShard" >> beam.MapTuple(self.join)
        )
        return (
            chunks.pipeline
            | "Commit" >> beam.Create([time.time()])
            | "WriteManifest" >> beam.Map(self._commit, beam.pvalue.AsList(entries))
        )

    def join(self, shard: int, parts: Iterable[dict]) -> int:
        """Make a shard's files of its parts, and the entry that says so."""
        parts = sorted(parts, key=lambda part: part["first_row"])
        target = self.targets[shard]
        written = [file for part in parts for file in part["files"].values()]
        if storage.exists(_entry_path(self.directory, target.name)) and not all(map(storage.exists, written)):
            return shard  # a replay, after all was done
        entry = {"name": target.name, "mark": target.mark, "in": sum(part["rows"] for part in parts), "tables": {}}
        if target.rows not in (None, entry["in"]):
            raise StageError(
                f"{target.name}: {entry['in']:,} of its {target.rows:,} rows were read; it was changed meanwhile. "
                "Run the same command again"
            )
        for reasons in ("drops", "rejects"):
            entry[reasons] = dict(sum((Counter(part[reasons]) for part in parts), Counter()))
        for position, (name, schema) in enumerate(self.schemas.items()):
            files = [part["files"][name] for part in parts if name in part["files"]]
            if files or position == 0:
                path = f"{name}/{target.name}.parquet"
                entry["tables"][name] = {"path": path} | _join_files(files, storage.join(self.directory, path), schema)
        storage.write_json(_entry_path(self.directory, target.name), entry)
        for file in written:
            storage.remove(file)
        return shard

    def _commit(self, started: float, _: list) -> str | None:
        entries = list(complete_entries(self.directory, self.targets).values())
        if self.partial and len(entries) < len(self.targets):
            return None
        if len(entries) != len(self.targets):
            raise StageError(
                f"{self.directory}: {len(entries)} of {len(self.targets)} shards are complete; run the command again"
            )
        tables = {name: _describe(schema) for name, schema in self.schemas.items()}
        drops: Counter[str] = Counter()
        rejects: Counter[str] = Counter()
        for entry in entries:
            drops.update(entry["drops"])
            rejects.update(entry["rejects"])
            for name, shard in entry["tables"].items():
                tables[name]["shards"].append(shard)
                tables[name]["rows"] += shard["rows"]
        main = next(iter(self.schemas))
        counts = {
            "in": sum(entry["in"] for entry in entries),
            "kept": tables[main]["rows"],
            "drops": dict(drops.most_common()),
            "rejects": dict(rejects.most_common()),
        }
        path = storage.join(self.directory, MANIFEST)
        storage.remove(storage.join(self.directory, "parts"))
        storage.write_json(path, {**self.about, "tables": tables, "counts": counts, "seconds": time.time() - started})
        return path


def _entry_path(directory: str, name: str) -> str:
    return storage.join(directory, "entries", f"{name}.json")


def read_entries(directory: str) -> dict[str, dict]:
    """Return what is known of the shards that are complete in a stage directory, by the name of their files, in order.

    UsageError where an entry tells of other files than those of its own name.
    """
    home = storage.join(directory, "entries")
    files = storage.files_below(home, lambda path: path.endswith(".json"))
    entries = {}
    for file, entry in zip(files, storage.for_each(storage.read_json, files), strict=True):
        name = storage.relative(file, home).removesuffix(".json")
        shards = {storage.check_name(table, file): shard["path"] for table, shard in entry["tables"].items()}
        if entry["name"] != name or shards != {table: f"{table}/{name}.parquet" for table in shards}:
            raise UsageError(
                f"{file}: names the files of another shard, {[entry['name'], *shards.values()]}; remove it"
            )
        entries[name] = entry
    return entries


def complete_entries(directory: str, targets: Mapping[int, Target]) -> dict[int, dict]:
    """The entries of those targets that are complete, made of the content as it is now; by index, in order."""
    entries = read_entries(directory)
    found = {index: entries.get(target.name) for index, target in sorted(targets.items())}
    return {index: entry for index, entry in found.items() if entry and entry["mark"] == targets[index].mark}


class _ShardFile:
    """A Parquet file in row groups of GROUP_ROWS rows, or fewer where they are large; there once it is closed.

    The row groups are the same however the rows are cut into batches: they end at blocks of BLOCK_ROWS rows.
    """

    def __init__(self, path: str, schema: pa.Schema):
        self.path = path
        self._batches: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        self._file = ExitStack()
        sink = self._file.enter_context(storage.open_output(path))
        self._writer = self._file.enter_context(pq.ParquetWriter(sink, schema, compression="zstd"))

    def write(self, batch: pa.RecordBatch) -> None:
        size = sum(map(_bytes_of, batch.columns))
        if self._rows + batch.num_rows < GROUP_ROWS and self._bytes + size < GROUP_BYTES:
            self._add(batch, size)
            return
        while batch.num_rows:
            piece = batch.slice(0, BLOCK_ROWS - self._rows % BLOCK_ROWS)
            batch = batch.slice(piece.num_rows)
            self._add(piece, sum(map(_bytes_of, piece.columns)))
            if self._rows % BLOCK_ROWS == 0 and (self._rows == GROUP_ROWS or self._bytes >= GROUP_BYTES):
                self._flush()

    def _add(self, batch: pa.RecordBatch, size: int) -> None:
        self._batches.append(batch)
        self._rows += batch.num_rows
        self._bytes += size

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._file.close()

    def __del__(self) -> None:
        with suppress(BaseException):  # given up: nothing of it stays
            self._file.__exit__(GeneratorExit, GeneratorExit(), None)

    def _flush(self) -> None:
        try:
            rows = pa.Table.from_batches(self._batches).combine_chunks()  # else pages end where batches did
            self._writer.write_table(rows, row_group_size=GROUP_ROWS)
        except BaseException as error:
            self._file.__exit__(type(error), error, error.__traceback__)
            raise
        self._batches, self._rows, self._bytes = [], 0, 0


def _bytes_of(values: pa.Array) -> int:
    """How many bytes the values of an array take; unlike `nbytes`, the sum of those of its parts, however it is cut."""
    if isinstance(values, pa.StructArray):
        return sum(map(_bytes_of, values.flatten()))
    if isinstance(values, pa.MapArray):
        first, end = values.offsets[0].as_py(), values.offsets[-1].as_py()
        return sum(_bytes_of(part.slice(first, end - first)) for part in (values.keys, values.items))
    if isinstance(values, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        return _bytes_of(values.flatten())
    if isinstance(values, pa.StringArray | pa.LargeStringArray | pa.BinaryArray | pa.LargeBinaryArray):
        return pc.sum(pc.binary_length(values)).as_py() or 0
    try:
        return len(values) * max(8, values.type.bit_width) // 8
    except ValueError:  # views: not counted
        return 0


def _join_files(parts: list[str], path: str, schema: pa.Schema) -> dict:
    """Make one file of the parts, which a single part is already; what the manifest says of it."""
    if len(parts) == 1:
        storage.move(parts[0], path)
    else:
        joined = _ShardFile(path, schema)
        for part in parts:
            for chunk in read_shard(Shard(0, part, _parquet_footer(part)[0].num_rows), None, None):
                joined.write(chunk.batch)
        joined.close()
    digest, size = storage.content_digest(path)
    return {"rows": _parquet_footer(path)[0].num_rows, "bytes": size, "digest": digest}


class _WriteParts(beam.DoFn):
    """Write neighbouring chunks of a shard as one part, a file for each table that has rows.

    Says what it wrote of shards of which it had not all rows; the others it completes.
    """

    shard: int
    first_row: int
    rows: int
    files: dict[str, _ShardFile]
    reasons: dict[str, Counter[str]]
    parts: dict[int, list[dict]]
    ends: dict[int, int]  # of the shards of which an end has been seen, how many rows they have

    def __init__(self, tables: WriteTables):
        self.tables = tables

    def start_bundle(self) -> None:
        self.parts, self.ends = {}, {}
        self._begin(-1, -1)

    def process(self, chunk: Chunk) -> None:
        if not chunk.rows:
            self.ends[chunk.shard] = chunk.first_row
            return
        if chunk.shard != self.shard or chunk.first_row != self.first_row + self.rows:
            self._finish()
            self._begin(chunk.shard, chunk.first_row)
        self.rows += chunk.rows
        for name, batch in self.tables.split(chunk).items():
            if batch.num_rows:
                schema = self.tables.schemas[name]
                if name not in self.files:
                    self.files[name] = _ShardFile(self._part(name), schema)
                batch = conform(batch, schema)
                self.files[name].write(batch)
                if name in self.reasons:
                    counted = batch.column("drop_reason" if name == "drops" else "error").value_counts()
                    for reason, rows in zip(*(field.to_pylist() for field in counted.flatten()), strict=True):
                        self.reasons[name][str(reason).split(":")[0]] += rows

    def finish_bundle(self) -> Iterator[WindowedValue]:
        self._finish()
        for shard, parts in self.parts.items():
            for part in parts:
                yield WindowedValue((shard, part), GlobalWindow().max_timestamp(), [GlobalWindow()])

    def _begin(self, shard: int, first_row: int) -> None:
        self.shard, self.first_row, self.rows = shard, first_row, 0
        self.files, self.reasons = {}, {"drops": Counter(), "rejects": Counter()}

    def _part(self, table: str) -> str:
        """A name of its own for every attempt, for one that is given up may still be writing."""
        name = f"{table}-{self.shard:05d}-{self.first_row:012d}-{uuid.uuid4().hex[:8]}.parquet"
        return storage.join(self.tables.directory, "parts", name)

    def _finish(self) -> None:
        if not self.rows:
            return
        for file in self.files.values():
            file.close()
        files = {name: file.path for name, file in self.files.items()}
        part = {"first_row": self.first_row, "rows": self.rows, "files": files, **self.reasons}
        parts = self.parts.setdefault(self.shard, [])
        parts.append(part)
        expected = self.tables.targets[self.shard].rows
        if sum(part["rows"] for part in parts) == (self.ends.get(self.shard) if expected is None else expected):
            self.tables.join(self.shard, self.parts.pop(self.shard))
        self.rows = 0
