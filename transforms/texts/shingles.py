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
        """The upper halves of the hashes, enough where exact similarities or other bands decide too."""
        return Shingles((self.values >> np.uint64(32)).astype(np.uint32), self.offsets)

    def sets(self) -> "Shingles":
        """The distinct short hashes of every text, ascending."""
        values, offsets = self.short().values, np.empty_like(self.offsets)
        return Shingles(values[: _distinct(values, self.offsets, offsets)], offsets)

    def distinct(self) -> ndarray:
        """How many different ones each text has, unless `short`: int64[N]."""
        return _count_distinct(self.values, self.offsets)

    def take(self, texts: ndarray) -> "Shingles":
        """Those of the texts at these places, in this order."""
        sizes = self.sizes()[texts]
        return Shingles(self.values[expand(self.offsets[texts], sizes)], offsets_of(sizes))


def scrambled(count: int, seed: int) -> ndarray:
    """`count` fixed pseudo-random uint64 values; the same everywhere, whatever the version of NumPy."""
    return scramble((np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed << 32)) * GOLDEN)


def offsets_of(sizes: ndarray) -> ndarray:
    """Where runs of these sizes begin when laid end to end, and where the last one ends: int64[N + 1]."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def expand(starts: ndarray, sizes: ndarray) -> ndarray:
    """The positions start, start + 1, … of every run, laid end to end."""
    return np.arange(sizes.sum()) + np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)


def shingles(words: Words, n: int) -> Shingles:
    """Hashes of all runs of n words in each of N texts; one for fewer words, none where there is no word."""
    counts = np.diff(words.offsets)
    offsets = offsets_of(np.where(counts > 0, np.maximum(counts - n + 1, 1), 0))
    return Shingles(_hash_runs(words.values, words.offsets, n, offsets), offsets)


def jaccard(left: Shingles, i: ndarray, right: Shingles, j: ndarray) -> ndarray:
    """|A ∩ B| / |A ∪ B| of the sets left[i] and right[j], pair by pair: float64[len(i)]."""
    return _jaccard(left.values, left.offsets, i, right.values, right.offsets, j)


@kernel
def scramble(values: ndarray) -> ndarray:
    """The values, mixed in place."""
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
def _distinct(values: ndarray, offsets: ndarray, found: ndarray) -> int:
    """Move the distinct values (uint32) of every text, ascending, to the front; how many there are.

    Hashes are spread evenly, so each is put next to where it belongs, and few steps of an insertion sort remain.
    """
    longest = 0
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    ends, placed, count = np.empty(longest + 1, np.int64), np.empty(longest, values.dtype), 0
    for row in range(len(offsets) - 1):
        start, size = offsets[row], offsets[row + 1] - offsets[row]
        ends[: size + 1] = 0
        for position in range(start, start + size):
            ends[((np.uint64(values[position]) * np.uint64(size)) >> np.uint64(32)) + np.uint64(1)] += 1
        for place in range(size):
            ends[place + 1] += ends[place]
        for position in range(start, start + size):
            share = (np.uint64(values[position]) * np.uint64(size)) >> np.uint64(32)
            placed[ends[share]] = values[position]
            ends[share] += 1
        found[row] = count
        for place in range(size):
            value, hole = placed[place], place
            while hole > 0 and placed[hole - 1] > value:
                placed[hole] = placed[hole - 1]
                hole -= 1
            placed[hole] = value
        for place in range(size):
            if place == 0 or placed[place] != placed[place - 1]:
                values[count] = placed[place]
                count += 1
    found[-1] = count
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
    """The Jaccard similarity of two ascending runs of distinct values."""
    one, other, shared = left_start, right_start, 0
    while one < left_stop and other < right_stop:
        if left[one] < right[other]:
            one += 1
        elif left[one] > right[other]:
            other += 1
        else:
            shared += 1
            one += 1
            other += 1
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
