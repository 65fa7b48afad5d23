"""Texts as words: all that duplicate, leakage and split checks see of a text.

A text is normalised (NFKC, lower case, invisible characters removed) and cut into words at punctuation and white space.
Symbols and emoji are words or parts of them. Scripts written without spaces (Han, kana, Thai, Lao, Khmer, Burmese,
Tibetan) are cut into single characters, so that a word n-gram is a character n-gram there, and mixed texts need no rule
of their own. A text with no words at all, such as "?!", is one word: its punctuation.

A word is a hash of its UTF-8 bytes, an n-gram a hash of its words. They depend on nothing else, so that they are the
same in every process, batch and version.

Shapes: N texts, M words of all texts; a key that tells texts apart is 2 numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy import ndarray

from transforms.texts.kernels import inlined, kernel

INVISIBLE = r"\p{Cf}+"
BETWEEN_WORDS = r"[\p{P}\p{Z}\p{Cc}]+"
UNSPACED = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}])"
FOREIGN = r"[^\x00-\x7F]"

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FNV_START, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
BOUNDARY = np.uint64(0x5851F42D4C957F2D)  # stands between the words of two columns


def _letters() -> ndarray:
    """Return every byte in lower case, and 0 for those that part words."""
    letters = np.arange(256, dtype=np.uint8)
    letters[: ord(" ") + 1] = 0
    letters[127] = 0
    for character in "!\"#%&'()*,-./:;?@[\\]_{}":
        letters[ord(character)] = 0
    letters[ord("A") : ord("Z") + 1] += 32
    return letters


LETTERS = _letters()
SPACES = (9, 10, 11, 12, 13, 32)


@dataclass(frozen=True)
class Words:
    """Hashes of the words of N texts, in order: text i has `values[offsets[i]:offsets[i + 1]]`."""

    values: ndarray  # uint64[M]
    offsets: ndarray  # int64[N + 1]

    def take(self, rows: ndarray) -> "Words":
        """Return the words of these texts, by number, in this order."""
        # words [a b | c | d e f], rows [2 0] → sizes [3 2], words [d e f | a b], offsets [0 3 5]
        sizes = np.diff(self.offsets)[rows]
        values, offsets = np.empty(sizes.sum(), np.uint64), np.concatenate([[0], np.cumsum(sizes)])
        _gather(self.values, self.offsets, rows, values)
        return Words(values, offsets)

    def content(self) -> ndarray:
        """Return keys that tell texts with different words apart: uint64[N, 2]."""
        return _fold(self.values, self.offsets)


@inlined
def mix(value: np.uint64) -> np.uint64:
    """Scramble a uint64 (splitmix64's finaliser).

    Every bit of the result depends on every bit of it.
    """
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


class _SameBuffers:
    """Compare arrays by their buffers, so that a cache can key on them; it keeps the buffers alive."""

    def __init__(self, texts: pa.Array):
        self.texts = texts
        addresses = (getattr(buffer, "address", None) for buffer in texts.buffers())
        self._memory = (texts.type, texts.offset, len(texts), *addresses)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _SameBuffers) and self._memory == other._memory

    def __hash__(self) -> int:
        return hash(self._memory)


def words_of(texts: pa.Array) -> Words:
    """Return the words of N texts; null has none.

    The words of the last few arrays are remembered, because several steps look at one batch.
    """
    return _words_of(_SameBuffers(texts))


@lru_cache(maxsize=8)
def _words_of(same: _SameBuffers) -> Words:
    texts = same.texts
    data, bounds = utf8(texts)
    if len(data) and data[bounds[0] : bounds[-1]].max(initial=0) > 127:
        data, bounds = utf8(_parted_by_ascii(texts))
    values = np.empty(int(bounds[-1] - bounds[0]) // 2 + len(bounds), np.uint64)
    offsets = np.empty(len(bounds), np.int64)
    count = _scan(data, bounds, LETTERS, values, offsets)
    return Words(values[:count], offsets)


def words_of_row(batch: pa.RecordBatch, columns: Sequence[str]) -> Words:
    """Return the words of each row's columns one after the other, with a boundary between them."""
    # q [a b | a], r [c | b c], # for the boundary → [a b # c | a # b c]
    parts = [words_of(batch.column(name)) for name in columns]
    joined = parts[0]
    for part in parts[1:]:
        values = np.empty(len(joined.values) + len(part.values) + batch.num_rows, np.uint64)
        offsets = np.empty(batch.num_rows + 1, np.int64)
        _join(joined.values, joined.offsets, part.values, part.offsets, values, offsets)
        joined = Words(values, offsets)
    return joined


def utf8(texts: pa.Array) -> tuple[ndarray, ndarray]:
    """Return the bytes of N texts, where each begins, and where the last one ends.

    A null is empty. uint8[all bytes], int64[N + 1]; of a slice, the bounds begin above 0.
    """
    if texts.null_count:
        texts = pc.fill_null(texts, "")
    if not len(texts):
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    size = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    bounds = np.frombuffer(texts.buffers()[1], size)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(texts.buffers()[2] or b"", np.uint8), bounds.astype(np.int64)


def _parted_by_ascii(texts: pa.Array) -> pa.Array:
    """Return the texts, non-ASCII ones normalised, so that only ASCII parts their words."""
    series = pl.from_arrow(texts).fill_null("")
    foreign = series.str.contains(FOREIGN).arg_true()
    return series.scatter(foreign, _normalised(series.gather(foreign))).to_arrow().cast(pa.large_string())


def _normalised(series: pl.Series) -> pl.Series:
    compatible = series.str.normalize("NFKC").str.replace_all(INVISIBLE, "").str.replace_all(UNSPACED, " $1 ")
    words = compatible.str.to_lowercase().str.replace_all(BETWEEN_WORDS, " ").str.strip_chars(" ")
    return words.zip_with(words != "", compatible)


def byte_hashes(texts: pa.Array) -> ndarray:
    """Return a hash of every text's bytes, null as an empty text: uint64[N]."""
    return _hash_bytes(*utf8(texts))


@kernel
def _hash_bytes(data: ndarray, bounds: ndarray) -> ndarray:
    hashes = np.empty(len(bounds) - 1, np.uint64)
    for row in range(len(bounds) - 1):
        value = FNV_START
        for position in range(bounds[row], bounds[row + 1]):
            value = (value ^ np.uint64(data[position])) * FNV_PRIME
        hashes[row] = mix(value)
    return hashes


def equal_but_for_spaces(left: pa.Array, right: pa.Array) -> ndarray:
    """Return where two texts differ at most in the width of ASCII white space: bool[N]."""
    return _equal_but_for_spaces(*utf8(left), *utf8(right))


@kernel
def _equal_but_for_spaces(left: ndarray, left_bounds: ndarray, right: ndarray, right_bounds: ndarray) -> ndarray:
    # left "a  b", right " a b\n": a meets a; gaps of 2 and of 1 are both gaps; b meets b; both end
    # left "ab", right "a b": a meets a; no gap meets a gap: they differ
    is_equal = np.zeros(len(left_bounds) - 1, np.bool_)
    for row in range(len(is_equal)):
        i, left_end = left_bounds[row], left_bounds[row + 1]
        j, right_end = right_bounds[row], right_bounds[row + 1]
        is_start = True
        while True:
            left_gap, right_gap = i, j
            while i < left_end and left[i] in SPACES:
                i += 1
            while j < right_end and right[j] in SPACES:
                j += 1
            if i == left_end or j == right_end:
                is_equal[row] = i == left_end and j == right_end
                break
            if left[i] != right[j] or (not is_start and (left_gap == i) != (right_gap == j)):
                break
            i += 1
            j += 1
            is_start = False
    return is_equal


@kernel
def _scan(data: ndarray, bounds: ndarray, letters: ndarray, values: ndarray, offsets: ndarray) -> int:
    """Fill in the words of every text and return their number."""
    count = 0
    for row in range(len(bounds) - 1):
        offsets[row] = count
        word, inside = FNV_START, False
        for position in range(bounds[row], bounds[row + 1]):
            letter = letters[data[position]]
            if letter:
                word = (word ^ np.uint64(letter)) * FNV_PRIME
                inside = True
            elif inside:
                values[count] = mix(word)
                count += 1
                word, inside = FNV_START, False
        if inside:
            values[count] = mix(word)
            count += 1
        elif offsets[row] == count:  # no words: all that can be seen is one
            for position in range(bounds[row], bounds[row + 1]):
                if data[position] > 32:
                    word = (word ^ np.uint64(data[position])) * FNV_PRIME
                    inside = True
            if inside:
                values[count] = mix(word)
                count += 1
    offsets[-1] = count
    return count


@kernel
def _gather(values: ndarray, offsets: ndarray, rows: ndarray, taken: ndarray) -> None:
    count = 0
    for row in rows:
        for position in range(offsets[row], offsets[row + 1]):
            taken[count] = values[position]
            count += 1


@kernel
def _join(
    left: ndarray,
    left_offsets: ndarray,
    right: ndarray,
    right_offsets: ndarray,
    values: ndarray,
    offsets: ndarray,
) -> None:
    count = 0
    for row in range(len(offsets) - 1):
        offsets[row] = count
        for position in range(left_offsets[row], left_offsets[row + 1]):
            values[count] = left[position]
            count += 1
        values[count] = BOUNDARY
        count += 1
        for position in range(right_offsets[row], right_offsets[row + 1]):
            values[count] = right[position]
            count += 1
    offsets[-1] = count


@kernel
def _fold(values: ndarray, offsets: ndarray) -> ndarray:
    keys_N2 = np.empty((len(offsets) - 1, 2), np.uint64)
    for row in range(len(offsets) - 1):
        first, second = FNV_START, GOLDEN
        for position in range(offsets[row], offsets[row + 1]):
            first = mix(first ^ values[position])
            second = mix(second * FNV_PRIME + values[position])
        keys_N2[row, 0], keys_N2[row, 1] = first, second
    return keys_N2
