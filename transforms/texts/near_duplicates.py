"""Near-duplicates among shingle sets that fit in memory: bands propose pairs, Jaccard decides.

`kept_neighbours` says what each set repeats: of the sets in the order given, one that is near a kept one repeats it,
any other is kept. `near_duplicate_groups` goes on from neighbour to neighbour, so that unlike texts can be in one
group: right for a split, where none of them may have a neighbour on the other side, and wrong for dropping.
"""

from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from transforms.texts.kernels import inlined, kernel
from transforms.texts.minhash import band_keys, bands_for
from transforms.texts.shingles import Shingles, expand, jaccard, offsets_of, similarity

MAX_PIVOTS = 16
SMALL_GROUP = 64  # up to which comparing all pairs is faster than hashing


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """When two texts count as near-duplicates: from which Jaccard similarity of their sets of word n-grams on."""

    words: int = 3
    jaccard: float = 0.7

    def __post_init__(self) -> None:
        if self.words < 1:
            raise ValueError(f"words: an n-gram has at least one word, not {self.words}")
        if not 0 < self.jaccard <= 1:
            raise ValueError(f"jaccard: {self.jaccard} is not a similarity above 0 and up to 1")


@kernel
def connect(parents: ndarray, left: ndarray, right: ndarray) -> None:
    """Join the groups of these pairs of nodes. `parents` says for every node a smaller one of its group, or itself."""
    for pair in range(len(left)):
        one, other = left[pair], right[pair]
        while parents[one] != one:
            parents[one] = parents[parents[one]]
            one = parents[one]
        while parents[other] != other:
            parents[other] = parents[parents[other]]
            other = parents[other]
        parents[max(one, other)] = min(one, other)


@kernel
def connected(parents: ndarray) -> ndarray:
    """The smallest node of every node's group: int64[N]."""
    smallest = parents.copy()
    for node in range(len(parents)):
        smallest[node] = smallest[parents[node]]
    return smallest


def kept_neighbours(sets: Shingles, groups: ndarray, threshold: float) -> ndarray:
    """Of every set an earlier one that it repeats, or -1 where it is kept: int64[N].

    `groups`, ascending, says which sets may be near each other. A set repeats a kept one of its group whose Jaccard
    similarity to it reaches the threshold; in a large group, one that shares a band with it too.
    """
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    sizes = np.diff(starts, append=len(groups))
    repeated = _kept_in_small_groups(sets.values, sets.offsets, starts, sizes, threshold)
    large = np.flatnonzero(np.repeat(sizes > SMALL_GROUP, sizes))
    if len(large):
        some = sets.take(large)
        found = _kept_neighbours(some.values, some.offsets, band_keys(some, bands_for(threshold)), threshold)
        repeated[large] = np.where(found < 0, -1, large[found])
    return repeated


@kernel
def _kept_in_small_groups(
    values: ndarray, offsets: ndarray, starts: ndarray, sizes: ndarray, threshold: float
) -> ndarray:
    repeated = np.full(len(offsets) - 1, -1, np.int64)
    for group in range(len(starts)):
        if sizes[group] > SMALL_GROUP:
            continue
        for row in range(starts[group] + 1, starts[group] + sizes[group]):
            start, stop = offsets[row], offsets[row + 1]
            for other in range(starts[group], row):
                first, last = offsets[other], offsets[other + 1]
                possible = min(stop - start, last - first) >= threshold * max(stop - start, last - first) - 1e-9
                if not possible or repeated[other] >= 0:
                    continue
                if similarity(values, start, stop, values, first, last) >= threshold:
                    repeated[row] = other
                    break
    return repeated


@inlined
def _slot(key: np.uint64, known: ndarray, newest: ndarray) -> np.int64:
    """Where a key stands, or is to be put, in a table with open addressing."""
    slot = np.int64((key >> np.uint64(20)) & np.uint64(len(known) - 1))
    while newest[slot] >= 0 and known[slot] != key:
        slot = (slot + 1) & (len(known) - 1)
    return slot


@kernel
def _kept_neighbours(values: ndarray, offsets: ndarray, keys: ndarray, threshold: float) -> ndarray:
    count, bands = keys.shape
    slots = 2
    while slots < 2 * count * bands:
        slots *= 2
    newest = np.full(slots, -1, np.int64)  # of every key, at its slot, the kept set that came last,
    before = np.full((count, bands), -1, np.int64)  # and of every kept set the one before it with that key
    known = np.empty(slots, np.uint64)
    compared, repeated = np.full(count, -1, np.int64), np.full(count, -1, np.int64)
    for row in range(count):
        start, stop = offsets[row], offsets[row + 1]
        for band in range(bands):
            other = newest[_slot(keys[row, band], known, newest)]
            while other >= 0 and repeated[row] < 0:
                first, last = offsets[other], offsets[other + 1]
                possible = min(stop - start, last - first) >= threshold * max(stop - start, last - first) - 1e-9
                if possible and compared[other] != row:
                    compared[other] = row
                    if similarity(values, start, stop, values, first, last) >= threshold:
                        repeated[row] = other
                other = before[other, band]
            if repeated[row] >= 0:
                break
        if repeated[row] < 0:
            for band in range(bands):
                slot = _slot(keys[row, band], known, newest)
                before[row, band], known[slot], newest[slot] = newest[slot], keys[row, band], row
    return repeated


def near_duplicate_groups(sets: Shingles, threshold: float) -> ndarray:
    """The smallest member of every set's group of near-duplicates: int64[N]. No set may be empty.

    Groups are the connected components of the pairs that share a band and whose Jaccard similarity reaches the
    threshold. Within a band, a few pivots at a time are compared with the members behind them, until those that remain
    are all connected: a thousand copies of one text cost a thousand comparisons, not half a million.
    """
    parents = np.arange(len(sets.offsets) - 1)
    labels = parents.copy()
    members, sizes = _runs(band_keys(sets, bands_for(threshold)))
    pivots = 1
    while True:
        members, sizes = _unsettled(members, sizes, labels)
        if not len(members):
            return labels
        low, high = _pairs(members, sizes, pivots, labels)
        linked = _reach(sets, low, high, threshold)
        if linked.any():
            connect(parents, low[linked], high[linked])
            labels = connected(parents)
        members = members[_positions(sizes) >= pivots]
        sizes = np.maximum(sizes - pivots, 0)
        pivots = min(2 * pivots, MAX_PIVOTS)


def _runs(keys: ndarray) -> tuple[ndarray, ndarray]:
    """Rows of an [N, bands] array that share a key, run after run, and the sizes of the runs."""
    order = np.argsort(keys, axis=None, kind="stable")
    is_new = np.diff(keys.ravel()[order]) != 0
    ends = np.append(np.flatnonzero(is_new) + 1, len(order)) if len(order) else np.empty(0, np.int64)
    return order // max(keys.shape[1], 1), np.diff(ends, prepend=0)


def _positions(sizes: ndarray) -> ndarray:
    """0, 1, … within every run."""
    return expand(np.zeros(len(sizes), np.int64), sizes)


def _unsettled(members: ndarray, sizes: ndarray, labels: ndarray) -> tuple[ndarray, ndarray]:
    """The runs whose members are not all connected yet."""
    sizes = sizes[sizes > 0]
    if not len(sizes):
        return members[:0], sizes
    starts = offsets_of(sizes)[:-1]
    of_members = labels[members]
    is_open = np.minimum.reduceat(of_members, starts) != np.maximum.reduceat(of_members, starts)
    return members[np.repeat(is_open, sizes)], sizes[is_open]


def _pairs(members: ndarray, sizes: ndarray, pivots: int, labels: ndarray) -> tuple[ndarray, ndarray]:
    """The distinct pairs of each run's first `pivots` members with those behind them, where not connected yet."""
    positions, starts, pairs = _positions(sizes), offsets_of(sizes)[:-1], []
    for pivot in range(pivots):
        behind = np.maximum(sizes - pivot - 1, 0)
        ours = np.repeat(members[np.minimum(starts + pivot, len(members) - 1)], behind)
        theirs = members[positions > pivot]
        apart = labels[ours] != labels[theirs]
        pairs.append(np.minimum(ours, theirs)[apart] * len(labels) + np.maximum(ours, theirs)[apart])
    distinct = np.sort(np.concatenate(pairs))
    return np.divmod(distinct[np.diff(distinct, prepend=-1) != 0], len(labels))


def _reach(sets: Shingles, i: ndarray, j: ndarray, threshold: float) -> ndarray:
    """Which pairs are at least so similar; pairs whose sizes rule it out are not compared."""
    sizes = sets.sizes()
    possible = np.minimum(sizes[i], sizes[j]) >= threshold * np.maximum(sizes[i], sizes[j]) - 1e-9
    reach = np.zeros(len(i), np.bool_)
    reach[possible] = jaccard(sets, i[possible], sets, j[possible]) >= threshold
    return reach
