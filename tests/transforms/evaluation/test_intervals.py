"""Distributions and bootstrap intervals, and rows that cannot be counted."""

import numpy as np
import pytest

from transforms.evaluation.classification import classification
from transforms.evaluation.intervals import bootstrap_interval, distribution
from transforms.evaluation.text_change import text_change
from transforms.evaluation.win_rates import margins, win_rate


def test_a_bootstrap_is_seeded_and_covers_the_mean():
    values = np.random.default_rng(1).normal(3.0, 1.0, 400)
    mean = lambda sample: float(sample.mean())  # noqa: E731
    first, again = (bootstrap_interval(values, mean, seed=7) for _ in range(2))
    assert first == again != bootstrap_interval(values, mean, seed=8)
    assert first[0] < values.mean() < first[1]
    assert first[1] - first[0] == pytest.approx(2 * 1.96 / 20, rel=0.2)
    assert bootstrap_interval(values[:1], mean) is None


def test_the_distribution_of_nothing_is_empty_and_that_of_one_row_has_no_spread():
    assert distribution([])["mean"] is None
    assert distribution([2.0])["sd"] is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: win_rate([0.1, float("nan")]), "margins: row 1 is nan"),
        (lambda: margins([0.1], [0.1, 0.2]), "1 and 2 rows"),
        (lambda: margins([None, 0.1], [0.1, 0.2]), "before: row 0 is nan"),
        (lambda: text_change(["a"], []), "1 and 0 rows"),
        (lambda: classification([], []), "no rows"),
    ],
)
def test_rows_that_cannot_be_counted_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
