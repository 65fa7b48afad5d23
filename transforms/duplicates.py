"""Exact and near-duplicates: which rows repeat another, decided from hashes and places.

Exact: the words are the same. Near: the sets of word n-grams are similar enough (Jaccard) to those of a row that stays.
Which one stays is a `Preference`. A row names the one that it repeats; a later step may have dropped that one in turn.

Near-duplicates take two rounds. Band keys and places find which rows could be linked at all, and one worker joins these
bare places into candidate groups (8 bytes a row). Then the candidates' shards are opened again, the shingle sets of a
group meet in one place, and all links within it are decided there.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy import ndarray

from transforms.decisions import Keyed, by_bucket, decide, one_batch, open_shard, undecided
from transforms.kernels import kernel
from transforms.minhash import band_keys, bands_for
from transforms.near_duplicates import Similarity, connect, connected, kept_neighbours
from transforms.shingles import Shingles, offsets_of, scramble, shingles
from transforms.tables import Chunk, Table
from transforms.words import byte_hashes, words_of_row

ROWS_PER_BUCKET = 50_000
MAX_BUCKETS = 64
LINKS_PER_BATCH = 1 << 19
KEYS_PER_PART = 1 << 13
FIRST, LONGEST = "first", "longest"
PREFERRED = ["cost", "name", "tie", "shard", "row"]


def buckets_for(table: Table) -> int:
    """Into how many parts the hashes of a table are cut; the result is the same for any number."""
    return min(max(table.rows // ROWS_PER_BUCKET, 2), MAX_BUCKETS)


def row_hashes(batch: pa.RecordBatch) -> ndarray:
    """A content hash per row over all its columns, whatever their order: uint64[N]."""
    columns = []
    for name in sorted(batch.schema.names):
        column = batch.column(name)
        if pa.types.is_nested(column.type):
            column = pa.array([json.dumps(value, default=str) for value in column.to_pylist()], pa.string())
        columns.append(pl.from_arrow(column).cast(pl.String).fill_null("\x00").alias(name))
    rows = pl.select(pl.concat_str(columns, separator="\x1f")).to_series()
    return byte_hashes(rows.to_arrow(compat_level=pl.CompatLevel.oldest()))


@dataclass(frozen=True)
class Preference:
    """Which of several alike rows stays: the `first` by id, the `longest` by the characters of `columns`, or the one
    with the highest number in the column that `keep` names. Ties go to the smallest id, then to the smallest hash of
    the row."""

    keep: str = FIRST
    columns: tuple[str, ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns that it looks at, besides the id."""
        return {FIRST: (), LONGEST: self.columns}.get(self.keep, (self.keep,))

    def rank(self, batch: pa.RecordBatch) -> pl.DataFrame:
        """`cost`, `name` and `tie`, by which rows are to be sorted: float64, text, uint64."""
        cost = np.zeros(batch.num_rows)
        if self.keep == LONGEST:
            for name in self.columns:
                cost -= pc.fill_null(pc.utf8_length(batch.column(name)), 0).to_numpy(zero_copy_only=False)
        elif self.keep != FIRST:
            cost -= (
                pc.cast(batch.column(self.keep), pa.float64(), safe=False)
                .fill_null(-np.inf)
                .to_numpy(zero_copy_only=False)
            )
        return pl.DataFrame({"cost": cost, "name": pl.from_arrow(batch.column("id")), "tie": row_hashes(batch)})


def all_but_first(members: pl.DataFrame, group: list[str], reason: str) -> Iterator[Keyed]:
    """Decisions that drop all rows of a group but the first, which they name.

    `members` has the columns of PREFERRED and those that tell the groups apart.
    """
    members = members.filter(pl.len().over(group) > 1).sort(PREFERRED)
    members = members.with_columns(duplicate_of=pl.col("name").first().over(group), drop_reason=pl.lit(reason))
    yield from decide(members.filter(pl.int_range(pl.len()).over(group) > 0))


def drop_repeats(members: pl.DataFrame, repeated: ndarray, reason: str) -> Iterator[Keyed]:
    """Decisions that drop the members that repeat another, which they name; `repeated` has its place, or -1."""
    dropped = np.flatnonzero(repeated >= 0)
    kept = members["name"].gather(repeated[dropped])
    yield from decide(members[dropped].with_columns(duplicate_of=kept, drop_reason=pl.lit(reason)))


@dataclass
class DropExactDuplicates(beam.PTransform):
    """Decisions that drop all but the first of the rows whose normalised `columns` are equal."""

    columns: tuple[str, ...]
    buckets: int
    preference: Preference = Preference()

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
            high, low = words_of_row(batch, self.columns).content().T
            members = self.preference.rank(batch).with_columns(
                high=pl.Series(high.copy()), low=pl.Series(low.copy()), shard=pl.lit(chunk.shard), row=pl.Series(rows)
            )
            yield from by_bucket(one_batch(members), low, self.buckets)

    def _decide(self, bucket: int, batches: Iterable[pa.RecordBatch]) -> Iterator[Keyed]:
        members = pl.from_arrow(pa.Table.from_batches(batches))
        yield from all_but_first(members, ["high", "low"], "exact_duplicate")


@dataclass
class GroupNearDuplicates(beam.PTransform):
    """Decisions about the near-duplicates among the rows that are still in, compared by `columns`.

    A place is a row's number in the whole table. `rank` gives the candidate rows, of whose columns `read` are read,
    their names and what else orders them; `decide` makes the decisions from all rows of some groups: a frame of these
    columns and shard, row, the rows' sets, and the Jaccard similarity from which on two of them are near-duplicates.
    """

    table: Table
    columns: tuple[str, ...]
    similarity: Similarity
    rank: Callable[[pa.RecordBatch], pl.DataFrame]
    decide: Callable[[pl.DataFrame, Shingles, float], Iterator[Keyed]]
    read: list[str] | None = None

    def __post_init__(self) -> None:
        super().__init__()
        self.buckets = buckets_for(self.table)
        ends = np.cumsum([shard.rows for shard in self.table.shards]).tolist()
        self.starts = dict(zip((shard.index for shard in self.table.shards), [0, *ends], strict=False))

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Keyed]:
        return (
            chunks
            | "BandKeys" >> beam.FlatMap(self._band_keys).with_output_types(Keyed)
            | "ByBandKey" >> beam.GroupByKey()
            | "Links" >> beam.FlatMapTuple(self._linked).with_output_types(Keyed)
            | "InOnePlace" >> beam.GroupByKey()
            | "Candidates" >> beam.FlatMapTuple(self._candidates).with_output_types(Keyed)
            | "ByShard" >> beam.GroupByKey()
            | "Sets" >> beam.FlatMapTuple(self._sets).with_output_types(Keyed)
            | "ByCandidateGroup" >> beam.GroupByKey()
            | "Decide" >> beam.FlatMapTuple(self._decide).with_output_types(Keyed)
        )

    def _shingles(self, batch: pa.RecordBatch) -> Shingles:
        return shingles(words_of_row(batch, self.columns), self.similarity.words)

    def _band_keys(self, chunk: Chunk) -> Iterator[Keyed]:
        batch, rows = undecided(chunk)
        if batch.num_rows:
            bands = bands_for(self.similarity.jaccard)
            found = self._shingles(batch)
            sizes = found.sizes()
            keys = band_keys(Shingles(found.short().values, offsets_of(sizes[sizes > 0])), bands).ravel()
            places = np.repeat(self.starts[chunk.shard] + rows[sizes > 0], bands.bands)
            yield from by_bucket(pa.record_batch({"key": keys, "place": places}), keys, self.buckets)

    def _linked(self, bucket: int, batches: Iterable[pa.RecordBatch]) -> Iterator[Keyed]:
        met = pa.Table.from_batches(batches)
        left, right = _links(met.column("key").to_numpy(), met.column("place").to_numpy())
        for start in range(0, len(left), LINKS_PER_BATCH):
            part = slice(start, start + LINKS_PER_BATCH)
            yield 0, pa.record_batch({"left": left[part], "right": right[part]})

    def _candidates(self, _: int, batches: Iterable[pa.RecordBatch]) -> Iterator[Keyed]:
        groups = np.arange(self.table.rows)
        for links in batches:
            connect(groups, links.column("left").to_numpy(), links.column("right").to_numpy())
        groups = connected(groups)
        is_linked = groups != np.arange(len(groups))
        is_linked[groups[is_linked]] = True
        for shard in self.table.shards:
            start = self.starts[shard.index]
            rows = np.flatnonzero(is_linked[start : start + shard.rows])
            if len(rows):
                yield shard.index, pa.record_batch({"row": rows, "group": groups[start + rows]})

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
                keys = scramble(groups[start:stop].astype(np.uint64))
                yield from by_bucket(members, keys, self.buckets)
            first_row += batch.num_rows

    def _decide(self, bucket: int, batches: Iterable[pa.RecordBatch]) -> Iterator[Keyed]:
        candidates = pa.Table.from_batches(batches).combine_chunks()
        lists = candidates.column("set").combine_chunks()
        offsets = lists.offsets.to_numpy().astype(np.int64)
        sets = Shingles(lists.flatten().to_numpy(), offsets - offsets[0])
        members = pl.from_arrow(candidates.drop_columns(["set"]))
        yield from self.decide(members, sets, self.similarity.jaccard)


@kernel
def _links(keys: ndarray, places: ndarray) -> tuple[ndarray, ndarray]:
    """Pairs of places that connect all those with one key: two of int64[L].

    Keys are parted first, so that the table in which a part's keys meet fits a cache.
    """
    parts = 1
    while parts * KEYS_PER_PART < len(keys):
        parts *= 2
    ends = np.zeros(parts + 1, np.int64)
    for row in range(len(keys)):
        ends[np.int64((keys[row] >> np.uint64(40)) & np.uint64(parts - 1)) + 1] += 1
    most = ends.max()
    ends = np.cumsum(ends)
    parted_keys, parted_places, free = np.empty_like(keys), np.empty_like(places), ends.copy()
    for row in range(len(keys)):
        part = np.int64((keys[row] >> np.uint64(40)) & np.uint64(parts - 1))
        parted_keys[free[part]], parted_places[free[part]] = keys[row], places[row]
        free[part] += 1
    holders, count = np.empty(4 * most, np.int64), 0
    left, right = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
    for index in range(parts):
        slots = 1
        while slots < 2 * (ends[index + 1] - ends[index]):
            slots *= 2
        holders[:slots] = -1
        for row in range(ends[index], ends[index + 1]):
            slot = np.int64((parted_keys[row] >> np.uint64(20)) & np.uint64(slots - 1))
            while holders[slot] >= 0 and parted_keys[holders[slot]] != parted_keys[row]:
                slot = (slot + 1) & (slots - 1)
            if holders[slot] < 0:
                holders[slot] = row
            elif parted_places[holders[slot]] != parted_places[row]:
                left[count], right[count] = parted_places[holders[slot]], parted_places[row]
                count += 1
    return left[:count], right[:count]


@dataclass
class DropNearDuplicates(beam.PTransform):
    """Decisions that drop every row that is near one that is kept, which they name; the preferred are asked first."""

    table: Table
    columns: tuple[str, ...]
    similarity: Similarity
    preference: Preference = Preference()

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Keyed]:
        # What is compared tells distinct rows apart, so ties need no other columns.
        read = list(dict.fromkeys(["id", *self.columns, *self.preference.reads]))
        return chunks | GroupNearDuplicates(
            self.table, self.columns, self.similarity, self.preference.rank, _drop_near, read
        )


def _drop_near(members: pl.DataFrame, sets: Shingles, threshold: float) -> Iterator[Keyed]:
    members = members.with_row_index("place").sort(PREFERRED)
    repeated = kept_neighbours(sets.take(members["place"].to_numpy()), threshold)
    yield from drop_repeats(members, repeated, "near_duplicate")
