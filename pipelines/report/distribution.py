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
        self.values, places = np.unique(np.concatenate([self.values, values]), return_inverse=True)
        self.counts = np.bincount(places, np.concatenate([self.counts, counts])).astype(np.int64)

    def __add__(self, other: "Distribution") -> "Distribution":
        """Both together."""
        both = Distribution(self.decimals, self.values, self.counts)
        both._merge(other.values, other.counts)
        return both

    @property
    def rows(self) -> int:
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """ValueError where nothing was counted."""
        if not self.rows:
            raise ValueError("no values: nothing has a mean")
        return float(self.values @ self.counts) / self.rows

    def quantiles(self, at: list[float]) -> list[float]:
        """As numpy's on the values one by one: what lies between two of them is interpolated."""
        places = np.array(at) * (self.rows - 1)
        ends = np.cumsum(self.counts)
        low, high = (self.values[np.searchsorted(ends, whole(places), "right")] for whole in (np.floor, np.ceil))
        return (low + (high - low) * (places % 1)).tolist()

    def histogram(self, edges: np.ndarray) -> list[int]:
        """Rows between the edges; what lies beyond the last edge is counted in the last bin."""
        counts, _ = np.histogram(np.minimum(self.values, edges[-1]), edges, weights=self.counts)
        return counts.astype(np.int64).tolist()
