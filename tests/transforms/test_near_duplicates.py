"""Groups of near-duplicates against the plain definition."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.minhash import band_keys, bands_for
from transforms.near_duplicates import Similarity, connected, near_duplicate_groups
from transforms.shingles import Shingles, jaccard, shingles


def brute_force(sets: Shingles, threshold: float, *, met: np.ndarray | None = None) -> list[int]:
    """Components of all pairs that reach the threshold, and, if given, that `met`."""
    count = len(sets.offsets) - 1
    labels = list(range(count))
    i, j = np.triu_indices(count, 1)
    linked = jaccard(sets, i, sets, j) >= threshold
    if met is not None:
        linked &= met[i, j]
    for a, b in zip(i[linked], j[linked], strict=True):
        low, high = sorted((labels[a], labels[b]))
        labels = [low if label == high else label for label in labels]
    return labels


CORPORA = st.lists(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=9).map(" ".join), min_size=1, max_size=25)


@settings(max_examples=200, deadline=None)
@given(CORPORA, st.sampled_from([0.3, 0.5, 0.7, 0.9, 1.0]), st.integers(1, 3))
def test_groups_are_the_components_of_pairs_that_share_a_band(texts, threshold, words):
    sets = shingles(pl.Series(texts), words).sets()
    keys = band_keys(sets, bands_for(threshold))
    met = (keys[:, :, None] == keys[:, None, :]).any(axis=0)
    assert near_duplicate_groups(sets, threshold).tolist() == brute_force(sets, threshold, met=met)


@pytest.mark.parametrize("threshold", [0.6, 0.75, 0.9])
def test_planted_pairs_are_found_as_brute_force_finds_them(threshold):
    random = np.random.default_rng(int(threshold * 100))
    originals = random.integers(0, 3000, (150, 60))
    copies = originals.copy()
    for row, edits in zip(copies, random.integers(0, 8, 150), strict=True):
        row[random.choice(60, edits, replace=False)] = random.integers(0, 3000, edits)
    texts = pl.Series([" ".join(f"w{word}" for word in row) for row in np.concatenate([originals, copies])])
    sets = shingles(texts, 3).sets()
    truth = np.array(brute_force(sets, threshold))
    found = near_duplicate_groups(sets, threshold)
    planted = (truth != np.arange(300)).sum()
    assert planted > 20
    assert (found[found != np.arange(300)] == truth[found != np.arange(300)]).all()  # nothing wrong
    assert (found != np.arange(300)).sum() >= 0.98 * planted


def test_many_copies_and_two_families_that_share_a_beginning():
    sets = shingles(pl.Series(["a b c d e f g h"] * 500 + ["a b c d e f g x"] * 500 + ["z"]), 2).sets()
    assert near_duplicate_groups(sets, 0.7).tolist() == [0] * 1000 + [1000]
    assert near_duplicate_groups(sets, 0.8).tolist() == [0] * 500 + [500] * 500 + [1000]


def test_chains_are_connected():
    assert connected(6, np.array([4, 2, 5]), np.array([2, 0, 3])).tolist() == [0, 1, 0, 3, 0, 3]
    assert connected(2, np.empty(0, np.int64), np.empty(0, np.int64)).tolist() == [0, 1]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_connected_components(links):
    left, right = np.array(links, np.int64).reshape(-1, 2).T
    labels = list(range(20))
    for a, b in links:
        low, high = sorted((labels[a], labels[b]))
        labels = [low if label == high else label for label in labels]
    assert connected(20, left, right).tolist() == labels


def test_a_similarity_out_of_range_is_named():
    with pytest.raises(ValueError, match="jaccard: 0 is not"):
        Similarity(jaccard=0)
    with pytest.raises(ValueError, match="words: .* not 0"):
        Similarity(words=0)
