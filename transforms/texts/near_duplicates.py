"""Near-duplicates among shingle sets that fit in memory: bands propose pairs, Jaccard decides.

`kept_neighbours` says what each set repeats: of the sets in the order given, one that is near a kept one repeats it,
any other is kept. `near_duplicate_groups` goes on from neighbour to neighbour, so that unlike texts can be in one
group: right for a split, where none of them may have a neighbour on the other side, and wrong for dropping.

Shapes: N sets, B bands; a run is a stretch of neighbours in a flat array, M are the members of all runs.
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
    """Join the groups of these pairs of nodes.

    `parents` says for every node a smaller one of its group, or itself.
    """
    for pair in range(len(left)):
        left_root, right_root = left[pair], right[pair]
        while parents[left_root] != left_root:
            parents[left_root] = parents[parents[left_root]]
            left_root = parents[left_root]
        while parents[right_root] != right_root:
            parents[right_root] = parents[parents[right_root]]
            right_root = parents[right_root]
        parents[max(left_root, right_root)] = min(left_root, right_root)


@kernel
def connected(parents: ndarray) -> ndarray:
    """Return the smallest node of every node's group: int64[N]."""
    smallest = parents.copy()
    for node in range(len(parents)):
        smallest[node] = smallest[parents[node]]
    return smallest


def kept_neighbours(sets: Shingles, groups: ndarray, threshold: float) -> ndarray:
    """Return for every set an earlier one that it repeats, or -1: int64[N].

    A set with -1 is kept. `groups`, ascending, says which sets may be near each other. A set repeats a kept one of its
    group whose Jaccard similarity to it reaches the threshold; in a large group, one that shares a band with it too.
    """
    # groups [3 3 4 8 8 8] → starts [0 2 3], sizes [2 1 3]; were 2 the limit of small ones: large [3 4 5].
    # Among these three the second repeats the first, [-1 0 -1]; as numbers of all sets that is [-1 3 -1].
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    sizes = np.diff(starts, append=len(groups))
    repeated = _kept_in_small_groups(sets.values, sets.offsets, starts, sizes, threshold)
    is_large = np.repeat(sizes > SMALL_GROUP, sizes)
    large = np.flatnonzero(is_large)
    if len(large):
        large_sets = sets.take(large)
        keys_NB = band_keys(large_sets, bands_for(threshold))
        neighbours = _kept_among_many(large_sets.values, large_sets.offsets, keys_NB, threshold)
        repeated[large] = np.where(neighbours < 0, -1, large[neighbours])
    return repeated


@inlined
def _may_reach(size: np.int64, earlier_size: np.int64, threshold: float) -> np.bool_:
    """Return whether two sets of these sizes can be so similar.

    Of 3 and 10, at most 3 in 10 are shared.
    """
    return min(size, earlier_size) >= threshold * max(size, earlier_size) - 1e-9  # of rounding


@kernel
def _kept_in_small_groups(
    values: ndarray, offsets: ndarray, starts: ndarray, sizes: ndarray, threshold: float
) -> ndarray:
    """Compare every set with all kept ones before it in its group."""
    repeated = np.full(len(offsets) - 1, -1, np.int64)
    for group in range(len(starts)):
        if sizes[group] > SMALL_GROUP:
            continue
        for row in range(starts[group] + 1, starts[group] + sizes[group]):
            start, stop = offsets[row], offsets[row + 1]
            for earlier in range(starts[group], row):
                first, last = offsets[earlier], offsets[earlier + 1]
                if not _may_reach(stop - start, last - first, threshold) or repeated[earlier] >= 0:
                    continue
                if similarity(values, start, stop, values, first, last) >= threshold:
                    repeated[row] = earlier
                    break
    return repeated


@inlined
def _slot(key: np.uint64, slot_keys: ndarray, newest: ndarray) -> np.int64:
    """Return where a key stands, or is to be put, in a table with open addressing."""
    slot = np.int64((key >> np.uint64(20)) & np.uint64(len(slot_keys) - 1))
    while newest[slot] >= 0 and slot_keys[slot] != key:
        slot = (slot + 1) & (len(slot_keys) - 1)
    return slot


@kernel
def _kept_among_many(values: ndarray, offsets: ndarray, keys_NB: ndarray, threshold: float) -> ndarray:
    """Compare every set with kept ones before it that share a band, the last first."""
    # One band, in which the sets 0, 1 and 2 have the same key; 0 and 1 are unlike.
    #   0 is kept: newest[slot] = 0, before_NB[0] = -1
    #   1 meets 0 and is kept: newest[slot] = 1, before_NB[1] = 0
    #   2 meets 1 = newest[slot], then 0 = before_NB[1], then -1: the end
    count, bands = keys_NB.shape
    slots = 2
    while slots < 2 * count * bands:
        slots *= 2
    newest = np.full(slots, -1, np.int64)  # of every key, at its slot, the kept set that came last,
    before_NB = np.full((count, bands), -1, np.int64)  # and of every kept set the one before it with that key
    slot_keys = np.empty(slots, np.uint64)
    compared, repeated = np.full(count, -1, np.int64), np.full(count, -1, np.int64)
    for row in range(count):
        start, stop = offsets[row], offsets[row + 1]
        for band in range(bands):
            earlier = newest[_slot(keys_NB[row, band], slot_keys, newest)]
            while earlier >= 0 and repeated[row] < 0:
                first, last = offsets[earlier], offsets[earlier + 1]
                if _may_reach(stop - start, last - first, threshold) and compared[earlier] != row:
                    compared[earlier] = row
                    if similarity(values, start, stop, values, first, last) >= threshold:
                        repeated[row] = earlier
                earlier = before_NB[earlier, band]
            if repeated[row] >= 0:
                break
        if repeated[row] < 0:
            for band in range(bands):
                slot = _slot(keys_NB[row, band], slot_keys, newest)
                before_NB[row, band], slot_keys[slot], newest[slot] = newest[slot], keys_NB[row, band], row
    return repeated


def near_duplicate_groups(sets: Shingles, threshold: float) -> ndarray:
    """Return the smallest member of every set's group of near-duplicates: int64[N]. No set may be empty.

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
        is_linked = _reach(sets, low, high, threshold)
        if is_linked.any():
            connect(parents, low[is_linked], high[is_linked])
            labels = connected(parents)
        members = members[_positions(sizes) >= pivots]
        sizes = np.maximum(sizes - pivots, 0)
        pivots = min(2 * pivots, MAX_PIVOTS)


def _runs(keys_NB: ndarray) -> tuple[ndarray, ndarray]:
    """Return the sets that share a key, run after run (int64[M]), and the runs' sizes."""
    # keys_NB [7 1]   flat 7 1 7 2 9 1, ascending 1 1 | 2 | 7 7 | 9: order [1 5 3 0 2 4]
    #         [7 2]   sets are positions // 2 bands: [0 2 | 1 | 0 1 | 2]
    #         [9 1]   ends [2 3 5 6], sizes [2 1 2 1]
    order = np.argsort(keys_NB, axis=None, kind="stable")
    is_last = np.diff(keys_NB.ravel()[order]) != 0
    ends = np.append(np.flatnonzero(is_last) + 1, len(order)) if len(order) else np.empty(0, np.int64)
    return order // max(keys_NB.shape[1], 1), np.diff(ends, prepend=0)


def _positions(sizes: ndarray) -> ndarray:
    """Return the positions within runs, for sizes [2 3] 0 1 0 1 2."""
    return expand(np.zeros(len(sizes), np.int64), sizes)


def _unsettled(members: ndarray, sizes: ndarray, labels: ndarray) -> tuple[ndarray, ndarray]:
    """Return the runs whose members are not all connected yet."""
    # members [0 2 | 1 3] with labels [0 0 | 1 3]: smallest [0 1], largest [0 3] → is_open [0 1] → [1 3], sizes [2]
    sizes = sizes[sizes > 0]
    if not len(sizes):
        return members[:0], sizes
    starts = offsets_of(sizes)[:-1]
    member_labels = labels[members]
    smallest, largest = np.minimum.reduceat(member_labels, starts), np.maximum.reduceat(member_labels, starts)
    is_open = smallest != largest
    return members[np.repeat(is_open, sizes)], sizes[is_open]


def _pairs(members: ndarray, sizes: ndarray, pivots: int, labels: ndarray) -> tuple[ndarray, ndarray]:
    """Return the distinct pairs of each run's first `pivots` members with those behind.

    Pairs that are connected already are left out.
    """
    # members [0 2 5 | 1 4] of 6 sets, 2 pivots, nothing connected
    #   pivot 0: behind [2 1], ours [0 0 1], theirs [2 5 4]; pivot 1: behind [1 0], ours [2], theirs [5]
    #   one number a pair, low * 6 + high: [2 5 10 17] → low [0 0 1 2], high [2 5 4 5]
    count = len(labels)
    positions, starts, pairs = _positions(sizes), offsets_of(sizes)[:-1], []
    for pivot in range(pivots):
        behind = np.maximum(sizes - pivot - 1, 0)
        pivot_members = members[np.minimum(starts + pivot, len(members) - 1)]
        ours, theirs = np.repeat(pivot_members, behind), members[positions > pivot]
        is_apart = labels[ours] != labels[theirs]
        low, high = np.minimum(ours, theirs)[is_apart], np.maximum(ours, theirs)[is_apart]
        pairs.append(low * count + high)
    ascending = np.sort(np.concatenate(pairs))
    is_new = np.diff(ascending, prepend=-1) != 0
    return np.divmod(ascending[is_new], count)


def _reach(sets: Shingles, i: ndarray, j: ndarray, threshold: float) -> ndarray:
    """Return which pairs reach the threshold; those whose sizes rule it out are not compared."""
    sizes = sets.sizes()
    is_possible = np.minimum(sizes[i], sizes[j]) >= threshold * np.maximum(sizes[i], sizes[j]) - 1e-9  # of rounding
    is_near = np.zeros(len(i), np.bool_)
    is_near[is_possible] = jaccard(sets, i[is_possible], sets, j[is_possible]) >= threshold
    return is_near
