"""Planned looks and the e-process: published constants, exact enumeration, and simulation."""

import math
from itertools import product
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats as oracle

from cnnbench.statistics.permutation import sign_flip_p
from cnnbench.statistics.sequential import (
    confidence_sequence,
    default_looks,
    e_values,
    fewest_for,
    smallest,
    thresholds,
)

seeds_of_differences = st.lists(st.floats(-1, 1).map(lambda v: round(v, 3)), min_size=1, max_size=7)


@pytest.mark.parametrize(
    ("looks", "level"),
    [((400, 800), 0.0294), ((400, 800, 1200), 0.0221), ((400, 800, 1200, 1600), 0.0182)],
)
@pytest.mark.parametrize("paired", [True, False])
def test_many_seeds_have_pococks_constants(
    looks: tuple[int, ...], level: float, paired: bool
) -> None:
    """Jennison and Turnbull (2000), table 2.1: 2.178, 2.289 and 2.361 standard errors."""
    found = thresholds(looks, 0.05, paired=paired)
    assert found == pytest.approx([level] * len(looks), rel=0.05)


@pytest.mark.parametrize("paired", [True, False])
def test_thresholds_keep_alpha_by_scipys_tests_of_the_values(paired: bool) -> None:
    """Of all values, where `thresholds` simulates their means and sums of squares."""
    rng, runs, looks = np.random.default_rng(20261130), 20_000, (8, 12, 20)
    levels = thresholds(looks, 0.05, paired=paired)
    base, arm = rng.normal(size=(2, runs, looks[-1]))
    alarms = np.zeros(runs, bool)
    for look, level in zip(looks, levels, strict=True):
        first, second = base[:, :look], arm[:, :look]
        test = oracle.ttest_rel if paired else oracle.ttest_ind
        alarms |= test(second, first, axis=1).pvalue <= level
    assert alarms.mean() == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / runs))


def test_the_first_look_can_decide() -> None:
    found = thresholds((6, 10, 20), 0.05, paired=True)
    assert found[0] == smallest(6, paired=True)
    assert found[1] == found[2] < found[0]


def test_looks_that_cannot_decide_have_a_zero_threshold() -> None:
    assert thresholds((3, 4), 0.01, paired=False) == (0.0, 0.0)
    assert thresholds((4, 6, 10), 0.05, paired=True)[0] == 0.0


def test_a_single_look_is_the_ordinary_test() -> None:
    assert thresholds((6,), 0.05, paired=True) == (0.05,)
    assert thresholds((4, 6), 0.05, paired=True) == (0.0, 0.05)


def test_several_comparisons_share_alpha() -> None:
    shared = thresholds((8, 10, 20), 0.06, paired=False, comparisons=3)
    assert shared == thresholds((8, 10, 20), 0.02, paired=False)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.01, 0.001])
def test_default_looks_can_decide_from_the_first(alpha: float, paired: bool) -> None:
    looks = default_looks(alpha, paired=paired)
    assert looks == tuple(sorted(set(looks)))
    assert all(thresholds(looks, alpha, paired=paired))
    assert looks[0] >= fewest_for(alpha, paired=paired)
    assert looks[-1] == 20


@pytest.mark.parametrize("kind", ["normal", "t3", "discrete"])
def test_looks_at_equal_runs_keep_alpha(kind: str) -> None:
    rng, looks, runs = np.random.default_rng(20261128), (6, 8, 10), 2000
    levels = thresholds(looks, 0.05, paired=True)
    alarms = 0
    for _ in range(runs):
        values = _drawn(rng, kind, looks[-1])
        alarms += any(
            sign_flip_p(list(values[:look])) <= level
            for look, level in zip(looks, levels, strict=True)
        )
    assert alarms / runs < 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    if kind != "discrete":  # ties make exact tests conservative
        assert alarms / runs > 0.03


@given(seeds_of_differences, st.floats(-0.5, 0.5))
def test_e_values_match_the_formula(differences: list[float], center: float) -> None:
    expected = [_e(differences[: n + 1], center) for n in range(len(differences))]
    assert e_values(differences, center) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=8))
def test_the_mean_over_all_signs_is_one(sizes: list[float]) -> None:
    """What makes it a martingale: no sizes, however unequal, favor the bet."""
    last = [
        e_values([s * size for s, size in zip(signs, sizes, strict=True)])[-1]
        for signs in product((1, -1), repeat=len(sizes))
    ]
    assert np.mean(last) == pytest.approx(1, rel=1e-9)


def test_six_equal_signs_decide_as_in_the_sign_flip_test() -> None:
    assert e_values([0.01, 5, 0.1, 2, 0.3, 0.4])[-1] >= 20
    assert max(e_values([1, 1, 1, 1, 1])) < 20


def test_huge_and_zero_differences_are_finite() -> None:
    assert all(map(math.isfinite, e_values([1e300, 1e-300] * 40)))
    assert e_values([0.0] * 12) == pytest.approx([1.0] * 12)


@pytest.mark.parametrize("kind", ["normal", "t3", "discrete"])
def test_e_values_of_equal_runs_stay_low(kind: str) -> None:
    rng, runs = np.random.default_rng(20261129), 2000
    alarms = sum(max(e_values(list(_drawn(rng, kind, 20)))) >= 20 for _ in range(runs))
    assert alarms / runs < 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_confidence_sequence_has_the_centers_that_no_e_value_rejects() -> None:
    values = list(np.random.default_rng(0).normal(0.3, 1, 15))
    found = confidence_sequence(values, 0.05)
    inside = [c for c in np.linspace(-3, 3, 1201) if max(e_values(values, c)) < 20]
    assert (found.low, found.high) == pytest.approx((inside[0], inside[-1]), abs=0.006)
    assert found.low <= inside[0] < inside[-1] <= found.high


def test_confidence_sequence_narrows_and_covers() -> None:
    rng, runs, covered = np.random.default_rng(20261130), 100, 0
    for _ in range(runs):
        values = list(rng.normal(0.4, 1, 12))
        found = [confidence_sequence(values[:n], 0.05) for n in (5, 6, 12)]
        assert found[0].low == -math.inf
        assert found[1].low <= found[2].low + 1e-6
        assert found[2].high <= found[1].high + 1e-6
        covered += found[2].low <= 0.4 <= found[2].high
    assert covered / runs > 0.95 - 3 * math.sqrt(0.05 * 0.95 / runs)


def test_equal_differences_have_an_interval_around_them() -> None:
    found = confidence_sequence([1.0] * 8, 0.05)
    assert (found.low, found.high) == pytest.approx((1, 1), abs=1e-6)


def _e(differences: list[float], center: float) -> float:
    """The formula of the docstring, term by term."""
    values = [d - center for d in differences]
    sizes = [abs(v) for v in values]
    scaled = [
        size / median(sizes[: n + 1]) if median(sizes[: n + 1]) else 0.0
        for n, size in enumerate(sizes)
    ]
    total = 0.0
    for side in (1, -1):
        coins = math.prod(1 if v == 0 else 2 * (math.copysign(1, v) == side) for v in values)
        bets = [  # sizes of 100 and more: the factor is 0 or 2
            math.prod(
                2
                / (1 + math.exp(-2 * side * c * min(z, 100) * math.copysign(1, v)))  # e^x / cosh x
                for v, z in zip(values, scaled, strict=True)
            )
            for c in (0.5, 1, 2)
        ]
        total += 0.5 * (0.65 * coins + 0.35 * sum(bets) / 3)
    return total


def _drawn(rng: np.random.Generator, kind: str, number: int) -> NDArray[np.float64]:
    """Differences of equal runs: symmetric about zero."""
    match kind:
        case "normal":
            return rng.normal(size=number)
        case "t3":
            return rng.standard_t(3, size=number)
    assert kind == "discrete"
    return np.round(2 * rng.normal(size=number))
