"""How well scores tell two labels apart: accuracy, AUC, calibration.

Shapes: N rows, one label (0 or 1) and one score in [0, 1] for each.
"""

import numpy as np

from transforms.evaluation.intervals import RESAMPLES, Numbers, bootstrap_interval, check_paired, finite

CALIBRATION_BINS = 15


def auc(labels: Numbers, scores: Numbers) -> float:
    """Return the chance that a row of label 1 scores above one of label 0.

    It is the area under the ROC; ties are counted half. It is nan where one of the two labels does not occur.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    positives = int((labels == 1).sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    # scores [.9 .9 .5 .4] have the ranks [3.5 3.5 2 1]; those of label 1, [1 0 1 0], add up to 5.5. Two rows of label 1
    # below all others would add up to 1 + 2 = 3; what is beyond counts the pairs won: 2.5 of 2 * 2.
    _, value_of_row, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank_of_value = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = mean_rank_of_value[value_of_row][labels == 1].sum()
    pairs_won = rank_sum - positives * (positives + 1) / 2
    return float(pairs_won / (positives * negatives))


def expected_calibration_error(labels: np.ndarray, scores: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Return how far mean score and share of label 1 lie apart.

    It is the mean over all rows of the distances in bins of equal width. A bin's distance counts once for each of its
    rows, so that sums do instead of means.
    """
    # two bins, scores [.9 .9 .2 1.] with labels [1 0 1 1]: scores add up to [.2 2.8], labels to [1 2]
    # → gaps [.8 .8] → 1.6 / 4 rows
    bin_of_row = np.clip((scores * bins).astype(int), 0, bins - 1)
    score_sums = np.bincount(bin_of_row, scores, bins)
    label_sums = np.bincount(bin_of_row, labels, bins)
    return float(np.abs(score_sums - label_sums).sum() / len(scores))


def classification(
    labels: Numbers,
    scores: Numbers,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict:
    """Return accuracy at 0.5, AUC with its interval, and calibration of scores.

    Calibration is ECE over 15 bins, and the Brier score.
    """
    check_paired("labels and scores", labels, scores)
    labels, scores = finite("labels", labels), finite("scores", scores)
    if not labels.size:
        raise ValueError("labels: there are no rows to evaluate")
    area = auc(labels, scores)
    return {
        "rows": int(labels.size),
        "accuracy": float(((scores >= 0.5) == (labels == 1)).mean()),
        "auc": None if np.isnan(area) else area,
        "auc_interval": bootstrap_interval((labels, scores), auc, seed=seed, resamples=resamples),
        "expected_calibration_error": expected_calibration_error(labels, scores),
        "brier": float(np.mean((scores - labels) ** 2)),
    }
