"""Races of the trials of a sweep: how often the best is dropped, and how many seeds are saved."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.calibration.tables import ALPHA, generator, rate, section, table
from cnnbench.statistics.sequential import losers

DrawTrials = Callable[[np.random.Generator, int], Any]

SEEDS = 20
ARMS = (2, 4, 12)


def race(values: Any) -> list[int]:
    """The number of seeds after which each arm of a race is dropped; those of the race for never.

    Args:
      values: shape ``[arms, seeds]``.
    """
    arms, seeds = values.shape
    dropped = [seeds] * arms
    active = list(range(arms))
    for number in range(1, seeds):
        lost = losers([list(values[arm, :number]) for arm in active], arms, ALPHA)
        for arm in [active[place] for place in lost]:
            dropped[arm] = number
            active.remove(arm)
    return dropped


WORLDS: tuple[tuple[str, DrawTrials], ...] = (
    ("normal", lambda rng, arms: rng.normal(size=(arms, SEEDS))),
    (
        "seeds in common",
        lambda rng, arms: rng.normal(size=(arms, SEEDS)) + 2 * rng.normal(size=SEEDS),
    ),
    ("skewed (exponential)", lambda rng, arms: -rng.exponential(size=(arms, SEEDS))),
)


@section("races")
def races(simulations: int) -> str:
    """How often a race drops one of several trials that are equally good."""
    rows = []
    for arms in ARMS:
        cells = []
        for name, draw in WORLDS:
            rng = generator(f"races {arms} {name}")
            ended = (race(draw(rng, arms))[0] for _ in range(simulations))
            cells.append(rate(sum(number < SEEDS for number in ended), simulations))
        rows.append([str(arms), *cells])
    return table(["Trials", *(name for name, _ in WORLDS)], rows)


@section("races-saved")
def races_saved(simulations: int) -> str:
    """How often a trial that is worse than the best is dropped, and after how many seeds."""
    gaps = (0.5, 1.0, 2.0, 4.0)
    rows = []
    for arms in ARMS:
        cells = []
        for gap in gaps:
            rng = generator(f"races-saved {arms} {gap}")
            worse = np.r_[0.0, np.full(arms - 1, gap)][:, None]
            ended = [race(rng.normal(size=(arms, SEEDS)) - worse)[1] for _ in range(simulations)]
            share = rate(sum(number < SEEDS for number in ended), simulations)
            cells.append(f"{share}; {np.mean(ended):.1f} seeds")
        rows.append([str(arms), *cells])
    return table(["Trials", *(f"{gap:g} sd" for gap in gaps)], rows)
