"""Limits for CI: how much worse a run may be than the baseline."""

import math
import re
from enum import StrEnum
from typing import NamedTuple

from cnnbench.comparisons.statistics import Interval
from cnnbench.comparisons.verdict import Effect, Verdict
from cnnbench.comparisons.verdict_text import parse_effect, size
from cnnbench.errors import UsageError
from cnnbench.formatting import clean
from cnnbench.runs.records import Direction
from cnnbench.spec.metrics import is_fraction, words

TIME = "train_s"
_GATE = re.compile(r"([a-z][a-z0-9_]*):([+-])(.+)")


class ThresholdStatus(StrEnum):
    """Whether a limit is kept."""

    KEPT = "kept"
    BROKEN = "broken"
    OPEN = "inconclusive"


class Gate(NamedTuple):
    """A limit.

    Args:
      metric: a metric, or `train_s` for the time of an epoch.
      sign: -1 where a fall breaks it, +1 where a rise does.
      effect: how far it may go.
      text: as it was written.
    """

    metric: str
    sign: int
    effect: Effect
    text: str


class Judgement(NamedTuple):
    """A limit, a run, and whether it is kept."""

    outcome: ThresholdStatus
    text: str


def parse_gate(text: str) -> Gate:
    """A limit such as ``accuracy:-0.2pp`` or ``train_s:+10%``.

    Raises:
      UsageError: it is none.

    >>> parse_gate("train_s:+10%")
    Gate(metric='train_s', sign=1, effect=Effect(value=0.1, kind='relative'), text='train_s:+10%')
    """
    found = _GATE.fullmatch(text.strip())
    if found is None:
        message = f"--fail-if: '{text}' is no limit"
        raise UsageError(f"{message}; write one as in accuracy:-0.2pp or train_s:+10%.")
    gate = Gate(found[1], 1 if found[2] == "+" else -1, parse_effect(found[3], "--fail-if"), text)
    if gate.metric == TIME and gate.effect.kind != "relative":
        message = f"--fail-if: '{text}' limits a time by {found[3]}"
        raise UsageError(f"{message}; write a share of the baseline's, as in train_s:+10%.")
    return gate


def require_sense(gate: Gate, direction: Direction) -> None:
    """Refuses a unit that a metric has not, and a limit on how good a run may be.

    Args:
      gate: the limit.
      direction: which values of its metric are better.

    Raises:
      UsageError: it makes no sense.
    """
    message, text = f"--fail-if: '{gate.text}'", gate.text.strip()
    share, points = is_fraction(gate.metric), text.endswith("pp")
    if share and gate.effect.kind == "absolute" and not points:
        raise UsageError(
            f"{message} has no unit; write {text}pp (points) or {text}% of the baseline."
        )
    if points and not share:
        remedy = f"write {text.removesuffix('pp').rstrip()}% of the baseline, or a value"
        raise UsageError(f"{message} is in points, which {words(gate.metric)} has not; {remedy}.")
    worse, sign = (-1, "-") if direction is Direction.HIGHER else (1, "+")
    if gate.sign != worse:
        remedy = f"write {gate.metric}:{sign}{text.partition(':')[2][1:]}"
        raise UsageError(f"{message} would fail a run for being better; {remedy}.")


def judge_gate(gate: Gate, verdict: Verdict) -> Judgement:
    """Whether a run keeps a limit: its interval decides, not its mean.

    Args:
      gate: the limit.
      verdict: of the gate's metric; of any for `train_s`.
    """
    if gate.metric == TIME:
        interval, limit = verdict.time_interval, 1 + gate.sign * gate.effect.value
        shown = f"{verdict.time_ratio:.3g}x the time"
        ends = interval and f"{interval.low:.3g} to {interval.high:.3g}"
    else:
        interval, limit = verdict.interval, gate.sign * gate.effect.in_units(verdict.base_mean)
        # Without validation images, that on the test images.
        shown = f"{verdict.metric} {size(gate.metric, verdict.difference)}"
        ends = interval and " to ".join(
            size(gate.metric, end).split()[0] for end in (interval.low, interval.high)
        )
    outcome = _outcome(interval, limit, gate.sign)
    found = f"{shown} ({ends})" if ends else f"{shown}, without an interval"
    if gate.metric == TIME and math.isnan(verdict.time_ratio):
        found = f"no seed whose time can be divided by that of {clean(verdict.baseline)}"
    if gate.metric != TIME and not math.isfinite(verdict.difference):
        common = f"no seed in common with {clean(verdict.baseline)}"
        found = "a loss that is not finite, or its baseline" if verdict.seeds else common
    return Judgement(outcome, f"{gate.text} {outcome}: {clean(verdict.label)} has {found}")


def _outcome(interval: Interval | None, limit: float, sign: int) -> ThresholdStatus:
    """Broken where all of the interval is beyond the limit, kept where none of it is."""
    if interval is None:
        return ThresholdStatus.OPEN
    nearest, farthest = sorted((sign * interval.low, sign * interval.high))
    if nearest > sign * limit:
        return ThresholdStatus.BROKEN
    return ThresholdStatus.KEPT if farthest <= sign * limit else ThresholdStatus.OPEN
