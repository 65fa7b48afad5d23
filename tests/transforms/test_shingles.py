"""Shingles: what counts as a word in which script, and exact similarities of sets."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.shingles import Shingles, jaccard, normalised, shingles

TEXTS = st.lists(st.one_of(st.text(max_size=12), st.text("ab 日?👍", max_size=12), st.none()), max_size=12)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  What's  UP,\tdoc?\n", "what s up doc"),
        ("ＦＵＬＬ width ﬁne", "full width fine"),
        ("cafe\u0301", "café"),
        ("so\u00adft \u200bhid\u200bden", "soft hidden"),
        ("C++ < 3 €", "c++ < 3 €"),
        ("你好 world", "你 好 world"),
        ("これはペン", "こ れ は ペ ン"),
        ("سلام، دنیا", "سلام دنیا"),
        ("yes 👍🏽!", "yes 👍🏽"),
        ("?!", "?!"),
        (" \n", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_normalised_words(text, words):
    assert normalised(pa.array([text], pa.string())).to_list() == [words]


def words_of(texts: list[str], n: int) -> list[list[str]]:
    """The n-grams themselves, in order, by the plain definition."""
    grams = []
    for text in texts:
        words = text.split(" ") if text else []
        grams.append([" ".join(words[i : i + n]) for i in range(max(len(words) - n + 1, min(len(words), 1)))])
    return grams


def per_text(found: Shingles) -> list[list[int]]:
    return [part.tolist() for part in np.split(found.values, found.offsets[1:-1])] if len(found.offsets) > 1 else []


@settings(deadline=None)
@given(TEXTS, st.integers(1, 4))
def test_equal_hashes_are_equal_n_grams(texts, n):
    words = normalised(pa.array(texts, pa.string()))
    hashes = per_text(shingles(words, n))
    grams = words_of(words.to_list(), n)
    assert [len(row) for row in hashes] == [len(row) for row in grams]
    pairs = {(gram, value) for g, h in zip(grams, hashes, strict=True) for gram, value in zip(g, h, strict=True)}
    assert len({gram for gram, _ in pairs}) == len({value for _, value in pairs}) == len(pairs)


@settings(deadline=None)
@given(TEXTS, st.integers(0, 12))
def test_cuts_never_matter(texts, cut):
    array = pa.array(texts, pa.string())
    whole = per_text(shingles(normalised(array), 2))
    parts = [per_text(shingles(normalised(part), 2)) for part in (array[:cut], array[cut:])]
    assert parts[0] + parts[1] == whole


def test_hashes_never_change():
    assert shingles(pl.Series(["a b c"]), 2).values.tolist() == [11599643145993985973, 15749571346191437833]


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_jaccard_is_exact(left, right):
    sets = [shingles(normalised(pa.array(texts, pa.string())), 1).sets() for texts in (left, right)]
    words = [[set(row) for row in words_of(normalised(pa.array(t, pa.string())).to_list(), 1)] for t in (left, right)]
    pairs = [(i, j) for i in range(len(left)) for j in range(len(right))]
    i, j = np.array(pairs, np.int64).reshape(-1, 2).T
    expected = [len(words[0][a] & words[1][b]) / max(len(words[0][a] | words[1][b]), 1) for a, b in pairs]
    assert jaccard(sets[0], i, sets[1], j).tolist() == expected
    assert jaccard(sets[0], i, sets[1], j, block=3).tolist() == expected
