"""Win rates: how often a judge finds the aligned text better than the original (paper 000, app. F).

A judge gives every row a margin: how much better it finds the aligned text. For an inspector that is the difference of
two scores, for a pair-ranker its logit; positive is a win.
"""

from collections.abc import Sequence

import numpy as np

from transforms.evaluation.intervals import RESAMPLES, Numbers, bootstrap_interval, check_paired, distribution, finite


def margins(before: Numbers, after: Numbers, unchanged: Sequence[bool] | np.ndarray | None = None) -> np.ndarray:
    """Return `after - before` as [N] float64.

    It is exactly 0 where `unchanged` says that the two texts are the same. An encoder's score moves in its last bits
    with the batch it lies in, and such noise must not count as a win.
    """
    check_paired("before and after", before, after)
    difference = finite("after", after) - finite("before", before)
    if unchanged is not None:
        check_paired("scores and unchanged", difference, unchanged)
        difference[np.asarray(unchanged, dtype=bool)] = 0.0
    return difference


def win_rate(margins: Numbers, *, seed: int = 0, resamples: int = RESAMPLES) -> dict:
    """Count wins, losses and ties of the aligned text; return two rates with their bootstrap intervals.

    `win_rate` is wins / all rows (app. F; the ties count against it); `decided_win_rate` is wins / (wins + losses),
    which drops ties as the reference code does.
    """
    signs = np.sign(finite("margins", margins))
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
    """Return the share of two-way items whose right option scores higher.

    A tie is no hit (section 3, HHH-style files). `margins` is score(right option) - score(wrong option), or a
    pair-ranker's logit for the right option.
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
    """Return the distributions of scores before, after, and of their difference.

    The mean of the difference has an interval.
    """
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
    """Return the mean of scores [N] and their share from `threshold` on, with intervals."""
    array = finite("scores", scores)
    above = (array >= threshold).astype(np.float64)

    def mean(sample: np.ndarray) -> float:
        return float(sample.mean())

    return {
        "mean": mean(array) if array.size else None,
        "mean_interval": bootstrap_interval(array, mean, seed=seed, resamples=resamples),
        "share_above": mean(above) if array.size else None,
        "share_above_interval": bootstrap_interval(above, mean, seed=seed, resamples=resamples),
    }
