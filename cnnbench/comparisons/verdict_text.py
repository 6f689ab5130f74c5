"""Verdicts in sentences, and for programs."""

import dataclasses
import math
import re
from collections.abc import Sequence

from cnnbench.comparisons.verdict import Effect, Finding, Verdict
from cnnbench.errors import UsageError
from cnnbench.formatting import clean
from cnnbench.spec.metrics import is_fraction, words

WIDEST = 100  # end over beginning of an interval of ratios; a wider one says nothing

_EFFECT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(pp|%|)")


def parse_effect(text: str, option: str = "--min-effect") -> Effect:
    """The size of a difference that matters.

    Args:
      text: a number with its unit.
      option: where it stands, for the message.

    Raises:
      UsageError: it is none.

    >>> parse_effect("0.1pp"), parse_effect("2%"), parse_effect("0.003")
    (Effect(value=0.001, kind='absolute'), Effect(value=0.02, kind='relative'), \
Effect(value=0.003, kind='absolute'))
    """
    found = _EFFECT.fullmatch(text.strip())
    if found is None:
        message = f"{option}: '{text}' is no size of a difference"
        units = "0.1pp (points), 2% (of the baseline) or 0.003 (in the metric's unit)"
        raise UsageError(f"{message}; write one as in {units}.")
    number, unit = float(found[1]), found[2]
    if unit == "":
        return Effect(number)
    return Effect(number / 100, "absolute" if unit == "pp" else "relative")


def sentence(verdict: Verdict) -> str:
    """What can be said, with the numbers that it rests on."""
    return f"{_finding(verdict)}{_time(verdict)}."


def fields(verdict: Verdict) -> dict[str, object]:
    """Everything that a verdict holds, unrounded, with its sentence."""
    plain = {f.name: getattr(verdict, f.name) for f in dataclasses.fields(verdict)}
    return plain | {"sentence": sentence(verdict)}


def _finding(v: Verdict) -> str:
    label, base = clean(v.label), clean(v.baseline)
    match v.finding:
        case Finding.BETTER | Finding.WORSE:
            return f"{label} is {v.finding} than {base}: {_evidence(v)}"
        case Finding.NOISE:
            least = size(v.metric, v.min_effect).lstrip("+")
            assert v.interval is not None
            inside = max(-v.interval.low, v.interval.high) <= v.min_effect
            verb = "is" if inside else "may be"
            return f"{label} {verb} within the noise threshold of {base}, {least}: {_evidence(v)}"
        case Finding.NONE:
            would = f"; a difference of this size would take {v.needed} seeds" if v.needed else ""
            return f"No difference detected between {label} and {base}: {_evidence(v)}{would}"
        case Finding.DIVERGED:
            return f"{label} cannot be judged beside {base}: {_diverged(v)}"
    return f"Too few seeds to judge {label} beside {base}: {_lack(v)}"


def _diverged(v: Verdict) -> str:
    lost = [str(s) for s, d in zip(v.seeds, v.differences, strict=True) if not math.isfinite(d)]
    return f"a loss is not finite with seed {', '.join(lost)}"


def _lack(v: Verdict) -> str:
    """What is there, and how many seeds would decide."""
    more = f"; run both with --seeds {v.needed}" if v.needed else ""
    if not v.seeds:
        return f"they have none in common{more}"
    if len(v.seeds) == 1:
        difference = f"{words(v.metric)} {size(v.metric, v.difference)}"
        return f"{difference} with one seed, whose spread is unknown{more}"
    cannot = f"below {v.fewest} a sign-flip test cannot reach p < {v.alpha:g}"
    return f"{_evidence(v)}; {cannot}{more}"


def _evidence(v: Verdict) -> str:
    assert v.interval is not None
    assert v.p is not None
    low, high = (size(v.metric, end).split()[0] for end in (v.interval.low, v.interval.high))
    level = f"{100 * (1 - v.alpha):g}% interval"
    return (
        f"{words(v.metric)} {size(v.metric, v.difference)} ({level} {low} to {high}), "
        f"{_p(v.p)}, {len(v.seeds)} seeds"
    )


def size(metric: str, value: float) -> str:
    """A difference of a metric.

    >>> size("accuracy", 0.00416), size("loss", -0.0012345)
    ('+0.42 points', '-0.00123')
    """
    return f"{100 * value:+.2f} points" if is_fraction(metric) else f"{value:+.3g}"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _time(v: Verdict) -> str:
    if math.isnan(v.time_ratio):
        return ""
    text = f"; an epoch takes {v.time_ratio:.2f}x as long"
    if v.time_interval is None:
        return text
    if v.time_interval.high > WIDEST * v.time_interval.low:
        # Two digits, without an exponent: 160x, not 1.6e+02x.
        low, high = (f"{float(f'{x:.2g}'):g}x" for x in (v.time_interval.low, v.time_interval.high))
        ends = f"{low} to {high}"
        return f"{text}, with so few seeds anything from {ends}"
    return f"{text} ({v.time_interval.low:.2f} to {v.time_interval.high:.2f})"


def verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """A line for each verdict."""
    return [f"Verdict: {sentence(verdict)}" for verdict in verdicts]


def how_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """How the verdicts were found; nothing where there was nothing to find."""
    if all(verdict.p is None for verdict in verdicts):
        return []
    adjusted = ", adjusted by Holm" if len(verdicts) > 1 else ""
    return [
        f"Verdicts: paired by seed; Student's interval, sign-flip test{adjusted}.",
        "Ratios of time: by seed, from median epochs.",
    ]
