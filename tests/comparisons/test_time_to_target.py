"""Time to a target: hand-computed seconds, and SciPy's survival function with censoring."""

import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import CensoredData, ecdf

from cnnbench.comparisons.time_to_target import (
    TimeToTarget,
    median_time,
    parse_target,
    time_to_target,
)
from cnnbench.errors import UsageError
from cnnbench.runs.records import Direction, EpochRecord


def epochs(seed: int, values: Sequence[float], train_s: float = 2.0) -> list[EpochRecord]:
    return [
        EpochRecord(seed, n, 0.1, value, {"accuracy": value}, train_s, 9.0, 1.0)
        for n, value in enumerate(values, start=1)
    ]


def test_time_is_the_training_time_up_to_the_epoch_that_reaches_the_target() -> None:
    runs = [*epochs(0, [0.5, 0.9, 0.8]), *epochs(1, [0.5, 0.7, 0.9]), *epochs(2, [0.95, 0, 0])]
    found = time_to_target(runs, "accuracy", 0.9, Direction.HIGHER)
    assert found == TimeToTarget(0.9, reached=3, seeds=3, median_s=4.0, longest_s=6.0)


def test_a_loss_is_reached_from_above() -> None:
    found = time_to_target(epochs(0, [0.5, 0.03, 0.02]), "loss", 0.03, Direction.LOWER)
    assert (found.median_s, found.reached) == (4.0, 1)


def test_the_median_is_unknown_if_too_few_seeds_reach_the_target() -> None:
    runs = [*epochs(0, [0.9, 0.9]), *epochs(1, [0.1, 0.2], 3.0), *epochs(2, [0.1, float("nan")])]
    found = time_to_target(runs, "accuracy", 0.9, Direction.HIGHER)
    assert found == TimeToTarget(0.9, reached=1, seeds=3, median_s=None, longest_s=6.0)


def test_seeds_trained_in_parallel_are_excluded() -> None:
    shares = [dataclasses.replace(e, at_once=4) for e in epochs(1, [0.9, 0.9])]
    found = time_to_target([*epochs(0, [0.1, 0.9]), *shares], "accuracy", 0.9, Direction.HIGHER)
    assert (found.seeds, found.median_s) == (1, 4.0)


ENDS = st.lists(st.tuples(st.integers(1, 6).map(float), st.booleans()), min_size=1, max_size=12)


@given(ENDS)
def test_the_median_is_kaplan_meier(ends: list[tuple[float, bool]]) -> None:
    reached = [s for s, done in ends if done]
    stopped = [s for s, done in ends if not done]
    curve = ecdf(CensoredData(reached, right=stopped)).sf
    half = [
        float(t)
        for t, p in zip(curve.quantiles, curve.probabilities, strict=True)
        if p <= 0.5 + 1e-12
    ]
    # With fewer than half, the median would only come from early censoring.
    known = half and 2 * len(reached) >= len(ends)
    assert median_time(ends) == (half[0] if known else None)


@pytest.mark.parametrize(
    ("text", "metric", "value"),
    [
        ("0.98", "accuracy", 0.98),
        (" 98% ", "accuracy", 0.98),
        ("3e-2", "loss", 0.03),
        ("2", "mse", 2),
    ],
)
def test_targets(text: str, metric: str, value: float) -> None:
    assert parse_target(text, metric) == value


@pytest.mark.parametrize(
    ("text", "metric", "like"),
    [
        ("98", "accuracy", "0.98 or 98%"),
        ("-1%", "top5_accuracy", "0.98 or 98%"),
        ("high", "accuracy", "0.98 or 98%"),
        ("3%", "loss", "0.03"),
        ("nan", "loss", "0.03"),
    ],
)
def test_malformed_targets_are_rejected(text: str, metric: str, like: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_target(text, metric)
    words = metric.replace("_", " ")
    assert str(caught.value) == (
        f"--target: '{text}' is not a value of {words}; write, for example, {like}."
    )
