"""Texts as sets of n-gram hashes: what near-duplicate and leakage checks compare instead of text.

A text is normalised (NFKC, lower case, punctuation and white space to single spaces, invisible characters removed) and
cut into words. Symbols and emoji are words or parts of them. Scripts written without spaces (Han, kana, Thai, Lao,
Khmer, Burmese, Tibetan) are cut into single characters, so that a word n-gram is a character n-gram there, and mixed
texts need no rule of their own. A text with fewer words than n is one shingle; a text with no words at all, such as
"?!", stands for itself.

Hashes are polynomial over the UTF-8 bytes of the n-gram, modulo 2^64: prefix sums give every n-gram of a batch at once.
They depend on nothing but the n-gram, so that they are the same in every process, batch and version.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import polars as pl
import pyarrow as pa

INVISIBLE = r"\p{Cf}+"
BETWEEN_WORDS = r"[\p{P}\p{Z}\p{Cc}]+"
UNSPACED = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}])"
SPACE = 32
BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64


def mix(values: np.ndarray) -> np.ndarray:
    """Scramble uint64 values so that every bit of the result depends on every bit given (splitmix64's finaliser)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def scrambled(count: int, seed: int) -> np.ndarray:
    """`count` fixed pseudo-random uint64 values; the same everywhere, whatever the version of NumPy."""
    return mix((np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed << 32)) * np.uint64(BASE))


BYTE_VALUES = scrambled(256, seed=1)


@dataclass(frozen=True)
class Shingles:
    """Hashes of the n-grams of N texts, in order: text i has `values[offsets[i]:offsets[i + 1]]`."""

    values: np.ndarray  # uint64[M], or uint32[M] once sets
    offsets: np.ndarray  # int64[N + 1]

    def sizes(self) -> np.ndarray:
        return np.diff(self.offsets)

    def sets(self) -> "Shingles":
        """The distinct upper halves (uint32) of every text's hashes, ascending within a text."""
        texts = np.repeat(np.arange(len(self.offsets) - 1, dtype=np.uint64), self.sizes())
        keys = np.sort((texts << np.uint64(32)) | (self.values >> np.uint64(32)))
        keys = keys[np.diff(keys, prepend=~keys[:1]) != 0]
        sizes = np.bincount((keys >> np.uint64(32)).astype(np.int64), minlength=len(self.offsets) - 1)
        return Shingles(keys.astype(np.uint32), offsets_of(sizes))


def offsets_of(sizes: np.ndarray) -> np.ndarray:
    """Where runs of these sizes begin when laid end to end, and where the last one ends: int64[N + 1]."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def expand(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The positions start, start + 1, … of every run, laid end to end."""
    return np.arange(sizes.sum()) + np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)


def normalised(texts: pa.Array) -> pl.Series:
    """The words of every text, lower-case, between single spaces; null becomes the empty text."""
    series = pl.from_arrow(texts).cast(pl.String).fill_null("")
    foreign = series.str.contains(r"[^\x00-\x7F]").arg_true()
    if len(foreign):
        series = series.scatter(foreign, _compatible(series.gather(foreign)))
    words = series.str.to_lowercase().str.replace_all(BETWEEN_WORDS, " ").str.strip_chars(" ")
    return words.zip_with(words != "", series.str.strip_chars())


def _compatible(series: pl.Series) -> pl.Series:
    return series.str.normalize("NFKC").str.replace_all(INVISIBLE, "").str.replace_all(UNSPACED, " $1 ")


def shingles(texts: pl.Series, words: int) -> Shingles:
    """Hashes of all runs of `words` words in each of N normalised texts; none for an empty text."""
    array = texts.to_arrow().cast(pa.large_string())
    bounds = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(array.buffers()[2] or b"", np.uint8)[bounds[0] : bounds[-1]]
    bounds = bounds - bounds[0]
    filled = bounds[:-1] < bounds[1:]

    is_start = np.zeros(len(data) + 1, np.bool_)
    is_start[np.flatnonzero(data == SPACE) + 1] = True
    is_start[bounds[:-1][filled]] = True
    is_start = is_start[:-1]
    starts = np.flatnonzero(is_start)
    counts = np.diff(np.concatenate([[0], np.cumsum(is_start)])[bounds])
    first_word = offsets_of(counts)
    ends = np.concatenate([starts[1:] - 1, [0]]) if len(starts) else starts
    ends[first_word[1:][filled] - 1] = bounds[1:][filled]

    sizes = np.where(counts > 0, np.maximum(counts - words + 1, 1), 0)
    word = expand(first_word[:-1], sizes)
    last_word = np.minimum(word + words - 1, np.repeat(first_word[1:] - 1, sizes))
    return Shingles(_hash_spans(data, starts[word], ends[last_word]), offsets_of(sizes))


def _hash_spans(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    exponents = len(data).bit_length()
    weighted = BYTE_VALUES[data] * _powers(BASE, exponents)[: len(data)]
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(weighted)])
    return mix((sums[ends] - sums[starts]) * _powers(pow(BASE, -1, 1 << 64), exponents)[starts])


@lru_cache(maxsize=4)
def _powers(base: int, exponents: int) -> np.ndarray:
    """base^0, base^1, … modulo 2^64 for all exponents below 2^exponents."""
    powers = np.full(1 << exponents, base, np.uint64)
    powers[0] = 1
    return np.cumprod(powers)


def jaccard(left: Shingles, i: np.ndarray, right: Shingles, j: np.ndarray, block: int = 1 << 21) -> np.ndarray:
    """|A ∩ B| / |A ∪ B| of the sets left[i] and right[j], pair by pair: float64[len(i)].

    About `block` set members are looked up at a time, which bounds the memory taken.
    """
    sizes = left.sizes()[i]
    result = np.zeros(len(i))
    for pairs in np.split(np.arange(len(i)), _cuts(sizes, block)):
        if len(pairs) and len(right.values):
            shared = _shared(left, i[pairs], right, j[pairs])
            result[pairs] = shared / np.maximum(sizes[pairs] + right.sizes()[j[pairs]] - shared, 1)
    return result


def _cuts(sizes: np.ndarray, block: int) -> np.ndarray:
    return np.flatnonzero(np.diff(np.cumsum(sizes) // block)) + 1


def _shared(left: Shingles, i: np.ndarray, right: Shingles, j: np.ndarray) -> np.ndarray:
    sizes = left.sizes()[i]
    sought = left.values[expand(left.offsets[i], sizes)]
    low, end = np.repeat(right.offsets[j], sizes), np.repeat(right.offsets[j + 1], sizes)
    high = end
    for _ in range(int(right.sizes()[j].max(initial=0)).bit_length()):  # binary search in every set at once
        middle = (low + high) // 2
        is_below = (low < high) & (right.values[np.minimum(middle, len(right.values) - 1)] < sought)
        low, high = np.where(is_below, middle + 1, low), np.where(is_below, high, middle)
    found = (low < end) & (right.values[np.minimum(low, len(right.values) - 1)] == sought)
    return np.diff(np.concatenate([[0], np.cumsum(found)])[offsets_of(sizes)])
