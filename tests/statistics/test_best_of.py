"""Expected best of k trials, against all subsets; the biased estimator as a contrast."""

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnbench.statistics.best_of import expected_best

trials = st.lists(st.floats(-1e3, 1e3) | st.just(math.nan), min_size=1, max_size=8)


def by_subsets(values: list[float], k: int, *, higher: bool) -> float:
    """The mean of the best value over all subsets of k trials."""
    worst = -math.inf if higher else math.inf
    known = [worst if math.isnan(value) else value for value in values]
    best = [(max if higher else min)(subset) for subset in combinations(known, k)]
    return float(np.mean(best)) if np.isfinite(best).all() else math.nan


def with_replacement(values: list[float], k: int) -> float:
    """The estimator of Dodge et al. (2019)."""
    n, ranked = len(values), sorted(values)
    return sum(v * ((i / n) ** k - ((i - 1) / n) ** k) for i, v in enumerate(ranked, 1))


@given(trials, st.booleans())
def test_it_is_the_mean_over_all_subsets(values: list[float], higher: bool) -> None:
    want = [by_subsets(values, k, higher=higher) for k in range(1, len(values) + 1)]
    found = expected_best(values, higher=higher)
    assert found == pytest.approx(want, rel=1e-9, abs=1e-9, nan_ok=True)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8))
def test_it_rises_from_the_mean_to_the_best(values: list[float]) -> None:
    found = expected_best(values)
    assert found[0] == pytest.approx(np.mean(values), abs=1e-9)
    assert found[-1] == max(values)
    assert all(b >= a - 1e-9 for a, b in pairwise(found))


def test_lower_is_better_is_the_mirror_image() -> None:
    values = [0.3, 0.1, 0.7, 0.2]
    mirrored = [-v for v in expected_best([-v for v in values])]
    assert expected_best(values, higher=False) == pytest.approx(mirrored)


def test_it_is_unbiased_and_drawing_with_replacement_is_not() -> None:
    """The expected maximum of k uniform values is k / (k + 1)."""
    rng = np.random.default_rng(20261128)
    samples = [rng.random(5).tolist() for _ in range(4000)]
    for k in (2, 4, 5):
        truth = k / (k + 1)
        ours = [expected_best(sample)[k - 1] for sample in samples]
        error = np.std(ours) / math.sqrt(len(ours))
        assert abs(np.mean(ours) - truth) < 4 * error
        theirs = [with_replacement(sample, k) for sample in samples]
        assert np.mean(theirs) < truth - 4 * error
