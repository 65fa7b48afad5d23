"""What aligners do to every score: changes, a control, and the order that follows (paper 002, figure 2).

N rows, M members; `MM` is the member that rewrites, then the one whose score changes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transforms.evaluation.intervals import bootstrap_interval


@dataclass(frozen=True)
class Changes:
    """The scores of the rows that one aligner alone rewrote.

    control_NM: each row's question with the rewrite of the row before, so that what an answer gains or loses by its
    style alone can be told from what it says on the question.
    """

    before_NM: np.ndarray
    after_NM: np.ndarray
    control_NM: np.ndarray

    @property
    def mean_M(self) -> np.ndarray:
        """Return the mean change of each score, 0 where nothing is known of it."""
        return np.array([_mean(change_N) or 0.0 for change_N in (self.after_NM - self.before_NM).T])


def shifted(texts: Sequence[str]) -> list[str]:
    """Return every row's text for the row after it, the last one's for the first."""
    return [*texts[-1:], *texts[:-1]]


def conflict_rows(criteria: Sequence[str], changes: Sequence[Changes], seed: int) -> Iterator[dict[str, Any]]:
    """Yield a row of schemas.tables.CONFLICTS for each aligner and criterion."""
    for aligner, changed in zip(criteria, changes, strict=True):
        change_NM = changed.after_NM - changed.before_NM
        control_NM = changed.control_NM - changed.before_NM
        if len(change_NM) < 2:  # of a single row the row before is itself
            control_NM = np.full_like(control_NM, np.nan)
        for number, criterion in enumerate(criteria):
            change_N = change_NM[np.isfinite(change_NM[:, number]), number]
            control_N = control_NM[np.isfinite(control_NM[:, number]), number]
            change_low, change_high = _interval(change_N, seed)
            control_low, control_high = _interval(control_N, seed)
            yield {
                "aligner": aligner,
                "criterion": criterion,
                "rows": len(change_N),
                "change": _mean(change_N),
                "change_low": change_low,
                "change_high": change_high,
                "share_fallen": _mean(change_N < 0),
                "control_change": _mean(control_N),
                "control_low": control_low,
                "control_high": control_high,
            }


def harmers_first(criteria: Sequence[str], change_MM: np.ndarray) -> tuple[str, ...]:
    """Return the criteria in the order to suggest for `fixed`.

    Those that harm others come first, so that these can repair it; among equals, those that help most.
    """
    # a and b, a takes .3 from b, b gives .1 to a: on others [[0, -.3], [.1, 0]], harm [[0, -.3], [0, 0]]; net harm,
    # done less suffered, a -.3, b .3; help a 0, b .1: a comes first
    on_others_MM = change_MM.copy()
    np.fill_diagonal(on_others_MM, 0.0)
    harm_MM = np.minimum(on_others_MM, 0)
    net_harm_M, help_M = (harm_MM - harm_MM.T).sum(axis=1), np.maximum(on_others_MM, 0).sum(axis=1)
    return tuple(criteria[number] for number in np.lexsort((-help_M, net_harm_M)))


def means(scores_NM: np.ndarray) -> list[float | None]:
    """Return the mean of each column over the rows that have a score, None where none has."""
    return [_mean(scores_N) for scores_N in scores_NM.T]


def _mean(values_N: np.ndarray) -> float | None:
    values_N = values_N[np.isfinite(values_N)]
    return float(values_N.mean()) if len(values_N) else None


def _interval(values_N: np.ndarray, seed: int) -> tuple[float | None, float | None]:
    low_and_high = bootstrap_interval(values_N, np.mean, seed=seed)
    return (low_and_high[0], low_and_high[1]) if low_and_high else (None, None)
