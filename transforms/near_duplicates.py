"""Groups of near-duplicates among shingle sets that fit in memory: bands propose pairs, Jaccard decides."""

from dataclasses import dataclass

import numpy as np

from transforms.minhash import band_keys, bands_for
from transforms.shingles import Shingles, expand, jaccard, offsets_of

MAX_PIVOTS = 16


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


def connected(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The smallest node of every node's connected component: int64[count], for nodes 0 … count - 1 and these links."""
    labels = np.arange(count)
    while len(left):
        low = np.minimum(labels[left], labels[right])
        np.minimum.at(labels, labels[left], low)
        np.minimum.at(labels, labels[right], low)
        while (labels != labels[labels]).any():
            labels = labels[labels]
        apart = labels[left] != labels[right]
        left, right = left[apart], right[apart]
    return labels


def near_duplicate_groups(sets: Shingles, threshold: float) -> np.ndarray:
    """The smallest member of every set's group of near-duplicates: int64[N]. No set may be empty.

    Groups are the connected components of the pairs that share a band and whose Jaccard similarity reaches the
    threshold. Within a band, a few pivots at a time are compared with the members behind them, until those that remain
    are all connected: a thousand copies of one text cost a thousand comparisons, not half a million.
    """
    count = len(sets.offsets) - 1
    labels = np.arange(count)
    left = right = np.empty(0, np.int64)
    members, sizes = _runs(band_keys(sets, bands_for(threshold)))
    pivots = 1
    while True:
        members, sizes = _unsettled(members, sizes, labels)
        if not len(members):
            return labels
        low, high = _pairs(members, sizes, pivots, labels)
        linked = _reach(sets, low, high, threshold)
        if linked.any():
            left, right = np.concatenate([left, low[linked]]), np.concatenate([right, high[linked]])
            labels = connected(count, left, right)
        members = members[_positions(sizes) >= pivots]
        sizes = np.maximum(sizes - pivots, 0)
        pivots = min(2 * pivots, MAX_PIVOTS)


def _runs(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns of a [bands, N] array that share a key, run after run, and the sizes of the runs."""
    order = np.argsort(keys, axis=None, kind="stable")
    is_new = np.diff(keys.ravel()[order]) != 0
    ends = np.append(np.flatnonzero(is_new) + 1, len(order)) if len(order) else np.empty(0, np.int64)
    return order % max(keys.shape[1], 1), np.diff(ends, prepend=0)


def _positions(sizes: np.ndarray) -> np.ndarray:
    """0, 1, … within every run."""
    return expand(np.zeros(len(sizes), np.int64), sizes)


def _unsettled(members: np.ndarray, sizes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The runs whose members are not all connected yet."""
    sizes = sizes[sizes > 0]
    if not len(sizes):
        return members[:0], sizes
    starts = offsets_of(sizes)[:-1]
    of_members = labels[members]
    is_open = np.minimum.reduceat(of_members, starts) != np.maximum.reduceat(of_members, starts)
    return members[np.repeat(is_open, sizes)], sizes[is_open]


def _pairs(members: np.ndarray, sizes: np.ndarray, pivots: int, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def _reach(sets: Shingles, i: np.ndarray, j: np.ndarray, threshold: float) -> np.ndarray:
    """Which pairs are at least so similar; pairs whose sizes rule it out are not compared."""
    sizes = sets.sizes()
    possible = np.minimum(sizes[i], sizes[j]) >= threshold * np.maximum(sizes[i], sizes[j])
    reach = np.zeros(len(i), np.bool_)
    reach[possible] = jaccard(sets, i[possible], sets, j[possible]) >= threshold
    return reach
