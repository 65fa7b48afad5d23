"""Groups of near-duplicates against the plain definition."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.texts.minhash import band_keys, bands_for
from transforms.texts.near_duplicates import Similarity, connect, connected, kept_neighbours, near_duplicate_groups
from transforms.texts.shingles import Shingles, jaccard, shingles
from transforms.texts.words import words_of


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
    sets = shingles(words_of(pa.array(texts)), words).sets()
    keys = band_keys(sets, bands_for(threshold))
    met = (keys[:, None] == keys[None]).any(axis=2)
    assert near_duplicate_groups(sets, threshold).tolist() == brute_force(sets, threshold, met=met)


@pytest.mark.parametrize("threshold", [0.6, 0.75, 0.9])
def test_planted_pairs_are_found_as_brute_force_finds_them(threshold):
    random = np.random.default_rng(int(threshold * 100))
    originals = random.integers(0, 3000, (150, 60))
    copies = originals.copy()
    for row, edits in zip(copies, random.integers(0, 8, 150), strict=True):
        row[random.choice(60, edits, replace=False)] = random.integers(0, 3000, edits)
    texts = [" ".join(f"w{word}" for word in row) for row in np.concatenate([originals, copies])]
    sets = shingles(words_of(pa.array(texts)), 3).sets()
    truth = np.array(brute_force(sets, threshold))
    found = near_duplicate_groups(sets, threshold)
    planted = (truth != np.arange(300)).sum()
    assert planted > 20
    assert (found[found != np.arange(300)] == truth[found != np.arange(300)]).all()  # nothing wrong
    assert (found != np.arange(300)).sum() >= 0.98 * planted


def test_many_copies_and_two_families_that_share_a_beginning():
    texts = ["a b c d e f g h"] * 500 + ["a b c d e f g x"] * 500 + ["z"]
    sets = shingles(words_of(pa.array(texts)), 2).sets()
    assert near_duplicate_groups(sets, 0.7).tolist() == [0] * 1000 + [1000]
    assert near_duplicate_groups(sets, 0.8).tolist() == [0] * 500 + [500] * 500 + [1000]


def groups_of(count, links) -> list[int]:
    parents = np.arange(count)
    for half in (links[::2], links[1::2]):
        left, right = np.array(half, np.int64).reshape(-1, 2).T
        connect(parents, left, right)
    return connected(parents).tolist()


def test_chains_are_connected():
    assert groups_of(6, [(4, 2), (2, 0), (5, 3)]) == [0, 1, 0, 3, 0, 3]
    assert groups_of(2, []) == [0, 1]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_connected_components(links):
    labels = list(range(20))
    for a, b in links:
        low, high = sorted((labels[a], labels[b]))
        labels = [low if label == high else label for label in labels]
    assert groups_of(20, links) == labels


def test_a_similarity_out_of_range_is_named():
    with pytest.raises(ValueError, match="jaccard: 0 is not"):
        Similarity(jaccard=0)
    with pytest.raises(ValueError, match="words: .* not 0"):
        Similarity(words=0)


def check_kept(repeated: np.ndarray, near: np.ndarray) -> None:
    """What is not kept is near an earlier one that is."""
    kept: list[int] = []
    for row, other in enumerate(repeated.tolist()):
        candidates = [one for one in kept if near[row, one]]
        assert (other in candidates) if candidates else other == -1
        if other < 0:
            kept.append(row)


@settings(max_examples=200, deadline=None)
@given(CORPORA, st.sampled_from([0.3, 0.5, 0.7, 0.9, 1.0]), st.integers(1, 3), st.data())
def test_what_is_not_kept_is_near_an_earlier_one_of_its_group_that_is(texts, threshold, words, data):
    sets = shingles(words_of(pa.array(texts)), words).sets()
    count = len(texts)
    groups = np.sort(data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)))
    i, j = np.indices((count, count)).reshape(2, -1)
    near = (jaccard(sets, i, sets, j) >= threshold).reshape(count, count)
    check_kept(kept_neighbours(sets, groups, threshold), near & (groups[:, None] == groups))


def test_in_a_large_group_those_that_share_a_band_are_compared():
    alphabet = np.array(list("abcdefghijkl"))
    rng = np.random.default_rng(0)
    texts = [" ".join(alphabet[rng.permutation(12)[: rng.integers(6, 10)]]) for _ in range(100)]
    sets = shingles(words_of(pa.array(texts)), 1).sets()
    keys = band_keys(sets, bands_for(0.7))
    i, j = np.indices((100, 100)).reshape(2, -1)
    near = (jaccard(sets, i, sets, j) >= 0.7).reshape(100, 100)
    found = kept_neighbours(sets, np.zeros(100, np.int64), 0.7)
    assert 0 < (found < 0).sum() < 60
    check_kept(found, near & (keys[:, None] == keys[None]).any(axis=2))


def test_a_chain_does_not_pull_its_ends_together():
    texts = ["a b c d e f g h", "b c d e f g h i", "c d e f g h i j", "d e f g h i j k"]
    sets = shingles(words_of(pa.array(texts)), 1).sets()
    assert near_duplicate_groups(sets, 0.7).tolist() == [0, 0, 0, 0]
    assert kept_neighbours(sets, np.zeros(4, np.int64), 0.7).tolist() == [-1, 0, -1, 2]
