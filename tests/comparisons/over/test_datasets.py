"""Comparisons over datasets: ranks, tests and means, against SciPy."""

import numpy as np
import pytest
from scipy import stats as oracle

from cnnbench.comparisons.over.datasets import summarize
from cnnbench.comparisons.verdict import Arm
from cnnbench.statistics.meta import paired_effect

# Accuracy of three networks with four seeds each on four datasets.
SCORES = np.random.default_rng(5).normal(
    [[0.90, 0.92, 0.94], [0.80, 0.81, 0.83], [0.70, 0.74, 0.72], [0.60, 0.59, 0.65]],
    0.001,
    (4, 4, 3),
)


def arms(scores: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> list[Arm]:
    names = ("A", "B", "C")
    columns = list(scores.T)
    return [
        Arm((name, name, name), {s: float(v) for s, v in enumerate(column)}, {})
        for name, column in zip(names, columns, strict=False)
    ]


def groups(count: int) -> list[list[Arm]]:
    return [arms(SCORES[:, place, :count]) for place in range(4)]


def test_three_networks_have_ranks_and_tests_of_them() -> None:
    own = groups(3)
    effects = [
        [paired_effect(list(SCORES[:, d, i] - SCORES[:, d, 0])) for d in range(4)] for i in (1, 2)
    ]
    found = summarize(own, 0, effects, 0.05, higher=True)
    assert [row.rank for row in found.rows] == [2.75, 2.0, 1.25]
    assert found.friedman is not None
    means = SCORES.mean(axis=0)
    expected = oracle.friedmanchisquare(*means.T)
    assert found.friedman[0] == pytest.approx(expected.statistic)
    assert found.critical == pytest.approx(2.343 * (3 * 4 / (6 * 4)) ** 0.5, rel=1e-3)
    assert found.groups == (("C", "B", "A"),)
    pooled = found.rows[2].pooled
    assert pooled is not None
    assert pooled.mean == pytest.approx((means[:, 2] - means[:, 0]).mean())
    assert found.rows[0].pooled is None
    assert found.rows[0].p is None
    assert found.rows[2].p is not None
    assert found.rows[2].p >= found.friedman[1]


def test_two_networks_have_means_but_no_test_of_ranks() -> None:
    effects = [[paired_effect(list(SCORES[:, d, 1] - SCORES[:, d, 0])) for d in range(4)]]
    found = summarize(groups(2), 0, effects, 0.05, higher=True)
    assert (found.friedman, found.critical, found.groups) == (None, None, ())
    assert [row.rank for row in found.rows] == [1.75, 1.25]
