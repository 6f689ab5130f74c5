"""The best trial of each experiment, edges of the space, budgets, and changed findings."""

import math
from dataclasses import replace

import pytest

from cnnbench.comparisons.tuning import crossings, edge_warnings
from tests.support.tunings import AXIS, MODIFIED, NAN, STANDARD, make_arm, make_tuned, make_tuning


def test_the_best_trial_has_the_best_mean_and_all_its_seeds() -> None:
    arm = make_arm("A", [(0.9, 0.9), (0.99, NAN), (0.91, 0.93)])
    assert arm.best is arm.trials[2]
    assert make_arm("A", [(0.9, 0.9), (0.99, NAN), (0.91, 0.93)], higher=False).best is not None
    low = make_arm("A", [(0.9, 0.9), (0.99, NAN), (0.91, 0.93)], higher=False)
    assert low.best is low.trials[0]


def test_of_equal_trials_that_as_written_is_the_best() -> None:
    arm = make_arm("A", [(0.9,), (0.9,), (0.9,), (0.9,)])
    assert arm.best is arm.trials[2]
    arm = make_arm("A", [(0.9,), (0.9,)])  # none is as written
    assert arm.best is arm.trials[0]


def test_no_best_if_every_trial_diverged() -> None:
    arm = make_arm("A", [(NAN, 0.9), (NAN, NAN)])
    assert arm.best is None
    assert list(edge_warnings(make_tuning(arm))) == [
        "every trial of A diverged; tune other values, such as smaller learning rates"
    ]
    assert all(map(math.isnan, arm.expected))


def test_a_diverged_trial_counts_in_the_expected_best() -> None:
    arm = make_arm("A", [(0.9,), (NAN,), (0.8,)])
    assert arm.expected == pytest.approx((NAN, (0.9 * 2 + 0.8) / 3, 0.9), nan_ok=True)


@pytest.mark.parametrize(
    ("values", "edge", "wider"),
    [
        ([(0.9,), (0.8,), (0.7,)], "x0.1", "x0.03:x0.1:x0.3:x1"),
        ([(0.7,), (0.8,), (0.9,)], "x1", "x0.1:x0.3:x1:x3"),
    ],
)
def test_a_best_trial_at_the_edge(values: list[tuple[float]], edge: str, wider: str) -> None:
    assert list(edge_warnings(make_tuning(make_arm("A", values)))) == [
        f"A is best at the edge of the space (learning_rate {edge}); extend it with --tune"
        f" learning_rate={wider} (finished trials are not repeated)"
    ]


@pytest.mark.parametrize("last", [0.8, NAN])
def test_a_best_trial_between_others(last: float) -> None:
    arm = make_arm("A", [(0.7,), (0.9,), (last,)])
    assert list(edge_warnings(make_tuning(arm))) == []


def test_the_edge_of_values_of_which_larger_ones_may_be_invalid() -> None:
    tuning = make_tuning(make_arm("A", [(0.9,), (0.95,)]))
    (found,) = edge_warnings(replace(tuning, axes=(replace(AXIS, points=("0.5", "0.9")),)))
    assert found == (
        "A is best at the edge of the space (learning_rate 0.9); try larger values, too (finished"
        " trials are not repeated)"
    )


def test_one_warning_for_all_at_the_same_edge() -> None:
    arms = (make_arm(name, [(0.7,), (0.8,), (0.9,)]) for name in "AB")
    (found,) = edge_warnings(make_tuning(*arms))
    assert found.startswith("A and B are best at the edge of the space (learning_rate x1); extend")


@pytest.mark.parametrize("points", [("0", "0.1"), ("adam", "sgd"), ("x1",)])
def test_edges_beyond_which_there_is_nothing(points: tuple[str, ...]) -> None:
    arm = make_arm("A", [(0.9,), (0.8,)][: len(points)])
    tuning = replace(make_tuning(arm), axes=(replace(AXIS, points=points),))
    assert list(edge_warnings(tuning)) == []


def test_where_the_expected_best_crosses() -> None:
    even, lucky = make_arm("Even", [(0.9,)] * 3), make_arm("Lucky", [(0.8,), (0.85,), (0.96,)])
    assert even.expected == pytest.approx((0.9, 0.9, 0.9))
    assert lucky.expected == pytest.approx((0.87, (0.85 + 2 * 0.96) / 3, 0.96))
    assert list(crossings(make_tuning(even, lucky))) == [
        "Which is better depends on the tuning budget: Even is ahead with 1 trial (by 3.00 points),"
        " Lucky is ahead with 2 to 3 trials (by 6.00 points)."
    ]


def test_an_experiment_that_is_ahead_at_every_budget() -> None:
    arms = make_arm("A", [(0.9,)] * 3), make_arm("B", [(0.91,), (0.92,), (NAN,)])
    assert list(crossings(make_tuning(*arms))) == [
        "B has the better expected best at every budget from 2 to 3 trials."
    ]
    equal = make_arm("A", [(0.9,)] * 2), make_arm("B", [(0.9,)] * 2)
    assert list(crossings(make_tuning(*equal))) == []
    lower = (make_arm(n, [(x,)] * 2, higher=False) for n, x in (("A", 0.1), ("B", 0.2)))
    assert list(crossings(make_tuning(*lower))) == [
        "A has the better expected best at every budget from 1 to 2 trials."
    ]


def test_the_headline_is_a_finding_that_tuning_changes() -> None:
    tuned = make_tuned()
    (line,) = tuned.headlines
    assert line.startswith(
        "Tuning changes the finding: as written, Modified CNN is worse than Standard CNN; each at"
        " its own best learning_rate, no difference between Modified CNN @tuned and Standard CNN is"
    )
    assert replace(tuned, best=tuned.written).headlines == ()
    assert replace(tuned, best=None).headlines == ()


def test_budgets_are_equal() -> None:
    tuning = make_tuning(make_arm("A", STANDARD), make_arm("B", MODIFIED))
    assert tuning.budget == "5 trials x 2 seeds x 3 epochs = 30 epochs"
