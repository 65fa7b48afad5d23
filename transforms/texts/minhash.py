"""MinHash signatures and the bands by which likely near-duplicates meet (Broder 1997; banding as in LSH).

Two sets agree in one position of their signatures with a probability equal to their Jaccard similarity J, and so in
all `rows` of one band with J^rows. They become candidates if they agree in any band: 1 - (1 - J^rows)^bands.

Shapes: N texts, H hashes of a signature, B bands of `rows` hashes each.
"""

from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from transforms.texts.kernels import inlined, kernel
from transforms.texts.shingles import Shingles, scrambled
from transforms.texts.words import mix

MAX_HASHES = 160
MAX_MISS = 0.01


@dataclass(frozen=True)
class Bands:
    """How a signature of `bands * rows` hashes is cut."""

    bands: int
    rows: int

    def miss(self, jaccard: float) -> float:
        """Return the probability that a pair of this similarity shares no band."""
        return (1 - jaccard**self.rows) ** self.bands


def bands_for(jaccard: float) -> Bands:
    """Return bands that miss at most one in a hundred pairs at `jaccard`.

    Of these they let fewest unlike pairs through. For a `jaccard` so low that 160 hashes do not reach that, 160 bands
    of one row.
    """
    for rows in range(MAX_HASHES, 0, -1):
        for bands in range(1, MAX_HASHES // rows + 1):
            if Bands(bands, rows).miss(jaccard) <= MAX_MISS:
                return Bands(bands, rows)
    return Bands(MAX_HASHES, 1)


def signatures(shingles: Shingles, hashes: int) -> ndarray:
    """Return MinHash signatures: uint32[N, H]; a text without shingles has the largest number everywhere."""
    return _minima(shingles.values, shingles.offsets, *_permutations(hashes))


def band_keys(shingles: Shingles, bands: Bands) -> ndarray:
    """Return one key per text and band; texts that share a key are candidates: uint64[N, B]."""
    flips, factors = _permutations(bands.bands * bands.rows)
    return _keys(shingles.values, shingles.offsets, flips, factors, scrambled(bands.bands, seed=3))


def _permutations(hashes: int) -> tuple[ndarray, ndarray]:
    """Return flips and odd factors: two of uint32[H].

    x -> (x ^ flip) * factor permutes the 32-bit numbers.
    """
    flips, factors = scrambled(2 * hashes, seed=2).astype(np.uint32).reshape(2, hashes)
    return flips, factors | np.uint32(1)


@inlined
def _lower_to_minima(value: np.uint32, flips: ndarray, factors: ndarray, minima: ndarray) -> None:
    for k in range(len(minima)):
        minima[k] = min(minima[k], np.uint32(np.uint32(value ^ flips[k]) * factors[k]))


@kernel
def _minima(values: ndarray, offsets: ndarray, flips: ndarray, factors: ndarray) -> ndarray:
    minima_NH = np.full((len(offsets) - 1, len(flips)), 0xFFFFFFFF, np.uint32)
    for text in range(len(offsets) - 1):
        for position in range(offsets[text], offsets[text + 1]):
            _lower_to_minima(values[position], flips, factors, minima_NH[text])
    return minima_NH


@kernel
def _keys(values: ndarray, offsets: ndarray, flips: ndarray, factors: ndarray, seeds: ndarray) -> ndarray:
    # 2 bands of 3 rows, minima [a b c | d e f] → keys_NB[text] = [seed 0 mixed with a, b, c, seed 1 with d, e, f]
    keys_NB = np.empty((len(offsets) - 1, len(seeds)), np.uint64)
    minima = np.empty(len(flips), np.uint32)
    rows = len(flips) // len(seeds)
    for text in range(len(offsets) - 1):
        minima[:] = 0xFFFFFFFF
        for position in range(offsets[text], offsets[text + 1]):
            _lower_to_minima(values[position], flips, factors, minima)
        for band in range(len(seeds)):
            key = seeds[band]
            for row in range(band * rows, (band + 1) * rows):
                key = mix(key ^ np.uint64(minima[row]))
            keys_NB[text, band] = key
    return keys_NB
