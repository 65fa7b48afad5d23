"""MinHash: signatures estimate Jaccard, bands keep their promise."""

import numpy as np
import pytest

from transforms.texts.minhash import Bands, band_keys, bands_for, signatures
from transforms.texts.shingles import Shingles, jaccard, offsets_of, scrambled


def pairs_at(similarity: float, pairs: int, size: int = 100) -> Shingles:
    """Sets 2k and 2k + 1 share so many of their values that their Jaccard similarity is `similarity`."""
    shared = round(2 * size * similarity / (1 + similarity))
    values = scrambled(pairs * 2 * size, seed=9).astype(np.uint32).reshape(pairs, 2, size)
    values[:, 1, :shared] = values[:, 0, :shared]
    return Shingles(np.sort(values, axis=2).ravel(), offsets_of(np.full(2 * pairs, size)))


@pytest.mark.parametrize("similarity", [0.2, 0.5, 0.8])
def test_signatures_agree_as_often_as_sets_overlap(similarity):
    sets = pairs_at(similarity, 200)
    true = jaccard(sets, np.arange(0, 400, 2), sets, np.arange(1, 400, 2)).mean()
    found = signatures(sets, 128)
    assert abs((found[::2] == found[1::2]).mean() - true) < 0.01


def test_a_signature_is_that_of_the_set_and_knows_no_neighbours():
    once = Shingles(np.array([7, 9], np.uint32), offsets_of(np.array([2])))
    again = Shingles(np.array([1, 9, 7, 9, 9], np.uint32), offsets_of(np.array([1, 4])))
    assert signatures(again, 16)[1].tolist() == signatures(once, 16)[0].tolist()
    assert signatures(Shingles(np.empty(0, np.uint32), offsets_of(np.empty(0, np.int64))), 16).shape == (0, 16)


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(0.5, Bands(35, 3)), (0.7, Bands(26, 5)), (0.8, Bands(20, 7)), (0.9, Bands(13, 11)), (1.0, Bands(1, 160))],
)
def test_bands_for_a_threshold(threshold, expected):
    assert bands_for(threshold) == expected
    assert bands_for(threshold).miss(threshold) <= 0.01


def test_pairs_at_the_threshold_meet_and_unlike_ones_do_not():
    bands = bands_for(0.7)
    for similarity, low, high in ((0.75, 0.98, 1.0), (0.3, 0.0, 0.15)):
        keys = band_keys(pairs_at(similarity, 500), bands)
        assert low <= (keys[::2] == keys[1::2]).any(axis=1).mean() <= high
    assert len(np.unique(band_keys(pairs_at(0.0, 500), bands))) == 1000 * bands.bands
