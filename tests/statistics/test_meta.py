"""Means over datasets against statsmodels and SciPy, and their coverage."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as oracle

from cnnbench.statistics.estimates import Interval
from cnnbench.statistics.meta import (
    MeanEffect,
    between_variance,
    equal_effects_p,
    hartung_knapp,
    paired_effect,
    pool,
    unpaired_effect,
)

EFFECTS = [
    MeanEffect(mean, variance, 5)
    for mean, variance in zip(
        (0.1, 0.5, -0.2, 0.35, 0.8), (0.02, 0.01, 0.05, 0.03, 0.04), strict=True
    )
]
seeds = st.lists(st.integers(-99, 99).map(lambda n: n / 100), min_size=2, max_size=8, unique=True)


def test_random_effects_match_statsmodels() -> None:
    # combine_effects(..., method_re="chi2") of statsmodels 0.15.0, and conf_int(use_t=True)[3]
    assert between_variance(EFFECTS) == pytest.approx(0.0758333333333334)
    center, interval = hartung_knapp(EFFECTS)
    assert center == pytest.approx(0.32200220167735755)
    assert (interval.low, interval.high) == pytest.approx((-0.12679828, 0.77080268))


def test_effects_that_agree_too_well_have_no_variance_between() -> None:
    near = [MeanEffect(mean, 0.02, 5) for mean in (0.3, 0.31, 0.29)]
    assert between_variance(near) == 0
    exact = [MeanEffect(mean, variance, 5) for mean, variance in ((0.0, 0.0), (0.2, 0.1))]
    assert between_variance(exact) == pytest.approx(0.02)


@given(seeds, seeds)
def test_unpaired_effects_are_those_of_welch(base: list[float], other: list[float]) -> None:
    found = unpaired_effect(base, other)
    assert found.mean == pytest.approx(np.mean(other) - np.mean(base), abs=1e-12)
    assert found.variance == pytest.approx(oracle.sem(base) ** 2 + oracle.sem(other) ** 2)
    expected = oracle.ttest_ind(other, base, equal_var=False).confidence_interval()
    half = oracle.t.ppf(0.975, found.freedom) * math.sqrt(found.variance)
    interval = (found.mean - half, found.mean + half)
    assert interval == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_pooled_intervals_are_those_of_scipy() -> None:
    means = [effect.mean for effect in EFFECTS]
    found = pool(EFFECTS, 0.9)
    assert found.mean == pytest.approx(np.mean(means))
    assert found.others is not None
    expected = oracle.t.interval(0.9, 4, np.mean(means), oracle.sem(means))
    assert (found.others.low, found.others.high) == pytest.approx(expected)
    assert found.between == pytest.approx(math.sqrt(between_variance(EFFECTS)))
    # Equal variances: the degrees of freedom add up.
    equal = [MeanEffect(mean, 0.04, 5) for mean in means]
    half = oracle.t.ppf(0.95, 25) * math.sqrt(0.04 / 5)
    these = pool(equal, 0.9).these
    assert these is not None
    assert (these.low, these.high) == pytest.approx((np.mean(means) - half, np.mean(means) + half))


def test_one_dataset_says_nothing_on_others() -> None:
    found = pool([paired_effect([0.1, 0.2, 0.4])])
    expected = oracle.t.interval(0.95, 2, 0.7 / 3, oracle.sem([0.1, 0.2, 0.4]))
    assert found.these is not None
    assert (found.these.low, found.these.high) == pytest.approx(expected)
    assert (found.others, found.between) == (None, None)


def test_equal_effects_are_tested_by_welch() -> None:
    rng = np.random.default_rng(0)
    groups = [list(rng.normal(shift, spread, 6)) for shift, spread in ((0, 1), (1, 3), (2, 0.5))]
    found = equal_effects_p([paired_effect(group) for group in groups])
    # Welch's analysis of variance of the differences themselves.
    assert found == pytest.approx(oracle.f_oneway(*groups, equal_var=False).pvalue)


@pytest.mark.parametrize("datasets", [3, 5, 10])
def test_intervals_over_datasets_cover_their_means(datasets: int) -> None:
    """A quarter of the variance between datasets is that of the seeds, which differs by dataset."""
    rng, number = np.random.default_rng(datasets), 1_500
    spreads = np.exp(rng.normal(0, 0.5, (number, datasets, 1)))
    truths = rng.normal(0, 1, (number, datasets))
    samples = truths[:, :, None] + spreads * rng.normal(0, 1, (number, datasets, 6))
    hits = np.zeros(2)
    for sample, truth in zip(samples, truths, strict=True):
        found = pool([paired_effect(list(row)) for row in sample])
        bounds: list[tuple[Interval | None, float]] = [(found.these, truth.mean())]
        bounds.append((found.others, 0.0))
        hits += [b is not None and b.low <= true <= b.high for b, true in bounds]
    for hit in hits:
        assert oracle.binomtest(int(hit), number, 0.95).pvalue > 0.001


def test_welch_finds_equal_effects_different_as_often_as_alpha() -> None:
    rng, number = np.random.default_rng(7), 2_000
    samples = rng.normal(0, 1, (number, 3, 6)) * np.array([[0.5], [1.0], [2.0]])
    p = [equal_effects_p([paired_effect(list(row)) for row in sample]) for sample in samples]
    assert oracle.binomtest(int((np.array(p) <= 0.05).sum()), number, 0.05).pvalue > 0.001
