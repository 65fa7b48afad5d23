"""MinHash signatures and the bands by which likely near-duplicates meet (Broder 1997; banding as in LSH).

Two sets agree in one position of their signatures with a probability equal to their Jaccard similarity J, and so in
all `rows` of one band with J^rows. They become candidates if they agree in any band: 1 - (1 - J^rows)^bands.
"""

from dataclasses import dataclass

import numpy as np

from transforms.shingles import Shingles, mix, scrambled

MAX_HASHES = 160
MAX_MISS = 0.01


@dataclass(frozen=True)
class Bands:
    """How a signature of `bands * rows` hashes is cut."""

    bands: int
    rows: int

    def miss(self, jaccard: float) -> float:
        """The probability that a pair of this similarity shares no band."""
        return (1 - jaccard**self.rows) ** self.bands


def bands_for(jaccard: float) -> Bands:
    """The bands that let fewest unlike pairs through, yet miss at most one in a hundred pairs exactly at `jaccard`.

    For a `jaccard` so low that 160 hashes do not reach that, 160 bands of one row.
    """
    for rows in range(MAX_HASHES, 0, -1):
        for bands in range(1, MAX_HASHES // rows + 1):
            if Bands(bands, rows).miss(jaccard) <= MAX_MISS:
                return Bands(bands, rows)
    return Bands(MAX_HASHES, 1)


def signatures(shingles: Shingles, hashes: int) -> np.ndarray:
    """MinHash signatures of N texts, each with at least one shingle: uint32[hashes, N]."""
    values = (
        shingles.values if shingles.values.dtype == np.uint32 else (shingles.values >> np.uint64(32)).astype(np.uint32)
    )
    flips, factors = scrambled(2 * hashes, seed=2).astype(np.uint32).reshape(2, hashes)
    minima = np.empty((hashes, len(shingles.offsets) - 1), np.uint32)
    permuted = np.empty_like(values)
    for k in range(hashes if minima.shape[1] else 0):
        np.bitwise_xor(values, flips[k], out=permuted)
        np.multiply(permuted, factors[k] | np.uint32(1), out=permuted)  # an odd factor permutes the 32-bit numbers
        np.minimum.reduceat(permuted, shingles.offsets[:-1], out=minima[k])
    return minima


def band_keys(shingles: Shingles, bands: Bands) -> np.ndarray:
    """One key per text and band; texts that share a key are candidates: uint64[bands, N]."""
    minima = signatures(shingles, bands.bands * bands.rows)
    keys = np.repeat(scrambled(bands.bands, seed=3)[:, None], minima.shape[1], axis=1)
    for row in range(bands.rows):
        keys = mix(keys ^ minima[row :: bands.rows])
    return keys
