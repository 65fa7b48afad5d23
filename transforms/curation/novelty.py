"""Novelty: texts whose ROUGE-L against every text kept before is low (Self-Instruct, Wang et al. 2023, section 2.2).

ROUGE-L is the F1 of the longest common subsequence: 2 LCS / (m + n) for texts of m and n words. The result is that of
comparing every text with all that were kept, but few pairs are compared. A pair above the threshold t shares more than
t (m + n) / 2 words, repeated ones counted; so, with each text's words sorted from the rarest to the most frequent, the
first m - t (m + n) / 2 + 1 of one meet those of the other (prefix filter; Chaudhuri et al. 2006).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
from numpy import ndarray

from transforms.curation.decisions import kept_rows, one_batch
from transforms.curation.preference import PREFERRED, Preference, drop_repeats
from transforms.tables.chunks import Chunk, Keyed
from transforms.texts.kernels import kernel
from transforms.texts.words import Words, words_of

BITS = 64


def similar_kept(words: Words, threshold: float) -> ndarray:
    """Return for every text an earlier kept one that it is similar to, or -1: int64[N].

    That is the first whose ROUGE-L with it is above `threshold`. Texts with such a one are not kept, all others are. A
    text without words is always kept.
    """
    # texts [a b a], [b c]: tokens [0, 1, 0, 1, 2] → elements [a, b, a again, b, c], numbered [0, 2, 1, 2, 3] for a,
    # a again, b, c with counts [1, 1, 2, 1] → rank [0, 1, 3, 2], the rarest first → elements [0, 3, 1, 3, 2]
    # → sorted within each text [0, 1, 3 | 2, 3]: a, a again, b | c, b
    _, tokens = np.unique(words.values, return_inverse=True)
    elements = _occurrences(tokens, words.offsets)
    _, elements, counts = np.unique(elements, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), np.int64)
    rank[np.argsort(counts, kind="stable")] = np.arange(len(counts))
    elements = rank[elements]
    rows = np.repeat(np.arange(len(words.offsets) - 1), np.diff(words.offsets))
    elements = elements[np.lexsort((elements, rows))]
    prefixes = prefix_sizes(np.diff(words.offsets), threshold)
    return _similar_kept(tokens, elements, words.offsets, prefixes, threshold, len(counts))


def prefix_sizes(sizes: ndarray, threshold: float) -> ndarray:
    """Return how many of a text's rarest words must be looked up, by its number of words."""
    # 10 words at 0.7: a similar text has at least 6 and shares 6 → one of the rarest 10 - 6 + 1 = 5 is among them
    shortest = np.floor(sizes * threshold / (2 - threshold) + 1e-9) + 1  # that can be similar at all
    shared = np.floor(threshold * (sizes + shortest) / 2 + 1e-9) + 1
    return np.clip(sizes - shared + 1, 0, sizes).astype(np.int64)


@kernel
def _occurrences(tokens: ndarray, offsets: ndarray) -> ndarray:
    """Tell the words of a text apart by how often each stood in it before: int64[M].

    tokens [0, 1, 0] of one text of 3 words → [0 * 3 + 0, 1 * 3 + 0, 0 * 3 + 1] = [0, 3, 1]
    """
    seen = np.zeros(tokens.max() + 1 if len(tokens) else 0, np.int64)
    longest = np.int64(0)
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    elements = np.empty(len(tokens), np.int64)
    for row in range(len(offsets) - 1):
        for position in range(offsets[row], offsets[row + 1]):
            elements[position] = tokens[position] * longest + seen[tokens[position]]
            seen[tokens[position]] += 1
        for position in range(offsets[row], offsets[row + 1]):
            seen[tokens[position]] = 0
    return elements


@kernel
def _similar_kept(
    tokens: ndarray, elements: ndarray, offsets: ndarray, prefixes: ndarray, threshold: float, count: int
) -> ndarray:
    """Return what `similar_kept` returns.

    `elements` are sorted within each text, so that its first `prefixes[row]` are the rarest.
    """
    newest = np.full(count, -1, np.int64)  # of every element the last entry of a kept text's prefix,
    before = np.full(prefixes.sum(), -1, np.int64)  # of every entry the one before it with that element,
    owner = np.empty(prefixes.sum(), np.int64)  # and its text
    compared = np.full(len(offsets) - 1, -1, np.int64)
    similar = np.full(len(offsets) - 1, -1, np.int64)
    masks = np.zeros(tokens.max() + 1 if len(tokens) else 0, np.uint64)
    entries = 0
    for row in range(len(offsets) - 1):
        start, stop = offsets[row], offsets[row + 1]
        size = stop - start
        for position in range(start, min(stop, start + BITS)):
            masks[tokens[position]] |= np.uint64(1) << np.uint64(position - start)
        for position in range(start, start + prefixes[row]):
            entry = newest[elements[position]]
            while entry >= 0:
                earlier = owner[entry]
                entry = before[entry]
                if compared[earlier] == row or (0 <= similar[row] < earlier):
                    continue
                compared[earlier] = row
                first, last = offsets[earlier], offsets[earlier + 1]
                needed = threshold * (size + last - first) / 2
                if min(size, last - first) > needed:
                    if size <= BITS:
                        common = _common_by_bits(masks, tokens, first, last)
                    else:
                        common = _common(tokens, start, stop, first, last)
                    if common > needed + 1e-9:
                        similar[row] = earlier
        for position in range(start, min(stop, start + BITS)):
            masks[tokens[position]] = 0
        if similar[row] < 0:
            for position in range(start, start + prefixes[row]):
                before[entries], owner[entries] = newest[elements[position]], row
                newest[elements[position]] = entries
                entries += 1
    return similar


@kernel
def _common_by_bits(masks: ndarray, tokens: ndarray, start: int, stop: int) -> int:
    """Return the length of the longest common subsequence with a text of up to 64 words.

    That text comes as masks (Hyyrö 2004).
    """
    state = ~np.uint64(0)
    for position in range(start, stop):
        matches = state & masks[tokens[position]]
        state = (state + matches) | (state - matches)
    state = ~state
    count = 0
    while state:
        state &= state - np.uint64(1)
        count += 1
    return count


@kernel
def _common(tokens: ndarray, start: int, stop: int, first: int, last: int) -> int:
    """Return the length of the longest common subsequence of two runs of tokens, row by row."""
    lengths = np.zeros(last - first + 1, np.int64)
    for position in range(start, stop):
        diagonal = 0
        for column in range(last - first):
            above = lengths[column + 1]
            if tokens[position] == tokens[first + column]:
                lengths[column + 1] = diagonal + 1
            else:
                lengths[column + 1] = max(above, lengths[column])
            diagonal = above
    return lengths[last - first]


@dataclass
class DropNotNovel(beam.PTransform):
    """Drop rows whose question has a ROUGE-L above `threshold` with one that stays, and name it.

    The preferred are asked first. One worker compares all, by the hashes of their words.
    """

    threshold: float
    preference: Preference = field(default_factory=Preference)

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Keyed]:
        return (
            chunks
            | "Words" >> beam.FlatMap(self._words).with_output_types(Keyed)
            | "InOnePlace" >> beam.GroupByKey()
            | "Decide" >> beam.FlatMapTuple(self._decide).with_output_types(Keyed)
        )

    def _words(self, chunk: Chunk) -> Iterator[Keyed]:
        batch, rows = kept_rows(chunk)
        if batch.num_rows:
            words = words_of(batch.column("question"))
            lists = pa.LargeListArray.from_arrays(pa.array(words.offsets), pa.array(words.values))
            members = self.preference.rank(batch).with_columns(shard=pl.lit(chunk.shard), row=pl.Series(rows))
            yield 0, one_batch(members).append_column("words", lists)

    def _decide(self, _: int, batches: Iterable[pa.RecordBatch]) -> Iterator[Keyed]:
        members = pa.Table.from_batches(batches).sort_by([(name, "ascending") for name in PREFERRED])
        lists = members.column("words").combine_chunks()
        offsets = lists.offsets.to_numpy()
        similar = similar_kept(Words(lists.flatten().to_numpy(), offsets - offsets[0]), self.threshold)
        yield from drop_repeats(pl.from_arrow(members.drop_columns(["words"])), similar, "not_novel")
