"""Texts as sets of word n-grams (shingles): what near-duplicate and leakage checks compare."""

from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from transforms.texts.kernels import kernel
from transforms.texts.words import GOLDEN, Words, mix


@dataclass(frozen=True)
class Shingles:
    """Hashes of the n-grams of N texts, in order: text i has `values[offsets[i]:offsets[i + 1]]`."""

    values: ndarray  # uint64[M]; uint32[M] where `short`
    offsets: ndarray  # int64[N + 1]

    def sizes(self) -> ndarray:
        return np.diff(self.offsets)

    def short(self) -> "Shingles":
        """Return the upper halves of the hashes, enough where exact similarities or other bands decide too."""
        return Shingles((self.values >> np.uint64(32)).astype(np.uint32), self.offsets)

    def sets(self) -> "Shingles":
        """Return the distinct short hashes of every text, ascending."""
        values, offsets = self.short().values, np.empty_like(self.offsets)
        return Shingles(values[: _distinct(values, self.offsets, offsets)], offsets)

    def distinct(self) -> ndarray:
        """Return how many different hashes each text has, unless they are `short`: int64[N]."""
        return _count_distinct(self.values, self.offsets)

    def take(self, texts: ndarray) -> "Shingles":
        """Return the shingles of these texts, by number, in this order."""
        sizes = self.sizes()[texts]
        return Shingles(self.values[expand(self.offsets[texts], sizes)], offsets_of(sizes))


def scrambled(count: int, seed: int) -> ndarray:
    """Return fixed pseudo-random uint64 values, the same in every version of NumPy."""
    return scramble((np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed << 32)) * GOLDEN)


def offsets_of(sizes: ndarray) -> ndarray:
    """Return where runs of these sizes begin and the last one ends, laid end to end: int64[N + 1]."""
    # sizes [2 0 3] → [0 2 2 5]
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def expand(starts: ndarray, sizes: ndarray) -> ndarray:
    """Return the positions start, start + 1, … of every run, laid end to end."""
    # starts [4 9], sizes [2 3] → [4 5 9 10 11]
    #   laid end to end the runs begin at [0 2], so they shift by [4 7]
    #   [0 1 2 3 4] + [4 4 7 7 7]
    begins = np.cumsum(sizes) - sizes
    return np.arange(sizes.sum()) + np.repeat(starts - begins, sizes)


def shingles(words: Words, n: int) -> Shingles:
    """Return hashes of all runs of n words in each text.

    A text of fewer words has one, a text of none has none.
    """
    # n = 2, words [a b c | d | ] → counts [3 1 0], runs [2 1 0]: [ab bc | d | ], offsets [0 2 3 3]
    counts = np.diff(words.offsets)
    runs = np.where(counts > 0, np.maximum(counts - n + 1, 1), 0)
    offsets = offsets_of(runs)
    return Shingles(_hash_runs(words.values, words.offsets, n, offsets), offsets)


def jaccard(left: Shingles, i: ndarray, right: Shingles, j: ndarray) -> ndarray:
    """Return |A ∩ B| / |A ∪ B| of the sets left[i] and right[j], pair by pair: float64[len(i)]."""
    return _jaccard(left.values, left.offsets, i, right.values, right.offsets, j)


@kernel
def scramble(values: ndarray) -> ndarray:
    """Mix the values in place and return them."""
    for index in range(len(values)):
        values[index] = mix(values[index])
    return values


@kernel
def _hash_runs(values: ndarray, offsets: ndarray, n: int, run_offsets: ndarray) -> ndarray:
    runs = np.empty(run_offsets[-1], np.uint64)
    for row in range(len(offsets) - 1):
        last = offsets[row + 1]
        for run in range(run_offsets[row + 1] - run_offsets[row]):
            start = offsets[row] + run
            code = np.uint64(n)
            for position in range(start, min(start + n, last)):
                code = code * GOLDEN + values[position]
            runs[run_offsets[row] + run] = mix(code)
    return runs


@kernel
def _distinct(values: ndarray, offsets: ndarray, distinct_offsets: ndarray) -> int:
    """Move the distinct values (uint32) of every text, ascending, to the front, and return their number.

    Hashes are spread evenly, so each is put next to where it belongs, and few steps of an insertion sort remain.
    """
    # One text of 4 values, as shares of 2 ** 32: .9 .1 .6 .1 → buckets 3 0 2 0
    #   sizes of the buckets, one further on: ends [0 2 0 1 1]; summed up, where each begins: [0 2 2 3 4]
    #   each value is put where its bucket begins, which then moves on: ordered [.1 .1 .6 .9], distinct .1 .6 .9
    longest = 0
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    ends, ordered, count = np.empty(longest + 1, np.int64), np.empty(longest, values.dtype), 0
    for row in range(len(offsets) - 1):
        start, size = offsets[row], offsets[row + 1] - offsets[row]
        ends[: size + 1] = 0
        for position in range(start, start + size):
            ends[((np.uint64(values[position]) * np.uint64(size)) >> np.uint64(32)) + np.uint64(1)] += 1
        for bucket in range(size):
            ends[bucket + 1] += ends[bucket]
        for position in range(start, start + size):
            bucket_of = (np.uint64(values[position]) * np.uint64(size)) >> np.uint64(32)
            ordered[ends[bucket_of]] = values[position]
            ends[bucket_of] += 1
        distinct_offsets[row] = count
        for index in range(size):
            value, hole = ordered[index], index
            while hole > 0 and ordered[hole - 1] > value:
                ordered[hole] = ordered[hole - 1]
                hole -= 1
            ordered[hole] = value
        for index in range(size):
            if index == 0 or ordered[index] != ordered[index - 1]:
                values[count] = ordered[index]
                count += 1
    distinct_offsets[-1] = count
    return count


@kernel
def _count_distinct(values: ndarray, offsets: ndarray) -> ndarray:
    counts = np.zeros(len(offsets) - 1, np.int64)
    longest = 0
    for row in range(len(counts)):
        longest = max(longest, offsets[row + 1] - offsets[row])
    slots = 2
    while slots < 2 * longest:
        slots *= 2
    seen, of_row = np.empty(slots, values.dtype), np.full(slots, -1, np.int64)
    for row in range(len(counts)):
        for position in range(offsets[row], offsets[row + 1]):
            slot = np.int64(values[position] >> np.uint64(20)) & (slots - 1)
            while of_row[slot] == row and seen[slot] != values[position]:
                slot = (slot + 1) & (slots - 1)
            if of_row[slot] != row:
                seen[slot], of_row[slot] = values[position], row
                counts[row] += 1
    return counts


@kernel
def similarity(
    left: ndarray, left_start: int, left_stop: int, right: ndarray, right_start: int, right_stop: int
) -> float:
    """Return the Jaccard similarity of two ascending runs of distinct values."""
    i, j, shared = left_start, right_start, 0
    while i < left_stop and j < right_stop:
        if left[i] < right[j]:
            i += 1
        elif left[i] > right[j]:
            j += 1
        else:
            shared += 1
            i += 1
            j += 1
    union = left_stop - left_start + right_stop - right_start - shared
    return shared / union if union else 0.0


@kernel
def _jaccard(
    left: ndarray,
    left_offsets: ndarray,
    i: ndarray,
    right: ndarray,
    right_offsets: ndarray,
    j: ndarray,
) -> ndarray:
    result = np.empty(len(i), np.float64)
    for pair in range(len(i)):
        a, b = i[pair], j[pair]
        result[pair] = similarity(
            left, left_offsets[a], left_offsets[a + 1], right, right_offsets[b], right_offsets[b + 1]
        )
    return result
