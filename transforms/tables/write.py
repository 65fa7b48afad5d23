"""Writing in Beam: parts for runs of chunks, joined per shard, listed in a manifest that is written last.

A part of a bundle that is replayed is left behind and removed in the end; a shard that is complete is not done again.
"""

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from schemas.errors import StageError
from transforms.tables import storage
from transforms.tables.chunks import Asked, Chunk
from transforms.tables.entries import complete_entries, entry_path
from transforms.tables.marks import kept
from transforms.tables.shard_file import GROUP_ROWS, ShardFile, conform, join_files
from transforms.tables.shards import Target
from transforms.tables.table import MANIFEST

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


def write_tables(
    directory: str, tables: dict[str, pa.Table], about: dict, shard_rows: int, counts: dict | None = None
) -> None:
    """Write tables that are in memory, cut into shards of `shard_rows`, and the manifest.

    It is for what a driver makes.
    """
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
    storage.write_json(storage.join(directory, MANIFEST), {**about, "tables": listed, "counts": counts})


def _describe(schema: pa.Schema) -> dict:
    return {
        "rows": 0,
        "schema": [f"{field.name}: {field.type}" for field in schema],
        "schema_ipc": schema.serialize().to_pybytes().hex(),
        "shards": [],
    }


@dataclass
class WriteTables(beam.PTransform):
    """Write chunks as one shard per input shard and table, then the manifest. Returns the manifest's path, or None.

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
        if storage.exists(entry_path(self.directory, target.name)) and not all(map(storage.exists, written)):
            return shard  # a replay, after all was done
        entry = {"name": target.name, "mark": target.mark, "in": sum(part["rows"] for part in parts), "tables": {}}
        if target.rows not in (None, entry["in"]):
            raise StageError(
                f"{target.name}: {entry['in']:,} of its {target.rows:,} rows were read; it was changed meanwhile. "
                "Run the same command again"
            )
        if asked := _all_asked(part.get("tokens") for part in parts):
            entry["tokens"] = asked
        for reasons in ("drops", "rejects"):
            entry[reasons] = dict(sum((Counter(part[reasons]) for part in parts), Counter()))
        for position, (name, schema) in enumerate(self.schemas.items()):
            files = [part["files"][name] for part in parts if name in part["files"]]
            if files or position == 0:
                path = f"{name}/{target.name}.parquet"
                entry["tables"][name] = {"path": path} | join_files(files, storage.join(self.directory, path), schema)
        storage.write_json(entry_path(self.directory, target.name), entry)
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
        about = {**self.about, "tables": tables, "counts": counts}
        if asked := _all_asked(entry.get("tokens") for entry in entries):
            about["tokens"] = asked
        storage.write_json(path, {**about, "seconds": time.time() - started})
        return path


def _all_asked(parts: Iterable[dict[str, int] | None]) -> dict[str, int]:
    """Return the sum of what models were asked, as a manifest has it; nothing where none was."""
    asked = sum_of_asked(parts)
    return asked._asdict() if asked.requests else {}


def sum_of_asked(parts: Iterable[Mapping[str, int] | None]) -> Asked:
    """Return the sum of the `tokens` of manifests, some of which have none."""
    total = Asked()
    for part in parts:
        total = total.plus(Asked(**(part or {})))
    return total


class _WriteParts(beam.DoFn):
    """Write neighbouring chunks of a shard as one part, a file for each table that has rows.

    It completes the shards whose rows it had all, and says what it wrote of the rest.
    """

    shard: int
    first_row: int
    rows: int
    asked: Asked
    files: dict[str, ShardFile]
    reasons: dict[str, Counter[str]]
    parts: dict[int, list[dict]]
    ends: dict[int, int]  # how many rows a shard has, where its end has been seen

    def __init__(self, tables: WriteTables):
        self.tables = tables

    def start_bundle(self) -> None:
        self.parts, self.ends = {}, {}
        self._start_part(-1, -1)

    def process(self, chunk: Chunk) -> None:
        if not chunk.rows:
            self.ends[chunk.shard] = chunk.first_row
            return
        if chunk.shard != self.shard or chunk.first_row != self.first_row + self.rows:
            self._finish_part()
            self._start_part(chunk.shard, chunk.first_row)
        self.rows += chunk.rows
        self.asked = self.asked.plus(chunk.asked)
        for name, batch in self.tables.split(chunk).items():
            if batch.num_rows:
                schema = self.tables.schemas[name]
                if name not in self.files:
                    self.files[name] = ShardFile(self._part(name), schema)
                batch = conform(batch, schema)
                self.files[name].write(batch)
                if name in self.reasons:
                    counted = batch.column("drop_reason" if name == "drops" else "error").value_counts()
                    for reason, rows in zip(*(field.to_pylist() for field in counted.flatten()), strict=True):
                        self.reasons[name][str(reason).split(":")[0]] += rows

    def finish_bundle(self) -> Iterator[WindowedValue]:
        self._finish_part()
        for shard, parts in self.parts.items():
            for part in parts:
                yield WindowedValue((shard, part), GlobalWindow().max_timestamp(), [GlobalWindow()])

    def _start_part(self, shard: int, first_row: int) -> None:
        self.shard, self.first_row, self.rows, self.asked = shard, first_row, 0, Asked()
        self.files, self.reasons = {}, {"drops": Counter(), "rejects": Counter()}

    def _part(self, table: str) -> str:
        """Return a name for one attempt alone, because an abandoned one may still be writing."""
        name = f"{table}-{self.shard:05d}-{self.first_row:012d}-{uuid.uuid4().hex[:8]}.parquet"
        return storage.join(self.tables.directory, "parts", name)

    def _finish_part(self) -> None:
        if not self.rows:
            return
        for file in self.files.values():
            file.close()
        files = {name: file.path for name, file in self.files.items()}
        about = {"first_row": self.first_row, "rows": self.rows, "tokens": self.asked._asdict()}
        part = {**about, "files": files, **self.reasons}
        parts = self.parts.setdefault(self.shard, [])
        parts.append(part)
        expected = self.tables.targets[self.shard].rows
        if sum(part["rows"] for part in parts) == (self.ends.get(self.shard) if expected is None else expected):
            self.tables.join(self.shard, self.parts.pop(self.shard))
        self.rows = 0
