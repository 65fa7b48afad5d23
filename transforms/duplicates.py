"""Exact and near-duplicates: which rows repeat another, decided from hashes and places.

Exact: the normalised text is the same. Near: the sets of word n-grams are similar enough (Jaccard), and so on from
neighbour to neighbour. The first of a group stays: smallest id, then smallest hash of the whole row.

Near-duplicates take two rounds. Band keys and places find which rows could be linked at all, and one worker joins these
bare places into candidate groups (16 bytes a link). Then the candidates' shards are opened again, the shingle sets of a
group meet in one place, and all links within it are decided there.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import xxhash

from transforms.decisions import Keyed, by_bucket, decide, one_batch, open_shard, undecided
from transforms.minhash import band_keys, bands_for
from transforms.near_duplicates import Similarity, connected, near_duplicate_groups
from transforms.shingles import Shingles, mix, normalised, offsets_of, shingles
from transforms.tables import Chunk, Table

ROWS_PER_BUCKET = 50_000
MAX_BUCKETS = 64
ROW_BITS = 40  # a place is shard << ROW_BITS | row
LINKS_PER_BATCH = 1 << 19


def buckets_for(table: Table) -> int:
    """Into how many parts the hashes of a table are cut; the result is the same for any number."""
    return min(max(table.rows // ROWS_PER_BUCKET, 2), MAX_BUCKETS)


def joined(batch: pa.RecordBatch, columns: tuple[str, ...]) -> pl.Series:
    """The normalised texts of several columns as one, a line end (which no normalised text holds) between them."""
    parts = [normalised(batch.column(name)).alias(name) for name in columns]
    return pl.select(pl.concat_str(parts, separator="\n")).to_series()


def row_hashes(batch: pa.RecordBatch) -> np.ndarray:
    """A content hash per row over all its columns, whatever their order: uint64[N]."""
    columns = []
    for name in sorted(batch.schema.names):
        column = batch.column(name)
        if pa.types.is_nested(column.type):
            column = pa.array([json.dumps(value, default=str) for value in column.to_pylist()], pa.string())
        columns.append(pl.from_arrow(column).cast(pl.String).fill_null("\x00").alias(name))
    rows = pl.select(pl.concat_str(columns, separator="\x1f")).to_series()
    return np.fromiter(map(xxhash.xxh3_64_intdigest, rows.cast(pl.Binary).to_list()), np.uint64, len(rows))


def by_id(batch: pa.RecordBatch) -> pl.DataFrame:
    """What decides which row of a group comes first: `name`, its id, and `tie`, the hash of the whole row."""
    return pl.DataFrame({"name": pl.from_arrow(batch.column("id")), "tie": row_hashes(batch)})


def all_but_first(members: pl.DataFrame, group: list[str], reason: str) -> Iterator[Keyed]:
    """Decisions that drop all rows of a group but the first by (name, tie), which they name.

    `members` has columns name, tie, shard, row and those that tell the groups apart.
    """
    members = members.filter(pl.len().over(group) > 1).sort("name", "tie", "shard", "row")
    members = members.with_columns(duplicate_of=pl.col("name").first().over(group), drop_reason=pl.lit(reason))
    yield from decide(members.filter(pl.int_range(pl.len()).over(group) > 0))


@dataclass
class DropExactDuplicates(beam.PTransform):
    """Decisions that drop all but the first of the rows whose normalised `columns` are equal."""

    columns: tuple[str, ...]
    buckets: int

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Keyed]:
        return (
            chunks
            | "Keys" >> beam.FlatMap(self._keys).with_output_types(Keyed)
            | "ByKey" >> beam.GroupByKey()
            | "Decide" >> beam.FlatMapTuple(self._decide).with_output_types(Keyed)
        )

    def _keys(self, chunk: Chunk) -> Iterator[Keyed]:
        batch, rows = undecided(chunk)
        if batch.num_rows:
            digests = b"".join(map(xxhash.xxh3_128_digest, joined(batch, self.columns).cast(pl.Binary).to_list()))
            keys = np.frombuffer(digests, ">u8").astype(np.uint64)
            members = by_id(batch).with_columns(
                high=pl.Series(keys[::2].copy()),
                low=pl.Series(keys[1::2].copy()),
                shard=pl.lit(chunk.shard),
                row=pl.Series(rows),
            )
            yield from by_bucket(one_batch(members), keys[1::2], self.buckets)

    def _decide(self, bucket: int, batches: Iterable[pa.RecordBatch]) -> Iterator[Keyed]:
        members = pl.from_arrow(pa.Table.from_batches(batches))
        yield from all_but_first(members, ["high", "low"], "exact_duplicate")


@dataclass
class GroupNearDuplicates(beam.PTransform):
    """Decisions about the near-duplicates among the rows that are still in, compared by `columns`.

    `rank` gives the candidate rows, of whose columns `read` are read, their names and what else orders them; `decide`
    makes the decisions from all rows of some groups: a frame of these columns and group, shard, row.
    """

    table: Table
    columns: tuple[str, ...]
    similarity: Similarity
    rank: Callable[[pa.RecordBatch], pl.DataFrame]
    decide: Callable[[pl.DataFrame], Iterator[Keyed]]
    read: list[str] | None = None

    def __post_init__(self) -> None:
        super().__init__()
        self.buckets = buckets_for(self.table)

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Keyed]:
        return (
            chunks
            | "BandKeys" >> beam.FlatMap(self._band_keys).with_output_types(Keyed)
            | "ByBandKey" >> beam.GroupByKey()
            | "Links" >> beam.FlatMapTuple(self._links).with_output_types(Keyed)
            | "InOnePlace" >> beam.GroupByKey()
            | "Candidates" >> beam.FlatMapTuple(self._candidates).with_output_types(Keyed)
            | "ByShard" >> beam.GroupByKey()
            | "Sets" >> beam.FlatMapTuple(self._sets).with_output_types(Keyed)
            | "ByCandidateGroup" >> beam.GroupByKey()
            | "Decide" >> beam.FlatMapTuple(self._decide).with_output_types(Keyed)
        )

    def _shingles(self, batch: pa.RecordBatch) -> Shingles:
        return shingles(joined(batch, self.columns), self.similarity.words)

    def _band_keys(self, chunk: Chunk) -> Iterator[Keyed]:
        batch, rows = undecided(chunk)
        if batch.num_rows:
            bands = bands_for(self.similarity.jaccard)
            found = self._shingles(batch)
            sizes = found.sizes()
            keys = band_keys(Shingles(found.values, offsets_of(sizes[sizes > 0])), bands).ravel()
            places = (np.uint64(chunk.shard) << np.uint64(ROW_BITS)) | rows[sizes > 0].astype(np.uint64)
            places = np.tile(places, bands.bands)
            yield from by_bucket(pa.record_batch({"key": keys, "place": places}), keys, self.buckets)

    def _links(self, bucket: int, batches: Iterable[pa.RecordBatch]) -> Iterator[Keyed]:
        met = pl.from_arrow(pa.Table.from_batches(batches)).with_columns(first=pl.col("place").min().over("key"))
        links = met.filter(pl.col("first") != pl.col("place")).select("first", "place").unique()
        for part in links.iter_slices(LINKS_PER_BATCH):
            yield 0, one_batch(part)

    def _candidates(self, _: int, batches: Iterable[pa.RecordBatch]) -> Iterator[Keyed]:
        links = pl.from_arrow(pa.Table.from_batches(batches))
        places, nodes = np.unique(links.to_numpy().ravel(), return_inverse=True)
        groups = connected(len(places), nodes[::2], nodes[1::2])
        candidates = pl.DataFrame({"place": places, "group": groups}).select(
            shard=pl.col("place").cast(pl.Int64) // (1 << ROW_BITS),
            row=pl.col("place").cast(pl.Int64) % (1 << ROW_BITS),
            group="group",
        )
        for (shard,), part in candidates.partition_by("shard", as_dict=True, include_key=False).items():
            yield int(shard), one_batch(part)

    def _sets(self, shard: int, batches: Iterable[pa.RecordBatch]) -> Iterator[Keyed]:
        candidates = pl.from_arrow(pa.Table.from_batches(batches)).sort("row")
        rows, groups = candidates["row"].to_numpy(), candidates["group"].to_numpy()
        first_row = 0
        for batch in open_shard(self.table, shard, self.read):
            start, stop = np.searchsorted(rows, [first_row, first_row + batch.num_rows])
            if start < stop:
                batch_rows = batch.take(pa.array(rows[start:stop] - first_row))
                sets = self._shingles(batch_rows).sets()
                members = one_batch(
                    self.rank(batch_rows).with_columns(shard=pl.lit(shard), row=pl.Series(rows[start:stop]))
                ).append_column(
                    "set", pa.ListArray.from_arrays(pa.array(sets.offsets, pa.int32()), pa.array(sets.values))
                )
                yield from by_bucket(members, mix(groups[start:stop].astype(np.uint64)), self.buckets)
            first_row += batch.num_rows

    def _decide(self, bucket: int, batches: Iterable[pa.RecordBatch]) -> Iterator[Keyed]:
        candidates = pa.Table.from_batches(batches).combine_chunks()
        lists = candidates.column("set").combine_chunks()
        offsets = lists.offsets.to_numpy().astype(np.int64)
        sets = Shingles(lists.flatten().to_numpy(), offsets - offsets[0])
        groups = near_duplicate_groups(sets, self.similarity.jaccard)
        members = pl.from_arrow(candidates.drop_columns(["set"])).with_columns(group=pl.Series(groups))
        yield from self.decide(members.filter(pl.len().over("group") > 1))


@dataclass
class DropNearDuplicates(beam.PTransform):
    """Decisions that drop all but the first row of every group of near-duplicates."""

    table: Table
    columns: tuple[str, ...]
    similarity: Similarity

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Keyed]:
        return chunks | GroupNearDuplicates(self.table, self.columns, self.similarity, by_id, _drop_near)


def _drop_near(members: pl.DataFrame) -> Iterator[Keyed]:
    yield from all_but_first(members, ["group"], "near_duplicate")
