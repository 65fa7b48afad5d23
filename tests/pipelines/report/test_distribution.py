import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.report.distribution import Distribution

AT = [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]


def counted(*parts, decimals=4):
    found = Distribution(decimals)
    for part in parts:
        found.add(np.array(part, np.float64))
    return found


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=60), st.integers(0, 60))
def test_numbers_are_those_of_the_values_however_they_come(numbers, cut):
    values = np.array(numbers) / 10_000
    whole, parts = counted(values), counted(values[:cut], values[cut:])
    assert (whole.values.tolist(), whole.counts.tolist()) == (parts.values.tolist(), parts.counts.tolist())
    assert whole.rows == len(values)
    assert whole.mean == pytest.approx(values.mean(), abs=1e-9)
    np.testing.assert_allclose(whole.quantiles(AT), np.quantile(values, AT), atol=1e-9)
    both = counted(values[:cut]) + counted(values[cut:])
    assert (both.mean, both.rows) == (whole.mean, whole.rows)


def test_adding_leaves_both_as_they_are():
    one, two = counted([0.25]), counted([0.5])
    assert (one + two).values.tolist() == [0.25, 0.5]
    assert (one.values.tolist(), two.values.tolist()) == ([0.25], [0.5])


def test_memory_grows_with_the_values_that_differ():
    random = np.random.default_rng(0)
    found = counted(*(random.random(10_000) for _ in range(20)))
    assert found.rows == 200_000
    assert len(found.values) <= 10_001


def test_what_is_not_finite_is_left_out():
    found = counted([0.5, np.nan, np.inf], [])
    assert (found.values.tolist(), found.rows) == ([0.5], 1)
    with pytest.raises(ValueError, match="nothing has a mean"):
        _ = counted([np.nan]).mean


def test_bins_take_what_lies_beyond_the_last():
    assert counted([0.1, 0.6, 0.6, 7]).histogram(np.array([0, 0.5, 1.0])) == [1, 3]
