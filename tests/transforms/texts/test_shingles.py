"""Shingles: runs of words, and exact similarities of sets."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.texts.shingles import Shingles, jaccard, shingles
from transforms.texts.words import words_of

TEXTS = st.lists(st.lists(st.sampled_from("abcd"), max_size=90).map(" ".join), max_size=8)


def grams_of(text: str, n: int) -> list[str]:
    """The n-grams themselves, in order, by the plain definition."""
    words = text.split()
    return [" ".join(words[i : i + n]) for i in range(max(len(words) - n + 1, min(len(words), 1)))]


def per_text(found: Shingles) -> list[list[int]]:
    return [found.values[a:b].tolist() for a, b in zip(found.offsets[:-1], found.offsets[1:], strict=True)]


@settings(deadline=None)
@given(TEXTS, st.integers(1, 4))
def test_equal_hashes_are_equal_n_grams(texts, n):
    hashes = per_text(shingles(words_of(pa.array(texts, pa.string())), n))
    grams = [grams_of(text, n) for text in texts]
    assert [len(row) for row in hashes] == [len(row) for row in grams]
    pairs = {(gram, value) for g, h in zip(grams, hashes, strict=True) for gram, value in zip(g, h, strict=True)}
    assert len({gram for gram, _ in pairs}) == len({value for _, value in pairs}) == len(pairs)


@settings(deadline=None)
@given(TEXTS, st.permutations(range(8)))
def test_sets_are_distinct_ascending_and_can_be_taken(texts, order):
    found = shingles(words_of(pa.array(texts, pa.string())), 1)
    order = np.array([place for place in order if place < len(texts)], np.int64)
    expected = [sorted(set(row)) for row in per_text(found.short())]
    assert per_text(found.sets()) == expected
    assert per_text(found.sets().take(order)) == [expected[place] for place in order]


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_jaccard_is_exact(left, right):
    sets = [shingles(words_of(pa.array(texts, pa.string())), 2).sets() for texts in (left, right)]
    grams = [[set(grams_of(text, 2)) for text in texts] for texts in (left, right)]
    pairs = [(i, j) for i in range(len(left)) for j in range(len(right))]
    i, j = np.array(pairs, np.int64).reshape(-1, 2).T
    expected = [len(grams[0][a] & grams[1][b]) / max(len(grams[0][a] | grams[1][b]), 1) for a, b in pairs]
    assert jaccard(sets[0], i, sets[1], j).tolist() == expected


def test_hashes_never_change():
    assert shingles(words_of(pa.array(["a b c"])), 2).values.tolist() == [10567808098899964799, 12427272970619190277]
