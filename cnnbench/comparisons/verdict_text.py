"""Verdicts as sentences and as fields for JSON."""

import dataclasses
import math
import re
from collections.abc import Sequence

from cnnbench.comparisons.samples import POWER
from cnnbench.comparisons.verdict import Criteria, Effect, Finding, Verdict, is_narrow
from cnnbench.errors import UsageError
from cnnbench.formatting import MISSING, clean, enumeration, named_seeds
from cnnbench.spec.metrics import is_fraction, words
from cnnbench.statistics.estimates import Interval
from cnnbench.statistics.improvement import Improvement
from cnnbench.statistics.looks import Reason
from cnnbench.statistics.matched_pairs import MatchedPairs
from cnnbench.statistics.permutation import EXACT, TIES, enumerable

_EFFECT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(pp|%|)")


def parse_effect(text: str, option: str = "--min-effect") -> Effect:
    """Parse an effect size.

    Args:
      text: number with its unit.
      option: option name for the error message.

    Raises:
      UsageError: `text` is not an effect size.

    >>> parse_effect("0.1pp"), parse_effect("2%"), parse_effect("0.003")
    (Effect(value=0.001, kind='absolute'), Effect(value=0.02, kind='relative'), \
Effect(value=0.003, kind='absolute'))
    """
    found = _EFFECT.fullmatch(text.strip())
    if found is None:
        units = "0.1pp (points), 2% (of the baseline) or 0.003 (in the metric's unit)"
        raise UsageError(f"{option}: '{text}' is not an effect size; write, for example, {units}.")
    number, unit = float(found[1]), found[2]
    if unit == "":
        return Effect(number)
    return Effect(number / 100, "absolute" if unit == "pp" else "relative")


def criteria_words(criteria: Criteria) -> list[str]:
    """The options of `compare` that judge by these settings, without those that are the default.

    >>> criteria_words(Criteria(metric="loss", min_effect=parse_effect("2%"), test="paired"))
    ['--metric', 'loss', '--min-effect', '2%', '--test', 'paired']
    >>> criteria_words(Criteria(alpha=0.01, min_effect=parse_effect("0.1pp"), anytime=True))
    ['--alpha', '0.01', '--min-effect', '0.001', '--anytime']
    """
    effect, default = criteria.min_effect, Criteria()
    size_text = f"{100 * effect.value:g}%" if effect.kind == "relative" else f"{effect.value:g}"
    test = None if criteria.anytime else criteria.test
    given = {
        "--metric": criteria.metric,
        "--alpha": criteria.alpha if criteria.alpha != default.alpha else None,
        "--min-effect": size_text if effect.value else None,
        "--test": test,
    }
    found = [word for name, value in given.items() if value for word in (name, str(value))]
    return [*found, "--anytime"] if criteria.anytime else found


def sentence(verdict: Verdict) -> str:
    """The finding in one sentence, with its evidence and the ratio of epoch times."""
    return f"{_finding(verdict)}{_time(verdict)}."


def fields(verdict: Verdict) -> dict[str, object]:
    """All fields of a verdict, unrounded, and its sentence."""
    plain = {f.name: getattr(verdict, f.name) for f in dataclasses.fields(verdict)}
    return plain | {"sentence": sentence(verdict)}


def _finding(v: Verdict) -> str:
    label, base = clean(v.label), clean(v.baseline)
    match v.finding:
        case Finding.BETTER | Finding.WORSE:
            better = v.finding is Finding.BETTER
            if v.metric == "accuracy":
                degree = "more" if better else "less"
                return f"{label} is {degree} accurate than {base}: {_evidence(v)}"
            return f"{label} is {v.finding} than {base}: {_named_evidence(v)}"
        case Finding.NOISE:
            return f"{label} and {base} {_within(v)}: {_named_evidence(v)}"
        case Finding.NONE:
            takes = f"; {_detecting(v)}" if v.needed else ""
            return f"No difference detected between {label} and {base}: {_named_evidence(v)}{takes}"
        case Finding.DIVERGED:
            return f"{label} cannot be compared with {base}: {_diverged(v)}"
    if v.images and v.images.pairs:
        return _trained(v, v.images.pairs)
    return f"Too few seeds to compare {label} with {base}: {_lack(v)}"


def trained_finding(v: Verdict) -> Finding | None:
    """What McNemar's test finds about two trained networks, one seed each; None if it is not made.

    It is about these networks, not about their architectures.
    """
    pairs = v.images and v.images.pairs
    if not pairs:
        return None
    if pairs.p > v.alpha * (1 + TIES) or pairs.interval.low <= 0 <= pairs.interval.high:
        return Finding.NONE
    return Finding.BETTER if pairs.difference > 0 else Finding.WORSE


def _trained(v: Verdict, pairs: MatchedPairs) -> str:
    """What two trained networks, one seed each, show; not what their architectures do."""
    label, base, found = clean(v.label), clean(v.baseline), trained_finding(v)
    named = evidence(v)
    if found is Finding.NONE:
        said = f"no difference detected between the trained {label} and the trained {base}"
    elif v.metric == "accuracy":
        degree = "more" if found is Finding.BETTER else "less"
        said = f"the trained {label} is {degree} accurate than the trained {base}"
        named = named.removeprefix(f"{words(v.metric)} ")
    else:
        said = f"the trained {label} is {found} than the trained {base}"
    only = f"only {label} gets {pairs.only_arm:,} images right, only {base} {pairs.only_base:,}"
    return (
        f"With one seed each, {said}: {named.removesuffix(')')}; {only}); whether the architectures"
        f" differ takes {v.fewest} seeds: run both with --seeds {v.fewest}"
    )


def _ends(v: Verdict, interval: Interval) -> str:
    low, high = (size(v.metric, end).split()[0] for end in (interval.low, interval.high))
    return f"{low} to {high}"


def _within(v: Verdict) -> str:
    """The interval is inside the noise threshold, or only reaches into it."""
    assert v.interval is not None
    inside = max(-v.interval.low, v.interval.high) <= v.min_effect
    verb = "differ by less than" if inside else "differ, but possibly by less than"
    return f"{verb} the noise threshold of {size(v.metric, v.min_effect).lstrip('+')}"


def _detecting(v: Verdict) -> str:
    return f"detecting a difference of this size takes about {v.needed} seeds ({POWER:.0%} power)"


def _diverged(v: Verdict) -> str:
    return f"training diverged with {named_seeds(v.lost)}"


def _lack(v: Verdict) -> str:
    """The evidence so far, and the fewest seeds for a test."""
    advice = f"run both with --seeds {v.fewest}"
    if not all(v.numbers):
        return f"no seed in common; {advice}"
    if v.interval is None:
        number = "one seed" if max(v.numbers) == 1 else _number(v)
        found = f"{words(v.metric)} {size(v.metric, v.difference)} with {number}"
    else:
        # Without p, which no difference, however large, could bring to alpha.
        found = f"{words(v.metric)} {_interval(v)}, {_number(v)}{_over_images(v)})"
    if v.folds:
        return f"{found}; {v.folds}-fold cross-validation needs at least {v.fewest} seeds: {advice}"
    return f"{found}; p < {v.alpha:g} needs at least {v.fewest} seeds: {advice}"


def _named_evidence(v: Verdict) -> str:
    return f"{words(v.metric)} {_evidence(v)}"


def _evidence(v: Verdict) -> str:
    assert v.p is not None
    return f"{_interval(v)}, {_p(v.p)}, {_number(v)}{_over_images(v)})"


def evidence(verdict: Verdict) -> str:
    """The metric, its difference with intervals, and p."""
    pairs = verdict.images and verdict.images.pairs
    if not pairs:
        return _named_evidence(verdict)
    found = f"{words(verdict.metric)} {size(verdict.metric, pairs.difference)}"
    interval = f"{level_text(pairs.level)} CI {_ends(verdict, pairs.interval)} over images"
    return f"{found} ({interval}, {_p(pairs.p)})"


def _over_images(v: Verdict) -> str:
    """The interval over seeds and images, and what it means if it does not show a difference."""
    if v.images is None or v.images.interval is None:
        return ""
    ends = v.images.interval
    shown = ends.low > v.min_effect or ends.high < -v.min_effect
    doubt = v.finding.differs and not shown
    unsure = ", so other images may not show it" if doubt else ""
    both = "the same" if ends == v.interval else _ends(v, ends)
    return f"; {both} over seeds and images{unsure}"


def _interval(v: Verdict) -> str:
    """The difference, and the interval after an opening parenthesis."""
    return f"{size(v.metric, v.difference)} ({named_ends(v)}"


def named_ends(verdict: Verdict) -> str:
    """The interval of the difference with its name, or that there is no useful one."""
    assert verdict.interval is not None
    name = interval_name(verdict)
    if is_useful(verdict.metric, verdict.interval):
        return f"{name} {_ends(verdict, verdict.interval)}"
    return f"no useful {name}"


def interval_name(verdict: Verdict) -> str:
    """The confidence level, and the name of an interval that does not belong to the test."""
    if verdict.p is not None:
        return f"{level_text(verdict.level)} CI"
    kind = "Welch's t" if verdict.test == "unpaired" else "t"
    return f"{level_text(verdict.level)} {kind} interval"


def level_text(level: float) -> str:
    """A confidence level in percent; of 1 - level, two digits.

    >>> level_text(0.95), level_text(1 - 0.05 / 3), level_text(0.99995)
    ('95%', '98.3%', '99.995%')
    """
    return f"{100 - float(f'{100 * (1 - level):.2g}'):g}%"


def _number(v: Verdict) -> str:
    """The numbers of seeds: of the run, and of the baseline if it has another."""
    base, own = v.numbers
    kind = "folds" if v.folds else "seeds"
    return f"{own} {kind}" if own == base else f"{own} and {base} {kind}"


def size(metric: str, value: float) -> str:
    """A signed difference of a metric with its unit.

    >>> size("accuracy", 0.00416), size("loss", -0.0012345)
    ('+0.42 points', '-0.00123')
    """
    return f"{100 * value:+.2f} points" if is_fraction(metric) else f"{value:+.3g}"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _time(v: Verdict) -> str:
    return "" if math.isnan(v.time_ratio) else f"{_time_ratio(v)}{artifact_text(v)}"


def artifact_text(verdict: Verdict) -> str:
    """Says that a ratio of times comes from the engines, not from the networks; else empty."""
    if not verdict.engines:
        return ""
    base, own = verdict.engines
    return f", an artifact of the engines: {own}, baseline {base}"


def _time_ratio(v: Verdict) -> str:
    ends = time_ends(v)
    return f"; an epoch takes {v.time_ratio:.2f}x as long{f' ({ends})' if ends else ''}"


def time_ends(verdict: Verdict, digits: str = ".2f", name: str = "") -> str:
    """The interval of a ratio of times, or the seeds that give a useful one; empty for one seed.

    Args:
      verdict: the verdict.
      digits: format of the ends.
      name: what is written before them.
    """
    ends, needed = verdict.time_interval, verdict.time_needed
    if ends is None:
        return ""
    if is_narrow(ends):
        return f"{name}{ends.low:{digits}}x to {ends.high:{digits}}x"
    if needed is None:
        return "no useful interval, since the times vary too much"
    return f"no useful interval with so few seeds; about {needed} would give one"


def is_useful(metric: str, interval: Interval) -> bool:
    """False for an interval of a difference that excludes next to nothing.

    >>> is_useful("accuracy", Interval(-0.6, 0.7)), is_useful("loss", Interval(-0.6, 0.7))
    (False, True)
    """
    if is_fraction(metric):  # whose difference is between -1 and 1
        return min(interval.high, 1) - max(interval.low, -1) < 1
    return math.isfinite(interval.low) or math.isfinite(interval.high)


def verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """One line per verdict."""
    return [f"Verdict{_rule(verdict)}: {sentence(verdict)}" for verdict in verdicts]


def _rule(v: Verdict) -> str:
    """The rule that stopped the runs, in parentheses."""
    if v.stopped is None:
        return ""
    if not v.stopped.looks:
        return f" (valid after any number of seeds; alpha {v.alpha:g})"
    looks = ", ".join(map(str, v.stopped.looks))
    return f" (planned looks at {looks}; alpha {v.alpha:g})"


def look_line(verdict: Verdict, place: int, reason: Reason | None, *, several: bool) -> str:
    """A line on a look: the difference, p and the threshold, and what follows.

    Args:
      verdict: the verdict at the look, with the rule that stops its run.
      place: number of the look, from 1.
      reason: why no more seeds are trained; None if training continues.
      several: True if several runs are judged at each look.
    """
    stopped = verdict.stopped
    assert stopped is not None
    next_ = [look for look in stopped.looks if look > stopped.number]
    after = "go on"
    match reason:
        case Reason.DECIDED:
            after = "decided"
        case Reason.SMALL:
            after = f"within {size(verdict.metric, verdict.min_effect).lstrip('+')}: decided"
        case Reason.FUTILE:
            after = "stopped, no later look can decide"
        case Reason.LAST:
            after = "no difference detected" if verdict.p is not None else "not decided"
            after = f"last look, {after}"
    if reason is None and next_:
        after = f"go on to {next_[0]}"
    label = f"{clean(verdict.label)}, " if several else ""
    look = f"look {place}, " if stopped.looks else ""
    return f"{look}{label}{stopped.number} seeds: {_so_far(verdict)}: {after}"


def _so_far(v: Verdict) -> str:
    if v.finding is Finding.DIVERGED:
        return f"{words(v.metric)}: {_diverged(v)}"
    p = "" if v.p is None else f", {_p(v.p)}"
    if v.stopped and v.p is not None:
        p += f" ({v.stopped.threshold:.2g} needed)"
    ends = (
        "" if v.interval is None or not math.isfinite(v.interval.low) else f" ({_so_far_ends(v)})"
    )
    return f"{words(v.metric)} {size(v.metric, v.difference)}{ends}{p}"


def _so_far_ends(v: Verdict) -> str:
    assert v.interval is not None
    low, high = (size(v.metric, end).split()[0] for end in (v.interval.low, v.interval.high))
    return f"{low} to {high}"


def running_text(verdict: Verdict) -> str:
    """The difference so far and its interval, for a line of progress."""
    if not math.isfinite(verdict.difference):
        return "diverged"
    ends = verdict.interval
    known = ends is not None and math.isfinite(ends.low)
    return size(verdict.metric, verdict.difference) + (
        f" ({_so_far_ends(verdict)})" if known else ""
    )


def how_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """The statistical methods behind the verdicts; empty if there is no interval."""
    if all(verdict.interval is None for verdict in verdicts):
        return []
    adjusted = " at the level of Holm's step; p: Holm-adjusted" if len(verdicts) > 1 else ""
    methods = dict.fromkeys(_method(verdict) for verdict in verdicts if verdict.p is not None)
    return [
        *(f"Verdicts: {method}{adjusted}." for method in methods),
        *_correlations(verdicts),
        "Time ratios: geometric mean over seeds, from median epoch times; CI: Student's t of the"
        " logarithms.",
    ]


def _method(v: Verdict) -> str:
    """The test and its interval."""
    inverted = "; CI: inversion of the test"
    if v.overlap:
        pairs, shared = ("fold", "folds") if v.folds else ("seed", "seeds")
        return (
            f"paired by {pairs}; corrected resampled t-test (Nadeau and Bengio 2003),"
            f" since the {shared} share training images{inverted}"
        )
    if v.stopped and not v.stopped.looks:
        return "paired by seed; p and CI: e-process of the signs, valid after any number of seeds"
    if v.stopped:
        inverted += f" at this look, where p = {v.stopped.threshold:.2g} decides"
    if v.test == "paired":
        kind = "exact " if v.numbers[0] <= EXACT else ""
        return f"paired by seed; {kind}sign-flip test{inverted}"
    kind = "exact " if enumerable(*v.numbers) else ""
    studentized = "studentized " if v.numbers[0] != v.numbers[1] else ""
    return f"unpaired; {kind}{studentized}permutation test of the seeds{inverted}"


def _correlations(verdicts: Sequence[Verdict]) -> list[str]:
    """A line on how the values of equal seeds correlate."""
    known = [v for v in verdicts if v.correlation is not None]
    texts = [f"{v.correlation:z.2f}" for v in known]
    if len(verdicts) > 1:
        texts = [f"{text} ({clean(v.label)})" for text, v in zip(texts, known, strict=True)]
    return [f"Correlation of equal seeds: {enumeration(texts)}."] if texts else []


def improvement_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """A line on the probabilities of improvement; empty if none are known."""
    texts = [
        f"{better_text(v.improvement)} that {clean(v.label)} beats {clean(v.baseline)}"
        for v in verdicts
        if v.improvement is not None
    ]
    if not texts:
        return []
    return [f"Probability of improvement, for a random seed of each: {'; '.join(texts)}."]


def better_text(improvement: Improvement) -> str:
    """A probability of improvement with its interval.

    >>> better_text(Improvement(1.0, Interval(0.58, 1.0))), better_text(Improvement(0.5, None))
    ('100% (58 to 100)', '50%')
    """
    share = f"{100 * improvement.share:.0f}%"
    if improvement.interval is None:
        return share
    low, high = improvement.interval.low, improvement.interval.high
    return f"{share} ({100 * low:.0f} to {100 * high:.0f})"


def interval_text(metric: str, interval: Interval | None) -> str:
    """An interval of a difference, without its unit; a dash for one that says nothing.

    >>> interval_text("accuracy", Interval(-0.01, 0.02)), interval_text("loss", None)
    ('-1.00 to +2.00', '–')
    """  # noqa: RUF002 - the dash
    if interval is None or not is_useful(metric, interval):
        return MISSING
    return " to ".join(size(metric, end).split()[0] for end in (interval.low, interval.high))
