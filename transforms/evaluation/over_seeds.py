"""Replicates over seeds: labels `NAME@SEED`, and the mean of a figure over the seeds with its interval.

Each replicate's own interval says how far its rows may mislead; the one over seeds says how far a seed may.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

REPLICATE = re.compile(r"(.+)@(\d+)", re.DOTALL)
# Quantiles 0.975 of Student's t for 1, 2, … degrees of freedom (NIST/SEMATECH e-Handbook of Statistical Methods,
# 1.3.6.7.2). From 30 on the last one is taken, which makes an interval at most 5 % too wide.
STUDENT_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def replicates(labels: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the labels of the form NAME@SEED: by name, then by seed."""
    by_name: dict[str, dict[str, str]] = {}
    for label in labels:
        if match := REPLICATE.fullmatch(label):
            by_name.setdefault(match[1], {})[match[2]] = label
    return by_name


def mean_and_interval(values: Iterable[float | None]) -> tuple[float | None, list[float] | None]:
    """Return the mean of a figure over seeds and its 95 % t interval, which needs two of them; None is no figure."""
    numbers = np.array([value for value in values if value is not None], dtype=np.float64)
    if not numbers.size:
        return None, None
    mean = float(numbers.mean())
    if numbers.size == 1:
        return mean, None
    # [0.5 0.6 0.7] → sd 0.1, standard error 0.1 / √3, times 4.303 → 0.6 ± 0.248
    reach = STUDENT_T[min(numbers.size - 1, len(STUDENT_T)) - 1] * float(numbers.std(ddof=1)) / numbers.size**0.5
    return mean, [mean - reach, mean + reach]


def over_seeds(by_seed: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures of one name over its seeds, in the form that each seed's have (transforms.evaluation.figures).

    Counts of wins, losses and ties are each seed's own, and are left out. A category counts where a seed has it.
    """
    seeds = list(by_seed.values())
    levels = seeds[0]["score_level"]
    return {
        "seeds": list(by_seed),
        **_rates_and_shifts(seeds),
        "score_level": {
            judge: {when: _level([one["score_level"][judge][when] for one in seeds]) for when in levels[judge]}
            for judge in levels
        },
        "by": {column: _categories([one["by"][column] for one in seeds]) for column in seeds[0]["by"]},
    }


def _categories(of_column: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = sorted({value for categories in of_column for value in categories})
    return {
        value: _rates_and_shifts([categories[value] for categories in of_column if value in categories])
        for value in values
    }


def _rates_and_shifts(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rates = []
    for of_judge in zip(*(part["judges"] for part in parts), strict=True):
        win_rate, interval = mean_and_interval(rate["win_rate"] for rate in of_judge)
        decided, decided_interval = mean_and_interval(rate["wins_over_decided"] for rate in of_judge)
        rates.append(
            {
                "judge": of_judge[0]["judge"],
                "kind": of_judge[0]["kind"],
                "n": round(float(np.mean([rate["n"] for rate in of_judge]))),
                "win_rate": win_rate,
                "ci95": interval,
                "wins_over_decided": decided,
                "wins_over_decided_ci95": decided_interval,
            }
        )
    shifts = {}
    for judge in parts[0]["score_shift"]:
        mean, interval = mean_and_interval(part["score_shift"][judge]["shift"]["mean"] for part in parts)
        shifts[judge] = {"shift": {"mean": mean}, "mean_shift_interval": interval}
    return {"judges": rates, "score_shift": shifts}


def _level(levels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name in ("mean", "share_above"):
        figures[name], figures[f"{name}_interval"] = mean_and_interval(level[name] for level in levels)
    return figures
