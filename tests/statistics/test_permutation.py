"""Permutation tests and their inversions: brute force, SciPy, and the sampled tests."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats as oracle

from cnnbench.statistics.permutation import (
    EXACT,
    MOST_DIVISIONS,
    MeanTest,
    exchange_test,
    pairs_for,
    random_subset_sums,
    random_subsets,
    sign_flip_p,
    sign_flip_test,
    smallest_exchange_p,
    smallest_p,
    values_for,
)
from cnnbench.statistics.studentized import studentized_test
from cnnbench.statistics.welch import welch_freedom, welch_interval

# Accuracies on 500 images: many ties, and values that are not exact in binary.
accuracy = st.integers(440, 500).map(lambda n: n / 500)
real = st.integers(-(10**6), 10**6).map(lambda n: n / 1e6)
value = st.one_of(accuracy, real)


@st.composite
def groups(draw: Any, least: int = 2, most: int = 5, *, equal: bool = True) -> Any:
    kind = draw(st.sampled_from([accuracy, real]))
    n, m = draw(st.integers(least, most)), draw(st.integers(least, most))
    return [draw(st.lists(kind, min_size=k, max_size=k)) for k in (n, n if equal else m)]


def welch_t(first: Any, second: Any) -> Any:
    """The statistic with the sign, along the last axis; infinite without spread."""
    errors = [np.var(g, axis=-1, ddof=1) / np.shape(g)[-1] for g in (first, second)]
    gap = np.round(np.mean(second, axis=-1) - np.mean(first, axis=-1), 12)
    return gap, np.round(sum(errors), 14)


def divisions(first: Sequence[float], second: Sequence[float]) -> Any:
    """Every division of the values into groups of these sizes."""
    pooled = np.array([*first, *second])
    every = set(range(len(pooled)))
    chosen = [list(c) for c in itertools.combinations(range(len(pooled)), len(first))]
    others = [sorted(every - set(c)) for c in chosen]
    return pooled[np.array(chosen)], pooled[np.array(others)]


def brute_exchange_p(first: Sequence[float], second: Sequence[float]) -> float:
    own, others = divisions(first, second)
    gaps = np.abs(others.mean(axis=1) - own.mean(axis=1))
    return float(np.mean(gaps >= abs(np.mean(second) - np.mean(first)) - 1e-9))


def brute_studentized_p(first: Sequence[float], second: Sequence[float]) -> float:
    own, others = divisions(first, second)
    gaps, spreads = welch_t(own, others)
    gap, spread = welch_t(np.array(first), np.array(second))
    return float(np.mean(gaps**2 * spread >= gap**2 * spreads * (1 - 1e-7) - 1e-18))


def brute_sign_flip_p(differences: Sequence[float]) -> float:
    signs = np.array(list(itertools.product([1, -1], repeat=len(differences))))
    sums = np.abs(signs @ np.array(differences))
    return float(np.mean(sums >= abs(math.fsum(differences)) - 1e-9))


@given(st.lists(value, min_size=1, max_size=9))
def test_p_of_the_sign_flip_test_is_that_of_brute_force(differences: list[float]) -> None:
    assert sign_flip_test(differences).p == pytest.approx(brute_sign_flip_p(differences))


@settings(max_examples=40)
@given(groups(2, 4))
def test_p_of_the_exchange_test_is_that_of_scipy(values: list[list[float]]) -> None:
    def gap(first: Any, second: Any, axis: int) -> Any:
        return np.round(np.mean(second, axis=axis) - np.mean(first, axis=axis), 9)

    # Two-sided by absolute values; SciPy's p-value by twice the smaller tail is the same here.
    found = oracle.permutation_test(
        [np.array(v) for v in values], gap, n_resamples=math.inf, vectorized=True
    )
    p = exchange_test(*values).p
    assert p == pytest.approx(min(1.0, float(found.pvalue)))
    assert p == pytest.approx(brute_exchange_p(*values))


@given(groups(2, 5))
def test_equal_groups_are_ordered_alike_by_the_mean_and_by_welchs_t(
    values: list[list[float]],
) -> None:
    assert exchange_test(*values).p == pytest.approx(brute_studentized_p(*values))


@given(groups(2, 5, equal=False))
def test_p_of_the_studentized_test_is_that_of_brute_force(values: list[list[float]]) -> None:
    assume(np.var(values[0]) + np.var(values[1]) > 0)
    assert studentized_test(*values).p == pytest.approx(brute_studentized_p(*values))


@given(groups(2, 5), st.sampled_from([0.3, 0.2, 0.1, 0.05]))
def test_equal_groups_have_the_same_studentized_interval(
    values: list[list[float]], alpha: float
) -> None:
    """The bisection finds the ends that the typical values give."""
    assume(min(np.var(values[0]), np.var(values[1])) > 1e-9)
    exact, found = (f(*values).interval(1 - alpha) for f in (exchange_test, studentized_test))
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-6)


# Inversion: a difference is in the interval if and only if the test does not reject it.

SHIFTS = st.one_of(accuracy.map(lambda v: v - 0.94), real)
ALPHAS = st.sampled_from([0.5, 0.2, 0.1, 0.05, 0.03125, 2 / 70])


def agrees(
    test: MeanTest, p_of: Callable[[float], float], shift: float, alpha: float, ends: int
) -> None:
    interval = test.interval(1 - alpha)
    inside = [shift, test.difference, (interval.low + interval.high) / 2]
    for d in inside if math.isfinite(interval.low) else [shift]:
        near = min(abs(d - interval.low), abs(d - interval.high)) < 1e-9
        assert near or (p_of(d) > alpha * (1 + 1e-9)) == (interval.low <= d <= interval.high)
    if math.isfinite(interval.low):  # closed: the ends themselves are not rejected
        for end in (interval.low, interval.high)[:ends]:
            assert p_of(end) > alpha * (1 + 1e-9)
    assert (test.p > alpha * (1 + 1e-9)) == (interval.low <= 0 <= interval.high)


@given(st.lists(value, min_size=1, max_size=8), SHIFTS, ALPHAS)
def test_the_interval_of_pairs_inverts_the_sign_flip_test(
    differences: list[float], shift: float, alpha: float
) -> None:
    def p_of(d: float) -> float:
        return brute_sign_flip_p([each - d for each in differences])

    agrees(sign_flip_test(differences), p_of, shift, alpha, ends=2)


@given(groups(1), SHIFTS, ALPHAS)
def test_the_interval_of_groups_inverts_the_exchange_test(
    values: list[list[float]], shift: float, alpha: float
) -> None:
    def p_of(d: float) -> float:
        return brute_exchange_p(values[0], [each - d for each in values[1]])

    agrees(exchange_test(*values), p_of, shift, alpha, ends=2)


@given(groups(2, 5, equal=False), SHIFTS, ALPHAS)
def test_zero_is_in_the_studentized_interval_if_and_only_if_p_exceeds_alpha(
    values: list[list[float]], shift: float, alpha: float
) -> None:
    """Of shifted values, too: the p of the shifted values decides, not the interval's end."""
    moved = [each - shift for each in values[1]]
    test = studentized_test(values[0], moved)
    interval = test.interval(1 - alpha)
    assert (test.p > alpha * (1 + 1e-9)) == (interval.low <= 0 <= interval.high)
    assert interval.low <= test.difference <= interval.high


@given(groups(3, 5, equal=False), ALPHAS)
def test_the_studentized_interval_inverts_the_test(values: list[list[float]], alpha: float) -> None:
    assume(min(np.var(values[0]), np.var(values[1])) > 1e-9)
    test = studentized_test(*values)
    interval = test.interval(1 - alpha)
    assume(math.isfinite(interval.low))
    width = interval.high - interval.low
    for end, out in ((interval.low, -1), (interval.high, 1)):
        inside, outside = end - 1e-4 * out * width, end + 1e-4 * out * width
        if abs(end) > 1e-9:  # zero ends the interval where the test of zero is the answer
            assert brute_studentized_p(values[0], [v - inside for v in values[1]]) > alpha
            assert brute_studentized_p(values[0], [v - outside for v in values[1]]) <= alpha


def test_constant_groups() -> None:
    assert exchange_test([0.9] * 4, [0.9] * 4).p == 1.0
    same = exchange_test([0.9] * 4, [0.9] * 4).interval(0.95)
    assert (same.low, same.high) == (0.0, 0.0)
    apart = exchange_test([0.9] * 4, [0.92] * 4)
    assert (apart.p, apart.interval(0.95).low) == pytest.approx((2 / 70, 0.02))
    unequal = studentized_test([0.9] * 4, [0.92] * 5)
    ends = unequal.interval(0.95)
    assert (unequal.p, ends.low, ends.high) == pytest.approx((1 / 126, 0.02, 0.02))
    assert studentized_test([0.9] * 4, [0.9] * 5).p == 1.0


# Sampled tests.


def test_sampled_tests_are_close_to_the_normal_approximation() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.normal(0, 1, 30).tolist(), rng.normal(0.6, 1.5, 30).tolist()
    z = abs(np.mean(second) - np.mean(first)) / math.sqrt(
        (np.var(first, ddof=1) + np.var(second, ddof=1)) / 30
    )
    welch = welch_interval(first, second)
    assert welch is not None
    for test in (exchange_test(first, second), studentized_test(first, [*second, 0.6])):
        assert test.p == pytest.approx(2 * oracle.norm.sf(z), rel=0.25)
        interval = test.interval(0.95)
        assert (interval.low, interval.high) == pytest.approx((welch.low, welch.high), abs=0.05)
    assert exchange_test(first, second).p == exchange_test(first, second).p


@pytest.mark.parametrize(
    "make", [lambda d, e: sign_flip_test([b - a for a, b in zip(d, e, strict=True)]), exchange_test]
)
def test_sampled_intervals_agree_with_the_sampled_p(make: Callable[..., MeanTest]) -> None:
    """For every shift of the values, with the same assignments."""
    rng = np.random.default_rng(5)
    first, second = (rng.integers(470, 495, 24) / 500 for _ in range(2))
    for alpha in (0.1, 0.05, 0.001):
        interval = make(first, second).interval(1 - alpha)
        for d in (interval.low, interval.high):
            inside = d + 1e-6 * (1 if d == interval.low else -1)
            outside = d - 1e-6 * (1 if d == interval.low else -1)
            assert make(first, second - inside).p > alpha
            assert make(first, second - d).p > alpha
            assert make(first, second - outside).p <= alpha


def test_the_observed_assignment_counts() -> None:
    assert sign_flip_p([1.0] * 20) == smallest_p(EXACT)
    assert sign_flip_p([1.0] * 60) == pytest.approx(1 / 524_289)
    assert exchange_test([0.0] * 30, [1.0] * 30).p == pytest.approx(1 / (MOST_DIVISIONS + 1))
    assert studentized_test(list(range(30)), list(range(100, 131))).p == 1 / (MOST_DIVISIONS + 1)


def test_sampling_begins_where_enumerating_would_take_long() -> None:
    assert exchange_test(range(10), range(100, 110)).assignments == math.comb(20, 10) // 2
    assert exchange_test(range(11), range(100, 111)).assignments == MOST_DIVISIONS + 1


def test_random_subsets_are_uniform() -> None:
    picked = np.stack(list(random_subsets(5, 2)))
    assert set(picked.sum(axis=0)) == {2}
    codes = np.unique_counts(2 ** np.arange(5) @ picked)
    assert len(codes.values) == 10
    assert oracle.chisquare(codes.counts).pvalue > 0.001


@settings(max_examples=10)
@given(st.lists(real, min_size=1, max_size=40), st.integers(0, 40))
def test_sums_of_random_subsets_are_those_of_their_values(values: list[float], size: int) -> None:
    size = min(size, len(values))
    picked = np.stack(list(random_subsets(len(values), size)))
    found = random_subset_sums(np.array(values), size)
    assert found[:500] == pytest.approx(np.array(values) @ picked[:, :500], abs=1e-12)
    assert found[-1] == pytest.approx(picked[:, -1] @ np.array(values), abs=1e-12)


# Numbers of values.


@pytest.mark.parametrize("alpha", [0.5, 0.1, 0.05, 0.01, 0.001, 0.0001])
def test_the_fewest_values_reach_alpha_and_one_fewer_does_not(alpha: float) -> None:
    fewest = values_for(alpha)
    first, second = list(range(fewest)), list(range(100, 100 + fewest))
    test = exchange_test(first, second)
    assert test.p == smallest_exchange_p(fewest) <= alpha
    assert math.isfinite(test.interval(1 - alpha).low)
    if fewest > 1:
        fewer = exchange_test(first[1:], second[1:])
        assert fewer.p > alpha
        assert fewer.interval(1 - alpha).high == math.inf


@pytest.mark.parametrize("alpha", [0.5, 0.1, 0.05, 0.03125, 0.01, 0.001])
def test_the_fewest_pairs_reach_alpha_and_one_fewer_does_not(alpha: float) -> None:
    fewest = pairs_for(alpha)
    differences = [0.1 * (i + 1) for i in range(fewest)]
    test = sign_flip_test(differences)
    assert test.p == smallest_p(fewest) <= alpha
    assert math.isfinite(test.interval(1 - alpha).low)
    if fewest > 1:
        fewer = sign_flip_test(differences[1:])
        assert fewer.p > alpha
        assert fewer.interval(1 - alpha).low == -math.inf


# Welch.


@given(groups(2, 6, equal=False), st.sampled_from([0.9, 0.95, 0.99]))
def test_welchs_interval_is_scipys(values: list[list[float]], level: float) -> None:
    assume(min(np.var(values[0]), np.var(values[1])) > 1e-9)
    found = welch_interval(values[0], values[1], level)
    expected = oracle.ttest_ind(values[1], values[0], equal_var=False).confidence_interval(level)
    assert found is not None
    assert (found.low, found.high) == pytest.approx(tuple(expected), rel=1e-6, abs=1e-9)


@given(groups(2, 6, equal=False))
def test_welchs_degrees_of_freedom_are_scipys(values: list[list[float]]) -> None:
    assume(min(np.var(values[0]), np.var(values[1])) > 1e-9)
    errors = [float(np.var(own, ddof=1)) / len(own) for own in values]
    found = welch_freedom(errors, (len(values[0]), len(values[1])))
    assert found == pytest.approx(oracle.ttest_ind(*values, equal_var=False).df, rel=1e-6)


def test_welchs_interval_of_few_or_lost_values() -> None:
    assert welch_interval([1.0], [1.0, 2.0]) is None
    lost = welch_interval([1.0, math.nan], [1.0, 2.0])
    assert lost is not None
    assert math.isnan(lost.low)
    assert math.isnan(lost.high)
