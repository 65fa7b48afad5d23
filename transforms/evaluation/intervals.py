"""Distributions and bootstrap intervals of numbers, one per row."""

from collections.abc import Callable, Sequence, Sized

import numpy as np

Numbers = Sequence[float] | np.ndarray
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
RESAMPLES = 1000
CONFIDENCE = 0.95


def finite(name: str, values: Numbers) -> np.ndarray:
    """Return the values as [N] float64; ValueError names the first that is no finite number."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name}: expected one number per row, got an array of shape {array.shape}")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(f"{name}: row {bad[0]} is {array[bad[0]]}, not a finite number; leave such rows out")
    return array


def check_paired(names: str, a: Sized, b: Sized) -> None:
    """Raise ValueError where two columns are not of the same rows."""
    if len(a) != len(b):
        raise ValueError(f"{names}: {len(a)} and {len(b)} rows; they must be the same rows in the same order")


def bootstrap_interval(
    values: np.ndarray | tuple[np.ndarray, ...],
    statistic: Callable[..., float],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> list[float] | None:
    """Return the percentile bootstrap interval [low, high] of `statistic` over rows drawn with replacement.

    `values` is one array [N] or several that are resampled together. None where there are fewer than two rows, no
    resamples, or fewer than half of them with a finite statistic.
    """
    arrays = values if isinstance(values, tuple) else (values,)
    rows = len(arrays[0])
    if rows < 2 or not resamples:
        return None
    rng = np.random.default_rng(seed)
    draws = (rng.integers(0, rows, size=rows) for _ in range(resamples))  # row numbers
    estimates = np.array([statistic(*(array[drawn] for array in arrays)) for drawn in draws])
    estimates = estimates[np.isfinite(estimates)]
    if estimates.size < resamples / 2:
        return None
    tail = (1 - confidence) / 2
    return [float(limit) for limit in np.quantile(estimates, [tail, 1 - tail])]


def distribution(values: Numbers) -> dict:
    """Return mean, standard deviation and quantiles of values [N]."""
    array = finite("values", values)
    if not array.size:
        return {"rows": 0, "mean": None, "sd": None, "quantiles": None}
    return {
        "rows": int(array.size),
        "mean": float(array.mean()),
        "sd": float(array.std(ddof=1)) if array.size > 1 else None,
        "quantiles": {f"{quantile:g}": float(np.quantile(array, quantile)) for quantile in QUANTILES},
    }
