"""Verdicts on runs whose number of seeds depends on their results: `--until-decided`, `--anytime`.

With planned looks, the probability that a p-value is at most its threshold at any look is at most
alpha. A verdict by the threshold of the look at which a run was stopped is therefore valid whatever
stopped it: this metric, another one, or the user.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice

from cnnbench.comparisons.comparability import Finished
from cnnbench.comparisons.samples import Pairing, Samples
from cnnbench.comparisons.verdict import (
    Arm,
    Criteria,
    Finding,
    StoppingRule,
    Verdict,
    find_baseline,
    finding_of,
    judge,
)
from cnnbench.errors import UsageError
from cnnbench.statistics.estimates import mean_interval
from cnnbench.statistics.looks import Looks, Reason
from cnnbench.statistics.sequential import confidence_sequence, e_values, thresholds

_FAR = 1e6  # times the largest value: the best that a seed can do


def judge_runs(
    runs: Sequence[Finished],
    arms: Sequence[Arm],
    criteria: Criteria,
    *,
    higher: bool,
    metric: str | None = None,
) -> tuple[Verdict, ...]:
    """A verdict for each run except the baseline, by the rule that stopped the runs.

    Args:
      runs: the runs being compared.
      arms: their per-seed measurements.
      criteria: settings of the comparison.
      higher: True if higher values of the metric are better.
      metric: name of the metric; None for that of the runs.

    Raises:
      UsageError: as `judge`.
    """
    rules = [run.record.looks for run in runs]
    metric = metric or runs[0].judged_by
    if not (any(rules) or criteria.anytime):
        return judge(arms, metric, criteria, higher=higher)
    base = find_baseline(arms, criteria.baseline)
    verdicts = []
    for number, arm in enumerate(arms):
        if number == base:
            continue
        pair = (arms[base], arm)
        found = [rule for rule in (rules[base], rules[number]) if rule]
        share = max([len(arms) - 1, *(rule.comparisons for rule in found)])
        if criteria.anytime or any(rule.anytime for rule in found):
            verdicts.append(_anytime(pair, metric, criteria, share, higher=higher))
        elif found:
            shared = [_with(rule, criteria.alpha, criteria.test, share) for rule in found]
            verdicts.append(_at_look(pair, metric, criteria, shared, higher=higher))
        else:
            own = replace(criteria, baseline=None, alpha=criteria.alpha / share)
            verdicts += judge(pair, metric, own, higher=higher)
    return tuple(verdicts)


def _at_look(
    pair: tuple[Arm, Arm], metric: str, criteria: Criteria, rules: Sequence[Looks], *, higher: bool
) -> Verdict:
    """A verdict on the seeds of the last look, by its threshold."""
    number = min(len(arm.values) for arm in pair)
    strictest = min(rules, key=lambda rule: rule.threshold(number))
    level = strictest.threshold(number)
    cut = [_first(arm, number) for arm in pair]
    own = replace(criteria, baseline=None, test=criteria.test or _test(rules))
    (fixed,) = judge(cut, metric, own, higher=higher)
    stopped = StoppingRule(strictest.numbers, number, level, strictest.comparisons)
    if not level:  # no result can decide at this look
        return _undecidable(cut, fixed, strictest, stopped)
    (verdict,) = judge(cut, metric, replace(own, alpha=level), higher=higher)
    return replace(
        verdict,
        alpha=criteria.alpha,
        level=1 - criteria.alpha,
        needed=None,
        time_interval=fixed.time_interval,
        time_needed=fixed.time_needed,
        stopped=stopped,
    )


def _undecidable(
    pair: Sequence[Arm], verdict: Verdict, rule: Looks, stopped: StoppingRule
) -> Verdict:
    """A verdict at a look at which the test cannot decide: a t interval, and no p."""
    finding = Finding.DIVERGED if verdict.finding is Finding.DIVERGED else Finding.FEW
    base, other = (arm.values for arm in pair)
    samples = Samples(base, other, verdict.test, verdict.overlap, verdict.folds)
    able = (n for n, p in zip(rule.numbers, rule.thresholds, strict=True) if p)
    return replace(
        verdict,
        finding=finding,
        interval=samples.t_interval(verdict.level),
        p=None,
        fewest=next(able, verdict.fewest),
        needed=None,
        stopped=stopped,
    )


def _test(rules: Sequence[Looks]) -> Pairing:
    return "paired" if rules[-1].test == "paired" else "unpaired"


def _with(rule: Looks, alpha: float, test: Pairing | None, comparisons: int) -> Looks:
    """The rule with another alpha, test or number of comparisons."""
    own = replace(rule, alpha=alpha, test=test or rule.test, comparisons=comparisons)
    if own == rule:
        return rule
    paired = own.test == "paired"
    levels = thresholds(rule.numbers, alpha, paired=paired, comparisons=comparisons)
    return replace(own, thresholds=levels)


def _first(arm: Arm, number: int) -> Arm:
    return arm._replace(values=dict(islice(arm.values.items(), number)))


def _anytime(
    pair: tuple[Arm, Arm], metric: str, criteria: Criteria, comparisons: int, *, higher: bool
) -> Verdict:
    """A verdict that is valid after every seed."""
    alpha = criteria.alpha / comparisons
    if pair[0].overlap:
        message = "--anytime: the seeds share training images, and no test of them is valid after"
        raise UsageError(f"{message} any number of seeds; remove --anytime.")
    if criteria.test == "unpaired":
        message = "--anytime: is a test of pairs of equal seeds"
        raise UsageError(f"{message}; remove --test unpaired.")
    own = replace(criteria, baseline=None, test="paired")
    (verdict,) = judge(pair, metric, own, higher=higher)
    stopped = StoppingRule((), len(verdict.seeds), alpha, comparisons)
    fewest = fewest_anytime(alpha)
    verdict = replace(verdict, stopped=stopped, needed=None, fewest=fewest)
    values = verdict.differences
    if not values or not all(map(math.isfinite, values)):
        return verdict
    level = 1 - criteria.alpha
    if len(values) < fewest:
        ends = mean_interval(values, level)
        few = replace(verdict, finding=Finding.FEW, interval=ends, level=level, p=None)
        return replace(few, needed=fewest)
    p = min(1.0, 1 / max(e_values(values)))
    interval = confidence_sequence(values, alpha)
    significant, least = p <= alpha, verdict.min_effect
    finding = finding_of(interval, least, significant=significant, higher=higher)
    return replace(verdict, finding=finding, interval=interval, level=level, p=p)


@lru_cache(maxsize=8)
def fewest_anytime(alpha: float) -> int:
    """Fewest seeds with which an e-value can reach 1 / alpha.

    >>> fewest_anytime(0.05), fewest_anytime(0.01)
    (6, 8)
    """
    return next(n for n in range(1, 99) if e_values([1.0] * n)[-1] >= 1 / alpha)


def reason_to_stop(verdict: Verdict, looks: Looks, number: int) -> Reason | None:
    """Why a run needs no more seeds; None if it does.

    Args:
      verdict: the verdict with this number of seeds.
      looks: the rule.
      number: the number of seeds.
    """
    if verdict.finding.differs:
        return Reason.DECIDED
    interval = verdict.interval
    if (
        interval
        and verdict.p is not None  # without p, the interval is not that of the rule
        and max(-interval.low, interval.high) < verdict.min_effect
    ):
        return Reason.SMALL
    if number >= len(looks.planned):
        return Reason.LAST
    return Reason.FUTILE if verdict.finding is Finding.DIVERGED else None


def is_futile(
    pair: tuple[Arm, Arm], metric: str, criteria: Criteria, looks: Looks, number: int
) -> bool:
    """True if no values of the seeds to come could decide at any later look.

    The best that they can do is to differ without limit, in either direction.

    Args:
      pair: the baseline and the run, with the seeds so far.
      metric: the metric that is judged.
      criteria: settings of the comparison.
      looks: the rule, with planned looks.
      number: the number of seeds so far.
    """
    largest = max((abs(v) for arm in pair for v in arm.values.values()), default=1.0)
    far = _FAR * max(largest, 1e-300)
    if not math.isfinite(far):
        return True
    for look in (look for look in looks.numbers if look > number):
        for side in (-far, far):
            rest = range(-1, number - look - 1, -1)  # numbers that no seed has
            best = [
                arm._replace(values={**arm.values, **dict.fromkeys(rest, value)})
                for arm, value in zip(pair, (-side, side), strict=True)
            ]
            alpha = looks.threshold(look)
            own = replace(
                criteria, baseline=None, alpha=alpha, test=criteria.test or _test([looks])
            )
            (verdict,) = judge(best, metric, own, higher=True)
            if verdict.p is not None and verdict.p <= looks.threshold(look):
                return False
    return True
