"""Metrics of an evaluation: plain functions from arrays and lists to plain dictionaries.

A judge gives every row a margin: how much better it finds the aligned text than the original. For an inspector that is
the difference of two scores, for a pair-ranker its logit; positive is a win. Paper 000, appendix F.
"""

from collections.abc import Callable, Sequence, Sized

import numpy as np
from rapidfuzz.distance import Levenshtein

Numbers = Sequence[float] | np.ndarray

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
RESAMPLES = 1000
CONFIDENCE = 0.95
CALIBRATION_BINS = 15


def _finite(name: str, values: Numbers) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name}: expected one number per row, got an array of shape {array.shape}")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(f"{name}: row {bad[0]} is {array[bad[0]]}, not a finite number; leave such rows out")
    return array


def _paired(names: str, a: Sized, b: Sized) -> None:
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
    """Percentile bootstrap interval [low, high] of `statistic` over rows drawn with replacement.

    `values` is one array [N] or several that are resampled together. None where there are fewer than two rows, no
    resamples, or fewer than half of them with a finite statistic.
    """
    arrays = values if isinstance(values, tuple) else (values,)
    rows = len(arrays[0])
    if rows < 2 or not resamples:
        return None
    rng = np.random.default_rng(seed)
    indices = (rng.integers(0, rows, size=rows) for _ in range(resamples))
    draws = np.array([statistic(*(array[index] for array in arrays)) for index in indices])
    draws = draws[np.isfinite(draws)]
    if draws.size < resamples / 2:
        return None
    tail = (1 - confidence) / 2
    return [float(limit) for limit in np.quantile(draws, [tail, 1 - tail])]


def distribution(values: Numbers) -> dict:
    """Mean, standard deviation and quantiles of an array [N]."""
    array = _finite("values", values)
    if not array.size:
        return {"rows": 0, "mean": None, "sd": None, "quantiles": None}
    return {
        "rows": int(array.size),
        "mean": float(array.mean()),
        "sd": float(array.std(ddof=1)) if array.size > 1 else None,
        "quantiles": {f"{quantile:g}": float(np.quantile(array, quantile)) for quantile in QUANTILES},
    }


def margins(before: Numbers, after: Numbers, unchanged: Sequence[bool] | np.ndarray | None = None) -> np.ndarray:
    """`after - before` as [N] float64; exactly 0 where `unchanged` says that the two texts are the same.

    An encoder's score moves in its last bits with the batch it lies in, and such noise must not count as a win.
    """
    _paired("before and after", before, after)
    difference = _finite("after", after) - _finite("before", before)
    if unchanged is not None:
        _paired("scores and unchanged", difference, unchanged)
        difference[np.asarray(unchanged, dtype=bool)] = 0.0
    return difference


def win_rate(margins: Numbers, *, seed: int = 0, resamples: int = RESAMPLES) -> dict:
    """Wins, losses and ties of the aligned text, and two rates with their bootstrap intervals.

    `win_rate` is wins / all rows (app. F; the ties count against it); `decided_win_rate` is wins / (wins + losses),
    which drops ties as the reference code does.
    """
    signs = np.sign(_finite("margins", margins))
    wins, losses = int((signs > 0).sum()), int((signs < 0).sum())

    def rate(signs: np.ndarray) -> float:
        return float((signs > 0).mean())

    decided = signs[signs != 0]
    return {
        "rows": int(signs.size),
        "wins": wins,
        "losses": losses,
        "ties": int(signs.size) - wins - losses,
        "win_rate": rate(signs) if signs.size else None,
        "win_rate_interval": bootstrap_interval(signs, rate, seed=seed, resamples=resamples),
        "decided_win_rate": rate(decided) if decided.size else None,
        "decided_win_rate_interval": bootstrap_interval(decided, rate, seed=seed, resamples=resamples),
    }


def two_way_accuracy(margins: Numbers, *, seed: int = 0, resamples: int = RESAMPLES) -> dict:
    """Share of two-way items whose right option scores higher; a tie is not a hit (section 3, HHH-style files).

    `margins` is score(right option) - score(wrong option), or a pair-ranker's logit for the right option.
    """
    counts = win_rate(margins, seed=seed, resamples=resamples)
    return {
        "items": counts["rows"],
        "right": counts["wins"],
        "ties": counts["ties"],
        "accuracy": counts["win_rate"],
        "accuracy_interval": counts["win_rate_interval"],
    }


def score_shift(
    before: Numbers,
    after: Numbers,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict:
    """Distributions of the scores before and after and of their difference, with an interval of its mean."""
    difference = margins(before, after)
    return {
        "before": distribution(before),
        "after": distribution(after),
        "shift": distribution(difference),
        "mean_shift_interval": bootstrap_interval(
            difference, lambda sample: float(sample.mean()), seed=seed, resamples=resamples
        ),
    }


def score_level(scores: Numbers, *, threshold: float = 0.5, seed: int = 0, resamples: int = RESAMPLES) -> dict:
    """Mean of scores [N] and the share of those from `threshold` on, each with its interval."""
    array = _finite("scores", scores)
    above = (array >= threshold).astype(np.float64)

    def mean(sample: np.ndarray) -> float:
        return float(sample.mean())

    return {
        "mean": mean(array) if array.size else None,
        "mean_interval": bootstrap_interval(array, mean, seed=seed, resamples=resamples),
        "share_above": mean(above) if array.size else None,
        "share_above_interval": bootstrap_interval(above, mean, seed=seed, resamples=resamples),
    }


def text_change(before: Sequence[str], after: Sequence[str]) -> dict:
    """How far the texts moved: lengths in words, and normalised Levenshtein distance over words (0 same, 1 all new).

    `unchanged` is the share of rows whose words are the same, in the same order.
    """
    _paired("texts before and after", before, after)
    words_before = [text.split() for text in before]
    words_after = [text.split() for text in after]
    distances = [Levenshtein.normalized_distance(a, b) for a, b in zip(words_before, words_after, strict=True)]
    lengths_before = np.array([len(words) for words in words_before], dtype=np.float64)
    lengths_after = np.array([len(words) for words in words_after], dtype=np.float64)
    return {
        "words_before": distribution(lengths_before),
        "words_after": distribution(lengths_after),
        "words_change": distribution(lengths_after - lengths_before),
        "edit_distance": distribution(distances),
        "unchanged": float(np.mean([distance == 0 for distance in distances])) if distances else None,
    }


def auc(labels: Numbers, scores: Numbers) -> float:
    """Area under the ROC curve: the chance that a row of label 1 scores above one of label 0, ties counted half.

    nan where one of the two labels does not occur.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    positives = int((labels == 1).sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = mean_rank[group][labels == 1].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def expected_calibration_error(labels: np.ndarray, scores: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Mean distance between score and share of label 1 over equal-width bins, weighted by their rows."""
    place = np.clip((scores * bins).astype(int), 0, bins - 1)
    rows = np.bincount(place, minlength=bins)
    gaps = np.abs(np.bincount(place, scores, bins) - np.bincount(place, labels, bins))
    return float(gaps.sum() / rows.sum())


def classification(
    labels: Numbers,
    scores: Numbers,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict:
    """Accuracy at 0.5, AUC with its interval, and calibration (ECE over 15 bins, Brier score) of scores in [0, 1]."""
    _paired("labels and scores", labels, scores)
    labels, scores = _finite("labels", labels), _finite("scores", scores)
    if not labels.size:
        raise ValueError("labels: no rows to evaluate")
    area = auc(labels, scores)
    return {
        "rows": int(labels.size),
        "accuracy": float(((scores >= 0.5) == (labels == 1)).mean()),
        "auc": None if np.isnan(area) else area,
        "auc_interval": bootstrap_interval((labels, scores), auc, seed=seed, resamples=resamples),
        "expected_calibration_error": expected_calibration_error(labels, scores),
        "brier": float(np.mean((scores - labels) ** 2)),
    }
