"""How often every value occurs, added up batch by batch: memory grows with the values that differ, not with the rows.

Means and quantiles follow from the counts, so that they are the same however the rows were cut into batches.
"""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Distribution:
    """`values` in ascending order, rounded to `decimals`, and how often each occurs: float64[K], int64[K]."""

    decimals: int = 4
    values: np.ndarray = field(default_factory=lambda: np.empty(0))
    counts: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    def add(self, values: np.ndarray) -> None:
        """Count values; those that are not finite are left out."""
        rounded = np.round(values[np.isfinite(values)], self.decimals)
        self._merge(*np.unique(rounded, return_counts=True))

    def _merge(self, values: np.ndarray, counts: np.ndarray) -> None:
        # values [1 3] with counts [2 5] and values [3 4] with counts [1 1]: [1 3 3 4] → [1 3 4], counts [2 6 1]
        self.values, value_of = np.unique(np.concatenate([self.values, values]), return_inverse=True)
        self.counts = np.bincount(value_of, np.concatenate([self.counts, counts])).astype(np.int64)

    def __add__(self, other: "Distribution") -> "Distribution":
        """Return both together."""
        both = Distribution(self.decimals, self.values, self.counts)
        both._merge(other.values, other.counts)
        return both

    @property
    def rows(self) -> int:
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Return the mean; ValueError where nothing was counted."""
        if not self.rows:
            raise ValueError("no values: nothing has a mean")
        return float(self.values @ self.counts) / self.rows

    def quantiles(self, at: list[float]) -> list[float]:
        """Return quantiles as numpy's of the values one by one: between two of them it interpolates."""
        # values [1 4] with counts [3 1] are the rows 1 1 1 4; the quantile 0.75 is row 2.25: 1 + (4 - 1) * 0.25
        positions = np.array(at) * (self.rows - 1)
        ends = np.cumsum(self.counts)
        low, high = (self.values[np.searchsorted(ends, whole(positions), "right")] for whole in (np.floor, np.ceil))
        return (low + (high - low) * (positions % 1)).tolist()

    def histogram(self, edges: np.ndarray) -> list[int]:
        """Count rows between the edges.

        What lies beyond the last edge is counted in the last bin.
        """
        counts, _ = np.histogram(np.minimum(self.values, edges[-1]), edges, weights=self.counts)
        return counts.astype(np.int64).tolist()
