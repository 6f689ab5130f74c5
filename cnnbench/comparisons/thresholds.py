"""Thresholds for CI: how much worse than the baseline a run may be, and absolute limits."""

import math
import re
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from cnnbench.comparisons.time_to_target import parse_target
from cnnbench.comparisons.verdict import Effect, Verdict
from cnnbench.comparisons.verdict_text import (
    artifact_text,
    level_text,
    named_ends,
    parse_effect,
    size,
    time_ends,
)
from cnnbench.errors import UsageError
from cnnbench.formatting import clean, seconds_text
from cnnbench.runs.records import Direction
from cnnbench.spec.metrics import is_fraction, metric_text, words
from cnnbench.statistics.estimates import Interval, mean, mean_interval

TIME = "train_s"
_THRESHOLD = re.compile(r"([a-z][a-z0-9_]*):([+-])(.+)")
_LIMIT = re.compile(r"([a-z][a-z0-9_]*)\s*([<>])\s*([^<>=].*)")


class ThresholdStatus(StrEnum):
    """Outcome of checking a threshold."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


class Threshold(NamedTuple):
    """A threshold.

    Args:
      metric: a metric, or `train_s` for the time per epoch.
      sign: -1 if a decrease violates it, +1 if an increase does.
      effect: largest change allowed.
      text: the threshold as the user wrote it.
    """

    metric: str
    sign: int
    effect: Effect
    text: str


class Limit(NamedTuple):
    """An absolute limit, which needs no baseline.

    Args:
      metric: a metric, or `train_s` for the time per epoch.
      sign: -1 if a smaller value violates it, +1 if a larger one does.
      value: the limit, in the metric's unit.
      text: the limit as the user wrote it.
    """

    metric: str
    sign: int
    value: float
    text: str


class ThresholdResult(NamedTuple):
    """Outcome of checking one threshold or limit on one run, with its message."""

    outcome: ThresholdStatus
    text: str


def parse_threshold(text: str) -> Threshold | Limit:
    """Parse a change such as ``accuracy:-0.2pp``, or a limit such as ``test_accuracy<95%``.

    Raises:
      UsageError: `text` is neither.

    >>> parse_threshold("train_s:+10%").effect
    Effect(value=0.1, kind='relative')
    >>> parse_threshold("test_accuracy<95%").value
    0.95
    """
    if found := _LIMIT.fullmatch(text.strip()):
        value = _limit_value(found[1], found[3], text)
        return Limit(found[1], 1 if found[2] == ">" else -1, value, text)
    found = _THRESHOLD.fullmatch(text.strip())
    if found is None:
        raise UsageError(
            f"--fail-if: '{text}' is not a threshold; write, for example, accuracy:-0.2pp,"
            " train_s:+10% or test_accuracy<95%."
        )
    threshold = Threshold(
        found[1], 1 if found[2] == "+" else -1, parse_effect(found[3], "--fail-if"), text
    )
    if threshold.metric == TIME and threshold.effect.kind != "relative":
        message = f"--fail-if: '{text}': a time threshold must be relative, not {found[3]}"
        raise UsageError(f"{message}; write a percentage of the baseline, such as train_s:+10%.")
    return threshold


def _limit_value(metric: str, value: str, text: str) -> float:
    if metric != TIME:
        return parse_target(value, metric, "--fail-if")
    try:
        return parse_target(value.removesuffix("s"), metric)
    except UsageError:
        message = f"--fail-if: '{text}': '{value}' is not a time per epoch"
        raise UsageError(f"{message}; write a number of seconds, such as {TIME}>2.") from None


def validate_threshold(threshold: Threshold | Limit, direction: Direction) -> None:
    """Reject a unit that does not fit the metric, and a threshold in the better direction.

    Args:
      threshold: the threshold, or an absolute limit.
      direction: whether higher or lower values of its metric are better.

    Raises:
      UsageError: the threshold is not meaningful.
    """
    message, text = f"--fail-if: '{threshold.text}'", threshold.text.strip()
    if isinstance(threshold, Limit):
        worse, sign = (-1, "<") if direction is Direction.HIGHER else (1, ">")
        if threshold.sign != worse:
            remedy = f"write {threshold.metric}{sign}{re.split('[<>]', text)[1].strip()}"
            raise UsageError(f"{message} would fail a run for being better; {remedy}.")
        return
    share, points = is_fraction(threshold.metric), text.endswith("pp")
    if share and threshold.effect.kind == "absolute" and not points:
        raise UsageError(
            f"{message} has no unit; write {text}pp (points) or {text}% (of the baseline)."
        )
    if points and not share:
        number = text.removesuffix("pp").rstrip()
        message += f": {words(threshold.metric)} is not a fraction, so points do not apply"
        raise UsageError(f"{message}; write {number}% (of the baseline) or an absolute value.")
    worse, sign = (-1, "-") if direction is Direction.HIGHER else (1, "+")
    if threshold.sign != worse:
        remedy = f"write {threshold.metric}:{sign}{text.partition(':')[2][1:]}"
        raise UsageError(f"{message} would fail a run for being better; {remedy}.")


def check_threshold(threshold: Threshold, verdict: Verdict) -> ThresholdResult:
    """Check a threshold against the confidence interval, not the mean.

    Args:
      threshold: the threshold.
      verdict: a verdict on the threshold's metric; on any metric for `train_s`.
    """
    if threshold.metric == TIME:
        interval, limit = verdict.time_interval, 1 + threshold.sign * threshold.effect.value
        shown = f"{verdict.time_ratio:.3g}x the baseline's time"
        ends = time_ends(verdict, ".3g", f"{level_text(1 - verdict.alpha)} CI ")
    else:
        interval, limit = (
            verdict.interval,
            threshold.sign * threshold.effect.in_units(verdict.base_mean),
        )
        # The verdict's metric is the one on the test images if there are no validation images.
        shown = f"{verdict.metric} {size(threshold.metric, verdict.difference)}"
        ends = named_ends(verdict) if interval else ""
    outcome = _outcome(interval, limit, threshold.sign)
    timed = threshold.metric == TIME
    found = f"{shown} ({ends})" if ends else f"{shown} with one seed, so no CI"
    if timed and math.isnan(verdict.time_ratio):
        found = f"no epoch time comparable with {clean(verdict.baseline)}"
    elif timed:
        found += artifact_text(verdict)
    if not timed and not math.isfinite(verdict.difference):
        common = f"no seed in common with {clean(verdict.baseline)}"
        diverged = f"a non-finite loss here or in {clean(verdict.baseline)}"
        found = diverged if all(verdict.numbers) else common
    return ThresholdResult(outcome, f"{threshold.text} {outcome}: {clean(verdict.label)}: {found}")


def check_limit(
    limit: Limit, label: str, values: Sequence[float], alpha: float, overlap: float = 0.0
) -> ThresholdResult:
    """Check an absolute limit against the confidence interval of the mean over seeds.

    Args:
      limit: the limit.
      label: label of the run.
      values: the metric, or seconds per epoch, one per seed.
      alpha: significance level; the interval is Student's t at level 1 - alpha.
      overlap: as for `statistics.corrected_p`.
    """
    interval = mean_interval(values, 1 - alpha, overlap) if values else None
    outcome = _outcome(interval, limit.value, limit.sign)
    if not values:
        found = "no seed was timed alone"
    elif not all(map(math.isfinite, values)):
        found = "a non-finite loss"
    else:
        name = "time per epoch" if limit.metric == TIME else words(limit.metric)
        found = f"{name} {_value_text(limit, mean(values))}"
        ends = interval and [_value_text(limit, end) for end in (interval.low, interval.high)]
        level = f"{level_text(1 - alpha)} t interval"
        found += f" ({level} {ends[0]} to {ends[1]})" if ends else " with one seed, so no CI"
    return ThresholdResult(outcome, f"{limit.text} {outcome}: {clean(label)}: {found}")


def _value_text(limit: Limit, value: float) -> str:
    return seconds_text(value) if limit.metric == TIME else metric_text(limit.metric, value)


def _outcome(interval: Interval | None, limit: float, sign: int) -> ThresholdStatus:
    """Violated if the whole interval is beyond the limit, met if none of it is."""
    if interval is None:
        return ThresholdStatus.INCONCLUSIVE
    nearest, farthest = sorted((sign * interval.low, sign * interval.high))
    if nearest > sign * limit:
        return ThresholdStatus.FAILED
    return ThresholdStatus.PASSED if farthest <= sign * limit else ThresholdStatus.INCONCLUSIVE
