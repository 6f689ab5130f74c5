"""Intervals over seeds and images: against sums over cells, and in simulation."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special
from scipy import stats as oracle

from benchmarks.calibration.images import Networks, draw, heavy, hits, truth
from cnnbench.statistics.crossed import paired, unpaired
from cnnbench.statistics.estimates import Interval, mean_interval
from cnnbench.statistics.spread import spread

Results = NDArray[Any]

layouts = st.tuples(st.integers(2, 6), st.integers(2, 12), st.integers(0, 2**32 - 1)).map(
    lambda t: np.random.default_rng(t[2]).normal(size=t[:2]).round(1)
)


def brute_force(values: Results) -> tuple[float, float, float]:
    """The mean squares of seeds, images and the rest, cell by cell."""
    seeds, images = values.shape
    cells = list(itertools.product(range(seeds), range(images)))
    total = sum(values[c] for c in cells) / len(cells)
    by_seed = [sum(values[s, i] for i in range(images)) / images for s in range(seeds)]
    by_image = [sum(values[s, i] for s in range(seeds)) / seeds for i in range(images)]
    rest = sum((values[s, i] - by_seed[s] - by_image[i] + total) ** 2 for s, i in cells)
    return (
        images * sum((m - total) ** 2 for m in by_seed) / (seeds - 1),
        seeds * sum((m - total) ** 2 for m in by_image) / (images - 1),
        rest / (seeds - 1) / (images - 1),
    )


@given(layouts)
def test_pairs_match_an_analysis_of_variance_cell_by_cell(values: Results) -> None:
    seeds, images = values.shape
    over_seeds, over_images, rest = brute_force(values)
    found = paired(values)
    terms = [(over_seeds, seeds - 1), (over_images, images - 1), (rest, (seeds - 1) * (images - 1))]
    assert found.difference == pytest.approx(values.mean(), abs=1e-12)
    want = [value / values.size for value, _ in terms]
    assert [found.seeds, found.images, found.both] == pytest.approx(want, abs=1e-12)
    if not found.negative and found.variance > 1e-12:
        total = over_seeds + over_images - rest
        assert found.variance == pytest.approx(total / values.size)
        assert found.df == pytest.approx(total**2 / sum(v**2 / df for v, df in terms))


@given(layouts)
def test_without_images_that_differ_the_interval_is_students(values: Results) -> None:
    """Differences that are the same for all images vary only with the seeds."""
    of_seeds = values[:, :1]
    if np.ptp(of_seeds) == 0:
        return
    found = paired(np.repeat(of_seeds, 7, axis=1)).interval()
    want = mean_interval(list(of_seeds[:, 0]))
    assert want is not None
    assert (found.low, found.high) == pytest.approx((want.low, want.high))


def test_differences_that_never_vary_have_no_width() -> None:
    found = paired(np.full((3, 4), 0.25))
    assert (found.interval().low, found.interval().high) == (0.25, 0.25)


@given(layouts, st.integers(0, 2**32 - 1))
def test_arms_without_pairs_have_the_sum_of_their_parts(values: Results, number: int) -> None:
    base = np.random.default_rng(number).normal(size=(3, values.shape[1]))
    found = unpaired(values, base)
    parts = [np.array(brute_force(each)) / each.size for each in (values, base)]
    differences = values.mean(axis=0) - base.mean(axis=0)
    assert found.difference == pytest.approx(values.mean() - base.mean(), abs=1e-12)
    assert found.seeds == pytest.approx(parts[0][0] + parts[1][0])
    assert found.both == pytest.approx(parts[0][2] + parts[1][2])
    assert found.images == pytest.approx(oracle.sem(differences) ** 2)
    mirrored = unpaired(base, values)
    assert mirrored.difference == pytest.approx(-found.difference, abs=1e-12)
    assert mirrored.variance == pytest.approx(found.variance)


def test_seeds_alone_are_welchs_interval_if_images_do_not_differ() -> None:
    rng = np.random.default_rng(1)
    arms = [np.repeat(rng.normal(size=(n, 1)), 5, axis=1) for n in (4, 7)]
    found = unpaired(*arms).interval(0.9)
    theirs = oracle.ttest_ind(*(arm[:, 0] for arm in arms), equal_var=False)
    want = theirs.confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((want.low, want.high))


@given(layouts)
@settings(max_examples=200)
def test_a_negative_component_is_zero_and_named(values: Results) -> None:
    found = paired(values)
    negative = {"seeds": found.seeds < found.both, "images": found.images < found.both}
    assert bool(found.negative) == any(negative.values())
    if found.negative:
        assert negative[found.negative]
        kept = found.images if found.negative == "seeds" else found.seeds
        assert found.variance == kept
        df = values.shape[1] - 1 if found.negative == "seeds" else values.shape[0] - 1
        if kept:
            assert found.df == pytest.approx(df)


def test_the_interval_contains_that_over_seeds_alone() -> None:
    values = np.random.default_rng(4).normal(size=(3, 20))
    found = paired(values)
    alone = found.interval(0.9)
    assert found.interval(0.9, Interval(alone.low - 1, alone.low)) == Interval(
        alone.low - 1, alone.high
    )
    assert found.interval(0.9, Interval(alone.low, alone.high + 1)) == Interval(
        alone.low, alone.high + 1
    )
    inside = Interval(alone.low + 1e-3, alone.high - 1e-3)
    assert found.interval(0.9, inside) == alone


# Simulation: of benchmarks/calibration, which makes the tables of docs/explanation/statistics.md.


def test_coverage_of_seeds_and_images() -> None:
    """With 500 images, an interval over seeds alone misses the truth far too often."""
    free, pairs, alone, _ = hits(300, Networks("500 images", 500))
    assert min(free, pairs) / 300 > 0.92
    assert alone / 300 < 0.92


@pytest.mark.slow
def test_coverage_with_many_images() -> None:
    free, pairs, alone, _ = hits(2000, Networks("10,000 images", 10_000))
    assert min(free, pairs) / 2000 > 0.94
    assert alone / 2000 > 0.9


def test_coverage_of_correlated_pairs() -> None:
    """What pairs share makes only the paired interval narrower; the other one is conservative."""
    free, pairs, _, _ = hits(200, Networks("", 200, pair_std=0.3))
    assert pairs / 200 > 0.91
    assert free / 200 > 0.96


@pytest.mark.parametrize(
    "networks", [Networks("", 100, effect=0.5, pair_std=0.4), Networks("", 100, noise=heavy)]
)
def test_the_true_difference_is_that_of_many_images(networks: Networks) -> None:
    rng = np.random.default_rng(5)
    many = networks._replace(images=200_000, seeds=40)
    arms = [arm.mean() for arm in draw(rng, many)]
    assert truth(networks) == pytest.approx(arms[1] - arms[0], abs=4e-3)


def accuracies(number: int, networks: Networks) -> list[Results]:
    rng = np.random.default_rng(20261128)
    return [draw(rng, networks)[0] for _ in range(number)]


def test_the_floor_is_the_spread_of_errors() -> None:
    """By the formula of errors p (1 - p) S / (S - 1)."""
    errors = np.random.default_rng(3).random((6, 40)) < 0.2
    share = errors.mean(axis=0)
    want = np.sqrt((share * (1 - share)).sum() * 6 / 5) / 40
    found = spread(~errors)
    assert found.floor == pytest.approx(want)
    assert found.std == pytest.approx(errors.mean(axis=1).std(ddof=1))


def test_equally_good_seeds_have_a_spread_of_the_floor() -> None:
    found = [spread(arm) for arm in accuracies(400, Networks("", 500, seed_std=0.0))]
    variances = np.array([[each.std**2, each.floor**2] for each in found]).mean(axis=0)
    assert variances[0] == pytest.approx(variances[1], rel=0.05)


def test_what_is_beyond_the_floor_is_the_spread_on_unlimited_images() -> None:
    networks = Networks("", 500, seed_std=0.15, image_std=0.0)
    rng = np.random.default_rng(1)
    whole = special.ndtr((2.8 + rng.normal(0, 0.15, 100_000)) / np.sqrt(1 + 1.5**2)).std()
    found = [spread(arm) for arm in accuracies(400, networks)]
    beyond = np.sqrt(np.mean([each.std**2 - each.floor**2 for each in found]))
    assert beyond == pytest.approx(whole, rel=0.1)
    assert np.mean([each.unlimited for each in found]) == pytest.approx(whole, rel=0.2)
