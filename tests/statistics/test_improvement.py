"""Probability of improvement against SciPy, and its interval against Newcombe's polynomial."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as oracle

from cnnbench.statistics.improvement import improvement_interval, probability_of_improvement

# Few different values, so that there are ties.
values_of_seeds = st.lists(st.integers(0, 6).map(lambda n: n / 10), min_size=1, max_size=9)


@given(values_of_seeds, values_of_seeds)
def test_the_probability_is_that_of_mann_and_whitney(base: list[float], other: list[float]) -> None:
    u = oracle.mannwhitneyu(other, base).statistic
    share = probability_of_improvement(base, other)
    assert share == pytest.approx(u / (len(base) * len(other)))
    assert probability_of_improvement(base, other, higher=False) == pytest.approx(1 - share)
    assert probability_of_improvement(other, base) == pytest.approx(1 - share)


def newcombe(share: float, m: int, n: int, level: float) -> list[float]:
    """Real roots of (share - t)^2 = z^2 V(t) between 0 and 1, as those of a polynomial."""
    t, z = np.poly1d([1.0, 0.0]), float(oracle.norm.ppf((1 + level) / 2))
    shared = (m + n) / 2 - 1
    inner = (2 - t) * (1 + t) + shared * (1 - t) * (1 + t) + shared * t * (2 - t)
    roots = (m * n * (share - t) ** 2 * (2 - t) * (1 + t) - z**2 * t * (1 - t) * inner).roots
    return sorted(float(r.real) for r in roots if abs(r.imag) < 1e-9 and -1e-9 < r.real < 1 + 1e-9)


@pytest.mark.parametrize(("m", "n"), [(4, 4), (6, 10), (30, 3)])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.75, 0.99])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_is_that_of_newcombe(m: int, n: int, share: float, level: float) -> None:
    found = improvement_interval(share, m, n, level)
    assert [found.low, found.high] == pytest.approx(newcombe(share, m, n, level), abs=1e-8)


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_an_interval_holds_its_probability_and_mirrors(m: int, n: int, data: st.DataObject) -> None:
    share = data.draw(st.integers(0, 2 * m * n)) / (2 * m * n)
    found, mirrored = improvement_interval(share, m, n), improvement_interval(1 - share, n, m)
    assert 0 <= found.low <= share <= found.high <= 1
    assert (found.low, found.high) == pytest.approx((1 - mirrored.high, 1 - mirrored.low), abs=1e-6)
    wider = improvement_interval(share, m, n, 0.99)
    assert wider.low <= found.low
    assert found.high <= wider.high


def test_the_interval_is_not_empty_if_every_seed_is_better() -> None:
    found = improvement_interval(1.0, 6, 6)
    assert found.high == 1
    assert found.low == pytest.approx(newcombe(1.0, 6, 6, 0.95)[0], abs=1e-8)


@pytest.mark.parametrize(("seeds", "shift"), [(6, 0.0), (6, 1.0), (10, 1.0), (10, 2.0)])
def test_the_interval_covers_the_probability(seeds: int, shift: float) -> None:
    rng, truth, number = np.random.default_rng(seeds), oracle.norm.cdf(shift / 2**0.5), 1_000
    known = {}
    hits = 0
    for _ in range(number):
        base, other = list(rng.normal(0, 1, seeds)), list(rng.normal(shift, 1, seeds))
        share = probability_of_improvement(base, other)
        if share not in known:
            known[share] = improvement_interval(share, seeds, seeds)
        hits += known[share].low <= truth <= known[share].high
    assert 0.93 <= hits / number <= 0.99  # discrete, so not exactly 0.95
