"""Ranks over datasets: Demsar's published example, SciPy, scikit-posthocs, and enumeration."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as oracle

from cnnbench.statistics.ranks import (
    average_ranks,
    cliques,
    conover_p,
    critical_difference,
    friedman,
    nemenyi_p,
    ranks_of,
)

# Demsar 2006, Table 6: AUC of C4.5, C4.5+m, C4.5+cf, C4.5+m+cf on 14 datasets.
DEMSAR = (
    (0.763, 0.768, 0.771, 0.798),
    (0.599, 0.591, 0.590, 0.569),
    (0.954, 0.971, 0.968, 0.967),
    (0.628, 0.661, 0.654, 0.657),
    (0.882, 0.888, 0.886, 0.898),
    (0.936, 0.931, 0.916, 0.931),
    (0.661, 0.668, 0.609, 0.685),
    (0.583, 0.583, 0.563, 0.625),
    (0.775, 0.838, 0.866, 0.875),
    (1.000, 1.000, 1.000, 1.000),
    (0.940, 0.962, 0.965, 0.962),
    (0.619, 0.666, 0.614, 0.669),
    (0.972, 0.981, 0.975, 0.974),
    (0.957, 0.978, 0.946, 0.970),
)
tables = st.integers(3, 5).flatmap(
    lambda arms: st.lists(
        st.lists(st.integers(0, 9).map(float), min_size=arms, max_size=arms),
        min_size=2,
        max_size=12,
    )
)


def test_average_ranks_of_demsar() -> None:
    found = average_ranks(ranks_of(DEMSAR))
    assert [round(rank, 3) for rank in found] == [3.143, 2.0, 2.893, 1.964]


def test_friedman_of_demsar_is_that_of_scipy_with_the_p_of_iman_and_davenport() -> None:
    statistic, p = friedman(ranks_of(DEMSAR))
    assert statistic == pytest.approx(
        oracle.friedmanchisquare(*zip(*DEMSAR, strict=True)).statistic
    )
    # The p of the F distribution is that of an analysis of variance of the ranks.
    ranks = np.array(ranks_of(DEMSAR))
    arms = ((ranks.mean(axis=0) - 2.5) ** 2).sum() * len(ranks) / 3
    rest = ((ranks - ranks.mean(axis=0)) ** 2).sum() / (3 * 13)
    assert p == pytest.approx(oracle.f.sf(arms / rest, 3, 39))


@given(tables)
@settings(deadline=None, max_examples=60)
def test_friedman_matches_scipy(rows: list[list[float]]) -> None:
    statistic, p = friedman(ranks_of(rows))
    assert 0 <= p <= 1
    if all(len(set(row)) == 1 for row in rows):
        assert (statistic, p) == (0, 1)
    else:
        expected = oracle.friedmanchisquare(*zip(*rows, strict=True)).statistic
        assert statistic == pytest.approx(expected, abs=1e-9)


def test_p_of_few_datasets_is_exact() -> None:
    rows = [[0.9, 0.8, 0.7], [0.6, 0.5, 0.4], [0.2, 0.3, 0.1]]
    wanted = oracle.friedmanchisquare(*zip(*rows, strict=True)).statistic
    every = product(*(permutations(row) for row in rows))
    found = [oracle.friedmanchisquare(*zip(*table, strict=True)).statistic for table in every]
    assert friedman(ranks_of(rows))[1] == pytest.approx(np.mean(np.array(found) >= wanted - 1e-9))


def test_p_is_small_if_all_datasets_agree() -> None:
    assert friedman([[1, 2, 3, 4]] * 12)[1] == 0  # by F; exactly, it is 24^-11
    assert conover_p([[1, 2, 3, 4]] * 12, 0, 3) == 0
    assert conover_p([[2, 2, 2]] * 3, 0, 1) == 1


@pytest.mark.parametrize(
    ("arms", "alpha", "quantile"),
    # Demsar 2006, Table 5(a): critical values of the Nemenyi test.
    [(2, 0.05, 1.960), (4, 0.05, 2.569), (10, 0.05, 3.164), (3, 0.10, 2.052), (8, 0.10, 2.780)],
)
def test_critical_differences_of_demsar(arms: int, alpha: float, quantile: float) -> None:
    expected = quantile * (arms * (arms + 1) / (6 * 14)) ** 0.5
    assert critical_difference(arms, 14, alpha) == pytest.approx(expected, rel=5e-4)


def test_nemenyi_and_conover_match_scikit_posthocs() -> None:
    ranks = ranks_of(DEMSAR)
    average = average_ranks(ranks)
    # posthoc_nemenyi_friedman and posthoc_conover_friedman of scikit-posthocs 0.17.1
    nemenyi = {(0, 1): 0.088673, (0, 2): 0.956177, (0, 3): 0.074185, (1, 3): 0.999859}
    for (one, other), p in nemenyi.items():
        assert nemenyi_p(average[one] - average[other], 4, 14) == pytest.approx(p, abs=1e-4)
    conover = {(0, 1): 0.009588154, (0, 2): 0.554625191, (1, 2): 0.039664772, (2, 3): 0.032767773}
    for (one, other), p in conover.items():
        assert conover_p(ranks, one, other) == pytest.approx(p, rel=1e-6)
        assert conover_p(ranks, other, one) == pytest.approx(p, rel=1e-6)


@given(st.lists(st.floats(1, 6), min_size=2, max_size=8), st.floats(0.1, 4))
def test_cliques_hold_all_close_pairs_and_no_other(average: list[float], critical: float) -> None:
    groups = cliques(average, critical)
    pairs = {frozenset((a, b)) for group in groups for a in group for b in group if a != b}
    every = [(a, b) for a in range(len(average)) for b in range(a)]
    assert pairs == {frozenset(p) for p in every if abs(average[p[0]] - average[p[1]]) <= critical}
    assert not any(set(a) < set(b) for a in groups for b in groups)


def test_lower_scores_rank_first_if_lower_is_better() -> None:
    assert ranks_of([[0.3, 0.1, 0.2]], higher=False) == [[3, 1, 2]]
    assert ranks_of([[0.3, 0.1, 0.2]]) == [[1, 3, 2]]
