"""The trials of a sweep: grids, parts of them, and quasi-random points."""

from itertools import product

import numpy as np
import pytest
from scipy.stats.qmc import discrepancy

from cnnbench.errors import UsageError
from cnnbench.runner.sweeps.space import SweepAxis, choose_points, parse_axes
from cnnbench.spec.sweeps import Choices, Range

GRID = (SweepAxis("a", Choices(("1", "2", "3"))), SweepAxis("b", Choices(("x", "y"))))
UNIT = tuple(SweepAxis(name, Range(0, 1, False, "uniform(0..1)")) for name in "ab")


def test_a_grid_has_all_combinations_and_the_last_key_changes_fastest():
    expected = [{"a": a, "b": b} for a, b in product("123", "xy")]
    assert list(choose_points(GRID, None, 0)) == expected


@pytest.mark.parametrize("seed", range(5))
def test_a_part_of_a_grid_has_different_points_of_it(seed):
    every = choose_points(GRID, None, 0)
    for trials in range(1, 7):
        found = choose_points(GRID, trials, seed)
        assert len({tuple(p.items()) for p in found}) == trials
        assert all(p in every for p in found)


def test_points_are_the_same_each_time_and_more_trials_begin_with_them():
    few, many = choose_points(UNIT, 5, 3), choose_points(UNIT, 12, 3)
    assert many[:5] == few == choose_points(UNIT, 5, 3)
    assert few != choose_points(UNIT, 5, 4)


@pytest.mark.parametrize("seed", range(5))
def test_points_fill_the_space_more_evenly_than_random_ones(seed):
    points = [[float(p[key]) for key in "ab"] for p in choose_points(UNIT, 64, seed)]
    random = [discrepancy(np.random.default_rng(i).random((64, 2))) for i in range(20)]
    assert discrepancy(np.array(points)) < min(random)


def test_integers_are_not_tried_twice():
    axis = SweepAxis("n", Range(1, 5, False, "uniform(1..5)"), whole=True)
    assert sorted(p["n"] for p in choose_points([axis], 5, 0)) == list("12345")


def message(call) -> str:
    with pytest.raises(UsageError) as error:
        call()
    return str(error.value)


def test_messages_on_numbers_of_trials():
    assert message(lambda: choose_points(UNIT, None, 0)) == (
        "a: uniform(0..1) needs a number of trials; add, for example, --trials 12."
    )
    assert message(lambda: choose_points(GRID, 7, 0)) == (
        "--trials: 7 is more than the 6 combinations; omit it to try all, or add values."
    )
    whole = [SweepAxis("n", Range(1, 5, False, "uniform(1..5)"), whole=True)]
    assert message(lambda: choose_points(whole, 6, 0)) == (
        "--trials: 6 is more than the 5 different trials found in n; write fewer, or wider ranges."
    )
    many = [SweepAxis(key, Choices(tuple(map(str, range(11))))) for key in "abc"]
    assert message(lambda: choose_points(many, None, 0)) == (
        "a, b and c: 1,331 combinations, at most 1,000; choose some of them with --trials N."
    )


def test_overrides_are_separated():
    axes, others = parse_axes(["train.epochs=1", "model.c.kernel=3,[3,5]", "title=a, b"])
    assert axes == (SweepAxis("model.c.kernel", Choices(("3", "[3,5]"))),)
    assert others == ["train.epochs=1", "title=a, b"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["a=1,2", "a=3,4"], "a: has several values twice; remove one of them."),
        (["a=1", "a=3,4"], "a: is given twice, once with several values; remove one."),
        (
            ["seeds=1,2"],
            "seeds: every trial trains with all seeds, so they cannot be swept; write seeds=[0,1,2]"
            " or --seeds 0,1,2.",
        ),
        (["extends=a,b"], "extends: cannot be overridden; name several files instead."),
    ],
)
def test_messages_on_keys(overrides, expected):
    assert message(lambda: parse_axes(overrides)) == expected
