"""Races: the best arm is dropped with probability alpha at most; clear losers drop out."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from cnnbench.statistics.sequential import (
    e_values,
    fewest_seeds,
    losers,
    one_sided_e_values,
)


def race(values: NDArray[np.float64], alpha: float) -> list[int]:
    """The seeds after which each arm was dropped; the number of seeds plus one for never."""
    arms, seeds = values.shape
    ended = [seeds + 1] * arms
    for number in range(1, seeds + 1):
        active = [arm for arm in range(arms) if ended[arm] > seeds]
        lost = losers([list(values[arm, :number]) for arm in active], arms, alpha)
        for place in lost:
            ended[active[place]] = number
    return ended


def test_both_sides_together_are_the_two_sided_evidence():
    rng = np.random.default_rng(0)
    differences = rng.normal(size=30).tolist()
    up, down = one_sided_e_values(differences), one_sided_e_values([-d for d in differences])
    both = (np.array(up) + np.array(down)) / 2
    assert both == pytest.approx(e_values(differences), rel=1e-12)


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_the_best_arm_is_rarely_dropped(spread):
    """Simulated: four equal arms, whose seeds may share a component; alpha is 20%."""
    rng, alpha, races = np.random.default_rng(1), 0.2, 150
    dropped = 0
    for _ in range(races):
        values = rng.normal(size=(4, 12)) + spread * rng.normal(size=12)
        dropped += race(values, alpha)[0] <= 12
    # At most alpha, up to 3 standard errors of the simulation.
    assert dropped / races <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / races)


def test_a_clear_loser_is_dropped_as_early_as_possible():
    values = np.array([[0.9] * 12, [0.5] * 12, [0.8] * 12]) + 0.01 * np.arange(12)
    first = fewest_seeds(3, 0.05)
    assert race(values, 0.05) == [13, first, first]


def test_an_arm_that_diverges_is_dropped_at_once():
    assert losers([[0.1, math.nan], [0.2, 0.3]], 2, 0.05) == (0,)
    assert losers([[math.nan], [math.nan]], 2, 0.05) == ()


def test_lower_may_be_better():
    assert losers([[1.0] * 5, [2.0] * 5], 2, 0.05, higher=False) == (1,)
