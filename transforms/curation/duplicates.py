"""Exact and near-duplicates: which rows repeat another, decided from hashes and places.

Exact: the words are the same. Near: the sets of word n-grams are similar enough (Jaccard) to those of a row that stays.
Which one stays is a `Preference`. A row names the one that it repeats; a later step may have dropped that one in turn.

Both take the same two rounds. Keys and places find which rows could be linked at all, and one worker joins these bare
places into candidate groups (8 bytes a row). Then the candidates' shards are opened again, the shingle sets of a group
meet in one place, and all links within it are decided there. Rows of the same words share every key, and one of them
carries the set.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
from numpy import ndarray

from transforms.curation.decisions import by_bucket, one_batch, open_shard
from transforms.curation.preference import PREFERRED, Preference, buckets_for, drop_repeats
from transforms.tables.chunks import Chunk, Keyed
from transforms.tables.marks import kept
from transforms.tables.table import Table
from transforms.texts.kernels import kernel
from transforms.texts.minhash import band_keys, bands_for
from transforms.texts.near_duplicates import Similarity, connect, connected, kept_neighbours
from transforms.texts.shingles import Shingles, offsets_of, scramble, shingles
from transforms.texts.words import Words, words_of_row

LINKS_PER_BATCH = 1 << 19
BAND_GROUPS = 8
ROWS_PER_PART = 1 << 21
KEYS_IN_CACHE = 1 << 13


@dataclass(frozen=True)
class ComparedColumns:
    """Which rows are compared, by which columns, and from which similarity on two of them are near-duplicates.

    A place is a row's number in the whole table.
    """

    table: Table
    columns: tuple[str, ...]
    similarity: Similarity

    @cached_property
    def starts(self) -> dict[int, int]:
        """The place of every shard's first row."""
        ends = np.cumsum([shard.rows for shard in self.table.shards]).tolist()
        return dict(zip((shard.index for shard in self.table.shards), [0, *ends], strict=False))

    def words(self, batch: pa.RecordBatch) -> Words:
        return words_of_row(batch, self.columns)

    def shingles(self, words: Words) -> Shingles:
        return shingles(words, self.similarity.words)


@dataclass
class BandKeys(beam.PTransform):
    """The band keys and places of the rows that are still in, those of some bands and a part of the keys together.

    Half a key is enough, for what meets by chance is compared later; what tells the parts apart is in the other half.
    """

    comparison: ComparedColumns

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Keyed]:
        return chunks | beam.FlatMap(self._keys).with_output_types(Keyed)

    def _keys(self, chunk: Chunk) -> Iterator[Keyed]:
        comparison, rows = self.comparison, np.flatnonzero(kept(chunk.batch))
        if len(rows):
            words = comparison.words(chunk.batch)
            if len(rows) < chunk.rows:
                words = words.take(rows)
            bands = bands_for(comparison.similarity.jaccard)
            keys = band_keys(comparison.shingles(words).short(), bands)
            places = comparison.starts[chunk.shard] + chunk.first_row + rows
            if comparison.table.rows <= 1 << 32:
                places = places.astype(np.uint32)
            parts = 1 << (comparison.table.rows // ROWS_PER_PART).bit_length()
            for index, some_bands in enumerate(np.array_split(np.ascontiguousarray(keys.T), BAND_GROUPS)):
                met = {
                    "key": (some_bands.ravel() >> np.uint64(32)).astype(np.uint32),
                    "place": np.tile(places, len(some_bands)),
                }
                for part, found in by_bucket(pa.record_batch(met), some_bands.ravel(), parts):
                    yield index * parts + part, found


@dataclass
class GroupCandidates(beam.PTransform):
    """Decisions, from (band keys, decisions so far), about groups of rows that may be near-duplicates.

    `rank` gives the candidates' names and what else orders them from their columns `read` (None: all). `decide` is
    given all rows of some groups, with these columns and group, shard, row and text; sets; and the Jaccard similarity
    from which on two of them are near-duplicates. `text` is the place of a row's set, one for all with the same words.
    """

    comparison: ComparedColumns
    rank: Callable[[pa.RecordBatch], pl.DataFrame]
    decide: Callable[[pl.DataFrame, Shingles, float], Iterator[Keyed]]
    read: list[str] | None = None

    def expand(self, found: Any) -> beam.PCollection[Keyed]:
        keys, decided = found
        candidates = (
            keys
            | "ByBandKey" >> beam.GroupByKey()
            | "Links" >> beam.FlatMapTuple(self._linked).with_output_types(Keyed)
            | "InOnePlace" >> beam.GroupByKey()
            | "Candidates" >> beam.FlatMapTuple(self._candidates).with_output_types(Keyed)
        )
        return (
            (candidates, decided)
            | "AndDecided" >> beam.Flatten()
            | "ByShard" >> beam.GroupByKey()
            | "Sets" >> beam.FlatMapTuple(self._sets).with_output_types(Keyed)
            | "ByCandidateGroup" >> beam.GroupByKey()
            | "Decide" >> beam.FlatMapTuple(self._decide).with_output_types(Keyed)
        )

    def _linked(self, bucket: int, batches: Iterable[pa.RecordBatch]) -> Iterator[Keyed]:
        met = pa.Table.from_batches(batches)
        left, right = _links(met.column("key").to_numpy(), met.column("place").to_numpy())
        for start in range(0, len(left), LINKS_PER_BATCH):
            part = slice(start, start + LINKS_PER_BATCH)
            yield 0, pa.record_batch({"left": left[part], "right": right[part]})

    def _candidates(self, _: int, batches: Iterable[pa.RecordBatch]) -> Iterator[Keyed]:
        table, starts = self.comparison.table, self.comparison.starts
        groups = np.arange(table.rows)
        for links in batches:
            connect(groups, links.column("left").to_numpy(), links.column("right").to_numpy())
        groups = connected(groups)
        is_linked = groups != np.arange(len(groups))
        is_linked[groups[is_linked]] = True
        for shard in table.shards:
            start = starts[shard.index]
            rows = np.flatnonzero(is_linked[start : start + shard.rows])
            if len(rows):
                yield shard.index, pa.record_batch({"row": rows, "group": groups[start + rows]})

    def _sets(self, shard: int, batches: Iterable[pa.RecordBatch]) -> Iterator[Keyed]:
        rows, groups = _open_candidates(batches)
        if not len(rows):
            return
        buckets, first_row = buckets_for(self.comparison.table), 0
        for batch in open_shard(self.comparison.table, shard, self.read):
            start, stop = np.searchsorted(rows, [first_row, first_row + batch.num_rows])
            if start < stop:
                candidates = batch.take(pa.array(rows[start:stop] - first_row))
                words = self.comparison.words(candidates)
                content, sets = words.content(), self.comparison.shingles(words).sets()
                repeats = _holders(content, np.zeros(len(content))) != np.arange(len(content))
                members = self.rank(candidates).with_columns(
                    high=content[:, 0].copy(),
                    low=content[:, 1].copy(),
                    repeats=repeats,
                    group=groups[start:stop],
                    shard=pl.lit(shard),
                    row=rows[start:stop],
                )
                sizes = np.where(repeats, 0, sets.sizes())
                values = sets.values[np.repeat(~repeats, sets.sizes())]
                lists = pa.ListArray.from_arrays(pa.array(offsets_of(sizes), pa.int32()), pa.array(values))
                keys = scramble(groups[start:stop].astype(np.uint64))
                yield from by_bucket(one_batch(members).append_column("set", lists), keys, buckets)
            first_row += batch.num_rows

    def _decide(self, bucket: int, batches: Iterable[pa.RecordBatch]) -> Iterator[Keyed]:
        candidates = pa.Table.from_batches(batches).combine_chunks()
        lists = candidates.column("set").combine_chunks()
        offsets = lists.offsets.to_numpy().astype(np.int64)
        members = pl.from_arrow(candidates.drop_columns(["set"]))
        texts = _holders(members.select("high", "low").to_numpy(), members["repeats"].to_numpy())
        sets = Shingles(lists.flatten().to_numpy(), offsets - offsets[0])
        yield from self.decide(members.with_columns(text=texts), sets, self.comparison.similarity.jaccard)


def _holders(content: ndarray, rank: ndarray) -> ndarray:
    """Of every row the first of lowest rank with the same content (uint64[N, 2]): int64[N]."""
    order = np.lexsort((rank, content[:, 1], content[:, 0]))
    is_new = np.append(True, (content[order[1:]] != content[order[:-1]]).any(axis=1))
    holders = np.empty(len(order), np.int64)
    holders[order] = order[is_new][np.cumsum(is_new) - 1]
    return holders


def _open_candidates(batches: Iterable[pa.RecordBatch]) -> tuple[ndarray, ndarray]:
    """Rows and groups, ascending, of the candidates that none of the decisions among these batches is about."""
    candidates, decided = [], [np.empty(0, np.int64)]
    for batch in batches:
        if "group" in batch.schema.names:
            candidates.append(batch)
        else:
            decided.append(batch.column("row").to_numpy())
    if not candidates:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    rows, groups = (pa.Table.from_batches(candidates).column(name).to_numpy() for name in ("row", "group"))
    is_open = ~np.isin(rows, np.concatenate(decided))
    order = np.argsort(rows[is_open])
    return rows[is_open][order], groups[is_open][order]


@kernel
def _links(keys: ndarray, places: ndarray) -> tuple[ndarray, ndarray]:
    """Pairs of places that connect all those with one key (uint32): two arrays of [L].

    Keys are parted first, so that the table in which a part's keys meet fits a cache.
    """
    parts = 1
    while parts * KEYS_IN_CACHE < len(keys):
        parts *= 2
    ends = np.zeros(parts + 1, np.int64)
    for row in range(len(keys)):
        ends[np.int64((keys[row] >> np.uint32(20)) & np.uint32(parts - 1)) + 1] += 1
    most = ends.max()
    ends = np.cumsum(ends)
    parted_keys, parted_places, free = np.empty_like(keys), np.empty_like(places), ends.copy()
    for row in range(len(keys)):
        part = np.int64((keys[row] >> np.uint32(20)) & np.uint32(parts - 1))
        parted_keys[free[part]], parted_places[free[part]] = keys[row], places[row]
        free[part] += 1
    holders, count = np.empty(4 * most, np.int64), 0
    left, right = np.empty(len(keys), places.dtype), np.empty(len(keys), places.dtype)
    for index in range(parts):
        slots = 1
        while slots < 2 * (ends[index + 1] - ends[index]):
            slots *= 2
        holders[:slots] = -1
        for row in range(ends[index], ends[index + 1]):
            slot = np.int64(parted_keys[row]) & (slots - 1)
            while holders[slot] >= 0 and parted_keys[holders[slot]] != parted_keys[row]:
                slot = (slot + 1) & (slots - 1)
            if holders[slot] < 0:
                holders[slot] = row
            elif parted_places[holders[slot]] != parted_places[row]:
                left[count], right[count] = parted_places[holders[slot]], parted_places[row]
                count += 1
    return left[:count], right[:count]


@dataclass
class DropDuplicates(beam.PTransform):
    """Decisions, from (chunks, decisions so far), that drop what repeats a row that is kept, and name it.

    `exact_duplicate`: all but the preferred of the rows with the same words. `near_duplicate`: of these, every one that
    is near one that is kept; the preferred are asked first.
    """

    table: Table
    columns: tuple[str, ...]
    similarity: Similarity
    preference: Preference = field(default_factory=Preference)

    def expand(self, rows: Any) -> beam.PCollection[Keyed]:
        chunks, decided = rows
        comparison = ComparedColumns(self.table, self.columns, self.similarity)
        keys = chunks | BandKeys(comparison)
        return (keys, decided) | GroupCandidates(comparison, self.preference.rank, _drop_repeats)


def _drop_repeats(members: pl.DataFrame, sets: Shingles, threshold: float) -> Iterator[Keyed]:
    members = members.sort("group", *PREFERRED)
    texts = members["text"].to_numpy()
    _, first, numbers = np.unique(texts, return_index=True, return_inverse=True)
    is_first = first[numbers] == np.arange(len(texts))
    yield from drop_repeats(members, np.where(is_first, -1, first[numbers]), "exact_duplicate")
    distinct = members.filter(is_first)
    repeated = kept_neighbours(sets.take(texts[is_first]), distinct["group"].to_numpy(), threshold)
    yield from drop_repeats(distinct, repeated, "near_duplicate")
