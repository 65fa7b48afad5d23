"""How well scores tell two labels apart: accuracy, AUC, calibration."""

import numpy as np

from transforms.evaluation.intervals import RESAMPLES, Numbers, bootstrap_interval, check_paired, finite

CALIBRATION_BINS = 15


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
    check_paired("labels and scores", labels, scores)
    labels, scores = finite("labels", labels), finite("scores", scores)
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
