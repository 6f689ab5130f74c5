"""Thresholds for CI: passed, failed and inconclusive."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as oracle

from cnnbench.comparisons.thresholds import (
    Limit,
    Threshold,
    ThresholdStatus,
    check_limit,
    check_threshold,
    parse_threshold,
    validate_threshold,
)
from cnnbench.comparisons.verdict import Arm, Criteria, Effect, Verdict, judge
from cnnbench.errors import UsageError
from cnnbench.runs.records import Direction

BASE = dict.fromkeys(range(6), 0.97)


def verdict(differences: list[float], ratio: list[float] | None = None) -> Verdict:
    values = {seed: 0.97 + d for seed, d in enumerate(differences)}
    times = dict(enumerate(ratio or [1.0] * len(differences)))
    first = Arm(("A", "a", "a/1"), BASE, dict.fromkeys(BASE, 1.0))
    other = Arm(("B", "b", "b/1"), values, times)
    (found,) = judge([first, other], "accuracy", Criteria(), higher=True)
    return found


def change(text: str) -> Threshold:
    found = parse_threshold(text)
    assert isinstance(found, Threshold)
    return found


def test_zero_times_are_inconclusive() -> None:
    found = check_threshold(change("train_s:+10%"), verdict([0.0] * 6, [0.0] * 6))
    assert found.outcome is ThresholdStatus.INCONCLUSIVE
    assert found.text == "train_s:+10% inconclusive: B: no epoch time comparable with A"


FALL = [-0.004, -0.0045, -0.0055, -0.005, -0.006, -0.005]  # -0.50 (-0.55 to -0.45) points


@pytest.mark.parametrize(
    ("threshold", "differences", "outcome"),
    [
        ("accuracy:-0.2pp", FALL, ThresholdStatus.FAILED),
        ("accuracy:-0.5pp", FALL, ThresholdStatus.INCONCLUSIVE),
        ("accuracy:-0.8pp", FALL, ThresholdStatus.PASSED),
        ("accuracy:-0.2%", FALL, ThresholdStatus.FAILED),
        ("accuracy:-0.9%", FALL, ThresholdStatus.PASSED),
        ("accuracy:-0.2pp", [-d for d in FALL], ThresholdStatus.PASSED),
        ("accuracy:-0.2pp", FALL[:1], ThresholdStatus.INCONCLUSIVE),
        ("train_s:+10%", FALL, ThresholdStatus.PASSED),
    ],
)
def test_the_interval_is_checked_not_the_mean(
    threshold: str, differences: list[float], outcome: ThresholdStatus
) -> None:
    assert check_threshold(change(threshold), verdict(differences)).outcome is outcome


@pytest.mark.parametrize(
    ("threshold", "ratio", "outcome"),
    [
        ("train_s:+10%", [1.2, 1.21, 1.19, 1.2, 1.22, 1.18], ThresholdStatus.FAILED),
        ("train_s:+20%", [1.2, 1.21, 1.19, 1.2, 1.22, 1.18], ThresholdStatus.INCONCLUSIVE),
        ("train_s:+30%", [1.2, 1.21, 1.19, 1.2, 1.22, 1.18], ThresholdStatus.PASSED),
        ("train_s:+10%", [0.8, 0.81, 0.79, 0.8, 0.82, 0.78], ThresholdStatus.PASSED),
    ],
)
def test_times_are_ratios(threshold: str, ratio: list[float], outcome: ThresholdStatus) -> None:
    assert check_threshold(change(threshold), verdict([0.0] * 6, ratio)).outcome is outcome


def test_messages_give_the_evidence() -> None:
    failed = check_threshold(change("accuracy:-0.2pp"), verdict(FALL))
    assert failed.text == (
        "accuracy:-0.2pp failed: B: accuracy -0.50 points (95% CI -0.55 to -0.45)"
    )
    few = check_threshold(change("accuracy:-0.2pp"), verdict(FALL[:3]))
    assert few.text == (
        "accuracy:-0.2pp failed: B: accuracy -0.47 points (95% Welch's t interval -0.66 to -0.28)"
    )
    slow = check_threshold(change("train_s:+10%"), verdict([0.0] * 6, [2.0] * 6))
    assert slow.text == "train_s:+10% failed: B: 2x the baseline's time (95% CI 2x to 2x)"
    single = check_threshold(change("accuracy:-0.2pp"), verdict(FALL[:1]))
    assert single.text == (
        "accuracy:-0.2pp inconclusive: B: accuracy -0.40 points with one seed, so no CI"
    )


def test_parsing() -> None:
    assert parse_threshold(" loss:+0.003 ") == Threshold("loss", 1, Effect(0.003), " loss:+0.003 ")


@pytest.mark.parametrize(
    "text",
    ["accuracy", "accuracy:0.2pp", ":-1%", "accuracy:-", "a b:-1%", "loss<", "loss<=1", "loss=1"],
)
def test_malformed_thresholds_are_rejected(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_threshold(text)
    assert str(caught.value) == (
        f"--fail-if: '{text}' is not a threshold; write, for example, accuracy:-0.2pp, train_s:+10%"
        " or test_accuracy<95%."
    )


def test_a_malformed_effect_size_names_the_option() -> None:
    with pytest.raises(UsageError, match=r"^--fail-if: '0,2pp' is not an effect size; "):
        parse_threshold("accuracy:-0,2pp")


def test_time_thresholds_are_relative() -> None:
    with pytest.raises(UsageError) as caught:
        parse_threshold("train_s:+2pp")
    assert str(caught.value) == (
        "--fail-if: 'train_s:+2pp': a time threshold must be relative, not 2pp; "
        "write a percentage of the baseline, such as train_s:+10%."
    )


HIGHER, LOWER = Direction.HIGHER, Direction.LOWER


@pytest.mark.parametrize(
    ("text", "direction", "message"),
    [
        (
            "accuracy:+0.2pp",
            HIGHER,
            "'accuracy:+0.2pp' would fail a run for being better; write accuracy:-0.2pp.",
        ),
        ("loss:-5%", LOWER, "'loss:-5%' would fail a run for being better; write loss:+5%."),
        (
            "train_s:-10%",
            LOWER,
            "'train_s:-10%' would fail a run for being better; write train_s:+10%.",
        ),
        (
            "accuracy:-0.2",
            HIGHER,
            "'accuracy:-0.2' has no unit; write accuracy:-0.2pp (points) or accuracy:-0.2% (of the"
            " baseline).",
        ),
        (
            "loss:+5pp",
            LOWER,
            "'loss:+5pp': loss is not a fraction, so points do not apply; write loss:+5% (of the"
            " baseline) or an absolute value.",
        ),
    ],
)
def test_meaningless_thresholds_are_rejected(text: str, direction: Direction, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        validate_threshold(parse_threshold(text), direction)
    assert str(caught.value) == f"--fail-if: {message}"


@pytest.mark.parametrize(
    ("text", "direction"),
    [("accuracy:-0.2pp", HIGHER), ("top5_accuracy:-1%", HIGHER), ("loss:+0.01", LOWER),
     ("mse:+5%", LOWER), ("train_s:+10%", LOWER)],
)  # fmt: skip
def test_meaningful_thresholds_are_accepted(text: str, direction: Direction) -> None:
    validate_threshold(parse_threshold(text), direction)


# Absolute limits.

HIGH = [0.95, 0.952, 0.954, 0.956]  # mean 0.953, 95% interval 0.9489 to 0.9571


@pytest.mark.parametrize(
    ("text", "values", "outcome"),
    [
        ("test_accuracy<94.8%", HIGH, ThresholdStatus.PASSED),
        ("test_accuracy<95.3%", HIGH, ThresholdStatus.INCONCLUSIVE),
        ("test_accuracy < 0.958", HIGH, ThresholdStatus.FAILED),
        ("accuracy<95%", [0.95] * 4, ThresholdStatus.PASSED),  # on the limit
        ("loss>0.1", [0.2, 0.21, 0.19], ThresholdStatus.FAILED),
        ("loss>0.1", [0.1] * 3, ThresholdStatus.PASSED),
        ("train_s>2s", [1.0, 1.1], ThresholdStatus.PASSED),
        ("train_s>0.5", [1.0, 1.01], ThresholdStatus.FAILED),
        ("loss>0.1", [0.2], ThresholdStatus.INCONCLUSIVE),
        ("loss>0.1", [0.2, float("nan"), 0.2], ThresholdStatus.INCONCLUSIVE),
        ("train_s>1", [], ThresholdStatus.INCONCLUSIVE),
    ],
)
def test_limits_are_checked_on_the_interval(
    text: str, values: list[float], outcome: ThresholdStatus
) -> None:
    assert check_limit(limit(text), "A", values, 0.05).outcome is outcome


def limit(text: str) -> Limit:
    found = parse_threshold(text)
    assert isinstance(found, Limit)
    return found


@pytest.mark.parametrize(
    ("text", "values", "message"),
    [
        (
            "test_accuracy<96%",
            HIGH,
            "test_accuracy<96% failed: A: test accuracy 95.30% (95% t interval 94.89% to 95.71%)",
        ),
        ("loss>0.1", [0.2], "loss>0.1 inconclusive: A: loss 0.2000 with one seed, so no CI"),
        ("loss>0.1", [0.2, float("inf")], "loss>0.1 inconclusive: A: a non-finite loss"),
        (
            "train_s>1",
            [2.0, 2.0],
            "train_s>1 failed: A: time per epoch 2.00 s (95% t interval 2.00 s to 2.00 s)",
        ),
        ("train_s>1", [], "train_s>1 inconclusive: A: no seed was timed alone"),
    ],
)
def test_messages_of_limits(text: str, values: list[float], message: str) -> None:
    assert check_limit(limit(text), "A", values, 0.05).text == message


@given(st.lists(st.floats(0.5, 1), min_size=2, max_size=8), st.floats(0.5, 1))
def test_limits_agree_with_scipys_interval(values: list[float], value: float) -> None:
    spread = float(np.std(values, ddof=1)) / len(values) ** 0.5
    if spread < 1e-9:
        return
    low, high = oracle.t.interval(0.95, len(values) - 1, float(np.mean(values)), spread)
    expected = ThresholdStatus.INCONCLUSIVE
    if high < value:
        expected = ThresholdStatus.FAILED
    elif low >= value:
        expected = ThresholdStatus.PASSED
    assert check_limit(limit(f"accuracy<{value!r}"), "A", values, 0.05).outcome is expected


@pytest.mark.parametrize(
    ("text", "direction", "message"),
    [
        (
            "accuracy>95%",
            Direction.HIGHER,
            "'accuracy>95%' would fail a run for being better; write accuracy<95%.",
        ),
        ("loss < 0.1", Direction.LOWER, "'loss < 0.1' would fail a run for being better; write"),
        ("train_s<2", Direction.LOWER, "'train_s<2' would fail a run for being better; write"),
    ],
)
def test_limits_in_the_better_direction_are_rejected(
    text: str, direction: Direction, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        validate_threshold(limit(text), direction)
    assert str(caught.value).startswith(f"--fail-if: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("accuracy<95", "'95' is not a value of accuracy; write, for example, 0.98 or 98%."),
        ("loss>5%", "'5%' is not a value of loss; write, for example, 0.03."),
        (
            "train_s>2m",
            "'train_s>2m': '2m' is not a time per epoch; write a number of seconds, such as"
            " train_s>2.",
        ),
    ],
)
def test_malformed_limits_are_rejected(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_threshold(text)
    assert str(caught.value) == f"--fail-if: {message}"
