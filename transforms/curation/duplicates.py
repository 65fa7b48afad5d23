"""Exact and near-duplicates: which rows repeat another, decided from hashes and positions.

Exact: the words are the same. Near: the sets of word n-grams are similar enough (Jaccard) to those of a row that stays.
Which one stays is a `Preference`. A row names the one that it repeats; a later step may have dropped that one in turn.

Both kinds take the same two rounds. First, keys and positions show which rows could be linked at all, and one worker
joins these bare positions into candidate groups (8 bytes a row). Then the candidates' shards are opened again, the
shingle sets of a group meet in one place, and all links within it are decided there. Rows of the same words share every
key, and one of them carries the set.

A row number counts within a shard, a position within the whole table. Shapes: N rows, B bands, L links, and 2 halves of
a content hash.
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
from transforms.texts.kernels import inlined, kernel
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
    """The columns by which a table's rows are compared, and from which similarity on two rows are near-duplicates."""

    table: Table
    columns: tuple[str, ...]
    similarity: Similarity

    @cached_property
    def starts(self) -> dict[int, int]:
        """Return the position of every shard's first row."""
        ends = np.cumsum([shard.rows for shard in self.table.shards]).tolist()
        return dict(zip((shard.index for shard in self.table.shards), [0, *ends], strict=False))

    def words(self, batch: pa.RecordBatch) -> Words:
        return words_of_row(batch, self.columns)

    def shingles(self, words: Words) -> Shingles:
        return shingles(words, self.similarity.words)


@dataclass
class BandKeys(beam.PTransform):
    """Make the band keys of the rows that are still in, with their positions, in parts that hold equal keys together.

    Half a key is enough because rows that meet by chance are compared later. The other half tells the parts apart.
    """

    compared: ComparedColumns

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Keyed]:
        return chunks | beam.FlatMap(self._keys).with_output_types(Keyed)

    def _keys(self, chunk: Chunk) -> Iterator[Keyed]:
        compared, rows = self.compared, np.flatnonzero(kept(chunk.batch))
        if not len(rows):
            return
        words = compared.words(chunk.batch)
        if len(rows) < chunk.rows:
            words = words.take(rows)
        positions = compared.starts[chunk.shard] + chunk.first_row + rows
        if compared.table.rows <= 1 << 32:
            positions = positions.astype(np.uint32)
        # rows at positions [7, 8] with two bands, both in one group:
        # keys_NB [[a, b], [c, d]] → some_BN [[a, c], [b, d]] → keys [a, c, b, d], position [7, 8, 7, 8]
        keys_NB = band_keys(compared.shingles(words).short(), bands_for(compared.similarity.jaccard))
        parts = 1 << (compared.table.rows // ROWS_PER_PART).bit_length()
        for group, some_BN in enumerate(np.array_split(np.ascontiguousarray(keys_NB.T), BAND_GROUPS)):
            keys = some_BN.ravel()
            upper = (keys >> np.uint64(32)).astype(np.uint32)
            batch = pa.record_batch({"key": upper, "position": np.tile(positions, len(some_BN))})
            for part, of_part in by_bucket(batch, keys, parts):
                yield group * parts + part, of_part


@dataclass
class GroupCandidates(beam.PTransform):
    """Turn (band keys, decisions so far) into decisions about groups of rows that may be near-duplicates.

    rank: returns the candidates' names, and what else orders them, from their columns `read` (None: all).
    decide: takes all rows of some groups, their sets, and the Jaccard similarity from which on two are near-duplicates.
        The rows have the columns of `rank`, group, shard, row and text: the number of the row's set, one for all rows
        with the same words.
    """

    compared: ComparedColumns
    rank: Callable[[pa.RecordBatch], pl.DataFrame]
    decide: Callable[[pl.DataFrame, Shingles, float], Iterator[Keyed]]
    read: list[str] | None = None

    def expand(self, rows: Any) -> beam.PCollection[Keyed]:
        keys, decided = rows
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
        keyed = pa.Table.from_batches(batches)
        left, right = _links(keyed.column("key").to_numpy(), keyed.column("position").to_numpy())
        for start in range(0, len(left), LINKS_PER_BATCH):
            part = slice(start, start + LINKS_PER_BATCH)
            yield 0, pa.record_batch({"left": left[part], "right": right[part]})

    def _candidates(self, _: int, batches: Iterable[pa.RecordBatch]) -> Iterator[Keyed]:
        # shards of 4 and 2 rows, links 0–2 and 2–5 → groups [0, 1, 0, 3, 4, 0], the smallest position of each group
        # → is_linked [no, no, yes, no, no, yes], then also the group itself [yes, no, yes, no, no, yes]
        # → shard 0: row [0, 2], group [0, 0]; shard 1: row [1], group [0]
        table, starts = self.compared.table, self.compared.starts
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
        # candidates [3, 7, 9] of a shard that is read 5 rows at a time → of the second batch, which begins at row 5,
        # start 1, stop 3 → its rows [2, 4]
        buckets, first_row = buckets_for(self.compared.table), 0
        for batch in open_shard(self.compared.table, shard, self.read):
            start, stop = np.searchsorted(rows, [first_row, first_row + batch.num_rows])
            if start < stop:
                candidates = batch.take(pa.array(rows[start:stop] - first_row))
                words = self.compared.words(candidates)
                content_N2 = words.content()
                is_repeat = _holders(content_N2, np.zeros(len(content_N2))) != np.arange(len(content_N2))
                members = self.rank(candidates).with_columns(
                    high=content_N2[:, 0].copy(),
                    low=content_N2[:, 1].copy(),
                    repeats=is_repeat,
                    group=groups[start:stop],
                    shard=pl.lit(shard),
                    row=rows[start:stop],
                )
                sets = _as_lists(self.compared.shingles(words).sets(), ~is_repeat)
                keys = scramble(groups[start:stop].astype(np.uint64))
                yield from by_bucket(one_batch(members).append_column("set", sets), keys, buckets)
            first_row += batch.num_rows

    def _decide(self, bucket: int, batches: Iterable[pa.RecordBatch]) -> Iterator[Keyed]:
        candidates = pa.Table.from_batches(batches).combine_chunks()
        lists = candidates.column("set").combine_chunks()
        offsets = lists.offsets.to_numpy().astype(np.int64)
        members = pl.from_arrow(candidates.drop_columns(["set"]))
        texts = _holders(members.select("high", "low").to_numpy(), members["repeats"].to_numpy())
        sets = Shingles(lists.flatten().to_numpy(), offsets - offsets[0])
        yield from self.decide(members.with_columns(text=texts), sets, self.compared.similarity.jaccard)


def _as_lists(sets: Shingles, is_carried: ndarray) -> pa.ListArray:
    """Return the sets as a column, empty where their row does not carry them."""
    # sets {1 2}, {3}, {1 2}, carried [yes, yes, no] → sizes [2, 1, 0], values [1, 2, 3]
    sizes = np.where(is_carried, sets.sizes(), 0)
    values = sets.values[np.repeat(is_carried, sets.sizes())]
    return pa.ListArray.from_arrays(pa.array(offsets_of(sizes), pa.int32()), pa.array(values))


def _holders(content_N2: ndarray, rank: ndarray) -> ndarray:
    """Return for every row the first of lowest rank with the same content: int64[N]."""
    # content [x, y, x, y], rank [1, 0, 0, 0] → order [2, 0, 1, 3], by content and then by rank
    # → is_new [yes, no, yes, no] → run [0, 0, 1, 1], the first rows of the runs [2, 1] → holders [2, 1, 2, 1]
    order = np.lexsort((rank, content_N2[:, 1], content_N2[:, 0]))
    is_new = np.append(True, (content_N2[order[1:]] != content_N2[order[:-1]]).any(axis=1))
    run = np.cumsum(is_new) - 1
    holders = np.empty(len(order), np.int64)
    holders[order] = order[is_new][run]
    return holders


def _open_candidates(batches: Iterable[pa.RecordBatch]) -> tuple[ndarray, ndarray]:
    """Return rows and groups of the undecided candidates, by ascending row."""
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


@inlined
def _part_of(key: np.uint32, parts: int) -> np.int64:
    return np.int64((key >> np.uint32(20)) & np.uint32(parts - 1))


@kernel
def _in_parts(keys: ndarray, positions: ndarray, parts: int) -> tuple[ndarray, ndarray, ndarray]:
    """Return keys (uint32) and positions part by part, and the borders of the parts."""
    # parts [1, 0, 1] of keys [a, b, c] → starts [0, 1, 3], keys [b, a, c]
    starts = np.zeros(parts + 1, np.int64)
    for row in range(len(keys)):
        starts[_part_of(keys[row], parts) + 1] += 1
    starts = np.cumsum(starts)
    parted_keys, parted_positions, free = np.empty_like(keys), np.empty_like(positions), starts.copy()
    for row in range(len(keys)):
        part = _part_of(keys[row], parts)
        parted_keys[free[part]], parted_positions[free[part]] = keys[row], positions[row]
        free[part] += 1
    return parted_keys, parted_positions, starts


@kernel
def _links(keys: ndarray, positions: ndarray) -> tuple[ndarray, ndarray]:
    """Return pairs of positions that connect all those with one key (uint32): two arrays of [L].

    Keys are parted first, so that the table in which a part's keys meet fits a cache.
    """
    # keys [a, b, a, a], positions [5, 6, 7, 9] → the slot of a holds row 0, that of b row 1 → left [5, 5], right [7, 9]
    parts = 1
    while parts * KEYS_IN_CACHE < len(keys):
        parts *= 2
    parted_keys, parted_positions, starts = _in_parts(keys, positions, parts)
    slot_rows, count = np.empty(4 * np.diff(starts).max(), np.int64), 0  # of every slot the row that came first, or -1
    left, right = np.empty(len(keys), positions.dtype), np.empty(len(keys), positions.dtype)
    for part in range(parts):
        slots = 1
        while slots < 2 * (starts[part + 1] - starts[part]):
            slots *= 2
        slot_rows[:slots] = -1
        for row in range(starts[part], starts[part + 1]):
            slot = np.int64(parted_keys[row]) & (slots - 1)
            while slot_rows[slot] >= 0 and parted_keys[slot_rows[slot]] != parted_keys[row]:
                slot = (slot + 1) & (slots - 1)
            first = slot_rows[slot]
            if first < 0:
                slot_rows[slot] = row
            elif parted_positions[first] != parted_positions[row]:
                left[count], right[count] = parted_positions[first], parted_positions[row]
                count += 1
    return left[:count], right[:count]


@dataclass
class DropDuplicates(beam.PTransform):
    """Turn (chunks, decisions so far) into decisions that drop rows which repeat one that is kept, and name it.

    `exact_duplicate`: all but the preferred of the rows with the same words. `near_duplicate`: of the preferred, every
    one that is near one that is kept; they are asked in the order of preference.
    """

    table: Table
    columns: tuple[str, ...]
    similarity: Similarity
    preference: Preference = field(default_factory=Preference)

    def expand(self, rows: Any) -> beam.PCollection[Keyed]:
        chunks, decided = rows
        compared = ComparedColumns(self.table, self.columns, self.similarity)
        keys = chunks | BandKeys(compared)
        return (keys, decided) | GroupCandidates(compared, self.preference.rank, _drop_repeats)


def _drop_repeats(members: pl.DataFrame, sets: Shingles, threshold: float) -> Iterator[Keyed]:
    # texts [4, 9, 4] of the members in order of preference → the first member of each text [0, 1], numbers [0, 1, 0]
    # → first_alike [0, 1, 0] → is_first [yes, yes, no] → repeated [-1, -1, 0]
    members = members.sort("group", *PREFERRED)
    texts = members["text"].to_numpy()
    _, first, numbers = np.unique(texts, return_index=True, return_inverse=True)
    first_alike = first[numbers]
    is_first = first_alike == np.arange(len(texts))
    yield from drop_repeats(members, np.where(is_first, -1, first_alike), "exact_duplicate")
    distinct = members.filter(is_first)
    repeated = kept_neighbours(sets.take(texts[is_first]), distinct["group"].to_numpy(), threshold)
    yield from drop_repeats(distinct, repeated, "near_duplicate")
