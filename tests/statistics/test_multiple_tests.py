"""Holm's procedure: its closure, its levels, and how often it errs."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnbench.statistics.multiple_tests import holm, holm_levels

p_lists = st.lists(
    st.one_of(st.floats(0, 1), st.sampled_from([0.01, 0.025, 0.05])), min_size=1, max_size=6
)
ALPHAS = st.sampled_from([0.05, 0.1, 0.01])


@given(p_lists)
def test_holm_is_the_closure_of_bonferroni(p_values: list[float]) -> None:
    """A hypothesis is rejected if Bonferroni rejects every subset containing it."""

    def adjusted(i: int) -> float:
        others = [j for j in range(len(p_values)) if j != i]
        sets = [
            (i, *rest) for n in range(len(p_values)) for rest in itertools.combinations(others, n)
        ]
        return max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in sets)

    assert holm(p_values) == pytest.approx([adjusted(i) for i in range(len(p_values))])


@given(p_lists, ALPHAS)
def test_a_p_value_is_within_its_level_if_and_only_if_the_adjusted_one_is_within_alpha(
    p_values: list[float], alpha: float
) -> None:
    levels = holm_levels(p_values, alpha)
    for p, adjusted, level in zip(p_values, holm(p_values), levels, strict=True):
        if abs(p - level) > 1e-9:
            assert (p <= level) == (adjusted <= alpha * (1 + 1e-9))
        assert alpha / len(p_values) * (1 - 1e-9) <= level <= alpha


@given(p_lists, ALPHAS)
def test_levels_are_those_of_the_steps(p_values: list[float], alpha: float) -> None:
    """Step by step, as Holm wrote it."""
    left, known = sorted(p_values), holm_levels(p_values, alpha)
    expected: dict[float, float] = {}
    while left and left[0] <= alpha / len(left):
        expected.setdefault(left[0], alpha / len(left))
        left = left[1:]
    for p in left:
        expected.setdefault(p, alpha / len(left))
    if len(set(p_values)) == len(p_values):
        assert known == pytest.approx([expected[p] for p in p_values])


def test_false_alarms_of_several_tests() -> None:
    """Uniform p-values: any rejection in alpha of the families, at most."""
    families = np.random.default_rng(1).uniform(0, 1, (4000, 4))
    alarms = sum(min(holm(list(family))) <= 0.05 for family in families) / 4000
    exact = 1 - (1 - 0.05 / 4) ** 4
    assert abs(alarms - exact) < 3 * math.sqrt(exact * (1 - exact) / 4000)
