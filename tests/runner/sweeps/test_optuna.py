"""Trials proposed by Optuna: their values, what they depend on, and that they learn."""

import math

import numpy as np
import pytest

from cnnbench.errors import UsageError
from cnnbench.runner.sweeps.optuna import Scored, propose
from cnnbench.runner.sweeps.space import SweepAxis, TrialValues
from cnnbench.spec.sweeps import Choices, Range

RATE = SweepAxis("rate", Range(0.001, 0.1, True, "log(0.001..0.1)"))
UNITS = SweepAxis("units", Range(2.5, 8, False, "uniform(2.5..8)"), whole=True)
KERNEL = SweepAxis("kernel", Choices(("3", "[3,5]")))
AXES = (RATE, UNITS, KERNEL)


def loss(point) -> float:
    """Smallest at a rate of 0.01, 6 units and kernel 3."""
    away = math.log10(float(point["rate"])) + 2
    return float(away**2 + 0.1 * (int(point["units"]) - 6) ** 2 + (point["kernel"] != "3"))


def history(number: int, seed: int = 0) -> list[Scored]:
    found: list[Scored] = []
    for trial in range(number):
        point = propose(AXES, (seed, trial), found)
        found.append((point, loss(point)))
    return found


def test_values_are_in_the_space():
    points = [point for point, _ in history(25)]
    assert {point["kernel"] for point in points} == {"3", "[3,5]"}
    assert {point["units"] for point in points} <= {"3", "4", "5", "6", "7", "8"}
    for point in points:
        assert 0.001 <= float(point["rate"]) <= 0.1
        assert len(point["rate"].partition("e")[0].replace(".", "").lstrip("0")) <= 4


def test_a_proposal_depends_on_seeds_and_results_only():
    known = history(12)
    assert propose(AXES, (0, 12), known) == propose(AXES, (0, 12), known)
    assert propose(AXES, (0, 12), known) != propose(AXES, (0, 13), known)
    assert propose(AXES, (0, 12), known) != propose(AXES, (1, 12), known)
    opposite = [(point, -value) for point, value in known]
    assert propose(AXES, (0, 12), known) != propose(AXES, (0, 12), opposite)


def test_later_proposals_are_better_than_random_ones():
    later = [value for seed in range(2) for _, value in history(26, seed)[14:]]
    random = [loss(propose(AXES, (9, trial), ())) for trial in range(24)]
    assert np.median(later) < 0.5 * np.median(random)


def test_proposals_keep_away_from_trials_that_diverged():
    """Half of the space diverges; Optuna goes there less often."""
    diverged = 0
    for seed in range(3):
        known: list[Scored] = []
        for trial in range(25):
            point = propose(AXES, (seed, trial), known)
            known.append((point, math.inf if float(point["rate"]) > 0.01 else loss(point)))
        diverged += sum(math.isinf(value) for _, value in known[10:])
    assert diverged <= 15  # of 45; 22 of random ones


def test_trials_that_are_running_are_not_proposed_again():
    known = history(20)
    running: list[TrialValues] = []
    for trial in range(6):
        running.append(propose((KERNEL, UNITS), (0, 50 + trial), known_of(known), running))
    alone = [propose((KERNEL, UNITS), (0, 50 + trial), known_of(known)) for trial in range(6)]
    assert different(running) > different(alone)


def known_of(known):
    return [({key: point[key] for key in ("kernel", "units")}, value) for point, value in known]


def different(points) -> int:
    return len({tuple(point.items()) for point in points})


def test_without_optuna(monkeypatch):
    monkeypatch.setattr("cnnbench.runner.sweeps.optuna.find_spec", lambda _: None)
    with pytest.raises(UsageError) as error:
        propose(AXES, (0,), ())
    assert str(error.value) == (
        "--sampler optuna: Optuna is not installed; run pip install 'cnnbench[optuna]', or"
        " remove --sampler."
    )
