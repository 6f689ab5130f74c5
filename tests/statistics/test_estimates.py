"""Statistics over seeds against NumPy and SciPy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as oracle

from cnnbench.statistics import estimates as statistics

values_of_seeds = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20)


@given(values_of_seeds)
def test_mean_and_std_match_numpy(values: list[float]) -> None:
    found = statistics.estimate(values)
    assert found.values == tuple(values)
    assert found.mean == pytest.approx(np.mean(values), rel=1e-12, abs=1e-9)
    assert found.std == pytest.approx(np.std(values, ddof=1), rel=1e-9, abs=1e-9)


@given(
    # Multiples of 0.001: scipy.stats fails on a standard deviation that underflows.
    st.lists(
        st.integers(-(10**6), 10**6).map(lambda n: n / 1000), min_size=2, max_size=20, unique=True
    ),
    st.floats(0.5, 0.999),
)
def test_interval_matches_scipy(values: list[float], level: float) -> None:
    found = statistics.mean_interval(values, level)
    low, high = oracle.t.interval(level, len(values) - 1, np.mean(values), oracle.sem(values))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9, abs=1e-9)


@given(
    st.lists(st.tuples(st.integers(-1000, 1000), st.integers(-1000, 1000)), min_size=3, max_size=9)
)
def test_correlation_matches_scipy(pairs: list[tuple[int, int]]) -> None:
    first, second = ([value / 1000 for value in own] for own in zip(*pairs, strict=True))
    found = statistics.pearson(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(oracle.pearsonr(first, second).statistic, abs=1e-9)


def test_interval_has_its_nominal_coverage() -> None:
    rng = np.random.default_rng(20251123)
    samples = rng.normal(0.98, 0.002, size=(2000, 5))
    intervals = [statistics.mean_interval(list(sample)) for sample in samples]
    hits = sum(i is not None and i.low <= 0.98 <= i.high for i in intervals)
    assert oracle.binomtest(hits, 2000, 0.95).pvalue > 0.001


def test_one_value_has_no_std() -> None:
    assert statistics.estimate([0.98]) == statistics.Estimate((0.98,), 0.98, None)
    assert statistics.mean_interval([0.98]) is None


def test_equal_values_have_a_std_of_exactly_zero() -> None:
    assert statistics.estimate([0.1] * 10) == statistics.Estimate((0.1,) * 10, 0.1, 0.0)


@given(st.lists(st.floats(-1e300, 1e300), min_size=1))
def test_a_mean_lies_between_the_values(values: list[float]) -> None:
    assert min(values) <= statistics.mean(values) <= max(values)
    assert statistics.mean([values[0]] * 3) == values[0]


@pytest.mark.parametrize("lost", [math.nan, math.inf, -math.inf])
def test_a_diverged_seed_makes_the_mean_nan(lost: float) -> None:
    found = statistics.estimate([0.9, lost, 0.8])
    assert math.isnan(found.mean)
    assert found.std is not None
    assert math.isnan(found.std)
    interval = statistics.mean_interval([0.9, lost, 0.8])
    assert interval is not None
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_the_largest_numbers_do_not_overflow() -> None:
    assert statistics.mean([1.7e308, 1.7e308]) == pytest.approx(1.7e308)
    assert statistics.mean([1.7e308, -1.7e308]) == 0
