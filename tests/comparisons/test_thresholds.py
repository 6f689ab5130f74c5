"""Thresholds for CI: passed, failed and inconclusive."""

import pytest

from cnnbench.comparisons.thresholds import (
    Threshold,
    ThresholdStatus,
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


def test_zero_times_are_inconclusive() -> None:
    found = check_threshold(parse_threshold("train_s:+10%"), verdict([0.0] * 6, [0.0] * 6))
    assert found.outcome is ThresholdStatus.INCONCLUSIVE
    assert found.text == "train_s:+10% inconclusive: B: no epoch time comparable with A"


FALL = [-0.004, -0.0045, -0.0055, -0.005, -0.006, -0.005]  # -0.50 (-0.57 to -0.43) points


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
    assert check_threshold(parse_threshold(threshold), verdict(differences)).outcome is outcome


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
    assert check_threshold(parse_threshold(threshold), verdict([0.0] * 6, ratio)).outcome is outcome


def test_messages_give_the_evidence() -> None:
    failed = check_threshold(parse_threshold("accuracy:-0.2pp"), verdict(FALL))
    assert failed.text == (
        "accuracy:-0.2pp failed: B: accuracy -0.50 points (95% CI -0.57 to -0.43)"
    )
    slow = check_threshold(parse_threshold("train_s:+10%"), verdict([0.0] * 6, [2.0] * 6))
    assert slow.text == "train_s:+10% failed: B: 2x the baseline's time (95% CI 2x to 2x)"
    single = check_threshold(parse_threshold("accuracy:-0.2pp"), verdict(FALL[:1]))
    assert single.text == (
        "accuracy:-0.2pp inconclusive: B: accuracy -0.40 points with one seed, so no CI"
    )


def test_parsing() -> None:
    assert parse_threshold(" loss:+0.003 ") == Threshold("loss", 1, Effect(0.003), " loss:+0.003 ")


@pytest.mark.parametrize("text", ["accuracy", "accuracy:0.2pp", ":-1%", "accuracy:-", "a b:-1%"])
def test_malformed_thresholds_are_rejected(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_threshold(text)
    assert str(caught.value) == (
        f"--fail-if: '{text}' is not a threshold; write, for example, accuracy:-0.2pp or"
        " train_s:+10%."
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
