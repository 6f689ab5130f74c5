"""Verdicts: runs compared with a baseline, paired by seed."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple

from cnnbench.errors import UsageError, did_you_mean, or_list
from cnnbench.spec.metrics import is_fraction, words
from cnnbench.statistics.estimates import Interval, mean, mean_interval, sample_std, standard_error
from cnnbench.statistics.multiple_tests import holm
from cnnbench.statistics.permutation import pairs_for, sign_flip_p
from cnnbench.statistics.resampled import corrected_p

MOST_SEEDS = 1000  # larger sample sizes are not reported: training that many is unrealistic
POWER = 0.8  # statistical power of the reported sample size


class Finding(StrEnum):
    """Outcome of comparing a run with the baseline."""

    BETTER = "better"
    WORSE = "worse"
    NOISE = "within the noise threshold"
    NONE = "no difference detected"
    FEW = "too few seeds"
    DIVERGED = "diverged"


class Effect(NamedTuple):
    """Smallest difference of practical interest.

    Args:
      value: in the metric's unit, or a fraction of the baseline's mean.
      kind: `absolute` or `relative`.
    """

    value: float = 0.0
    kind: Literal["absolute", "relative"] = "absolute"

    def in_units(self, baseline: float) -> float:
        """The effect in the metric's unit."""
        return self.value if self.kind == "absolute" else self.value * abs(baseline)


ANY = Effect()


@dataclass(frozen=True, slots=True)
class Criteria:
    """Settings of a comparison.

    Args:
      baseline: label, name, path, RUN-ID or prefix of a RUN-ID of the run that the others are
        compared with; the first if None.
      metric: the metric to compare, such as `loss` or `test_loss`; if None, the headline metric
        (on the test images for reconstruction).
      alpha: significance level (false-positive rate).
      min_effect: noise threshold; smaller differences are ignored.
      target: a value of the metric as the user wrote it; the time to reach it is reported.
    """

    baseline: str | None = None
    metric: str | None = None
    alpha: float = 0.05
    min_effect: Effect = ANY
    target: str | None = None


class Arm(NamedTuple):
    """Per-seed measurements of one run.

    Args:
      names: its label, the experiment's name, its path, and aliases such as tags.
      values: the metric after the last epoch, by seed.
      epoch_s: seconds per epoch, by seed.
      overlap: number of validation images per training image, if the seeds train on overlapping
        parts of the images; 0 if they all train on the same.
      folds: number of folds of a cross-validation; 0 for none.
    """

    names: tuple[str, ...]
    values: Mapping[int, float]
    epoch_s: Mapping[int, float]
    overlap: float = 0.0
    folds: int = 0

    @property
    def run_id(self) -> str:
        """The last component of its path."""
        return self.names[2].rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Comparison of a run with the baseline by one metric after the last epoch.

    Args:
      label: label of the run.
      baseline: label of the baseline.
      finding: outcome of the comparison.
      metric: the metric compared.
      seeds: the seeds that both runs have.
      base_mean: mean of the baseline's metric over all of its seeds.
      differences: run minus baseline for each seed, in the metric's unit.
      difference: mean of `differences`.
      interval: confidence interval of that mean at level 1 - alpha; None with fewer than two seeds.
      p: Holm-adjusted p-value of the paired sign-flip test, or of the corrected resampled t-test
        with `overlap`; None with fewer than two seeds.
      alpha: significance level.
      fewest: smallest number of seeds with which p can reach alpha.
      min_effect: noise threshold in the metric's unit.
      needed: seeds that would detect a difference of this size with power `POWER`; `fewest` with
        too few seeds; None if the comparison is conclusive or needs over `MOST_SEEDS`.
      time_ratio: seconds per epoch relative to the baseline, geometric mean over the seeds.
      time_interval: confidence interval of that ratio; None with fewer than two seeds.
      overlap: number of validation images per training image, by which the interval and p are
        corrected if the seeds train on overlapping parts of the images; otherwise 0.
      folds: number of folds of a cross-validation; 0 for none.
    """

    label: str
    baseline: str
    finding: Finding
    metric: str
    seeds: tuple[int, ...]
    base_mean: float
    differences: tuple[float, ...]
    difference: float
    interval: Interval | None
    p: float | None
    alpha: float
    fewest: int
    min_effect: float
    needed: int | None
    time_ratio: float
    time_interval: Interval | None
    overlap: float = 0.0
    folds: int = 0


def judge(
    arms: Sequence[Arm], metric: str, criteria: Criteria, *, higher: bool
) -> tuple[Verdict, ...]:
    """A verdict for each run except the baseline, in order.

    Args:
      arms: the runs.
      metric: name of the metric.
      criteria: settings of the comparison.
      higher: True if higher values of the metric are better.

    Raises:
      UsageError: no run matches the baseline, or the noise threshold exceeds any difference.
    """
    _require_possible(criteria.min_effect, metric)
    base = arms[find_baseline(arms, criteria.baseline)]
    others = [arm for arm in arms if arm is not base]
    pairs = [_differences(base, arm) for arm in others]
    testable = [i for i, d in enumerate(pairs) if len(d) > 1 and all(map(math.isfinite, d))]
    adjusted = dict(zip(testable, holm([_p(pairs[i], base) for i in testable]), strict=True))
    base_mean = mean(list(base.values.values()))
    least = criteria.min_effect.in_units(base_mean)
    question = _Question(
        metric,
        higher,
        criteria.alpha,
        base_mean,
        least,
        max(1, len(testable)),
        base.overlap,
        base.folds,
    )
    return tuple(
        _verdict(base, arm, pairs[i], adjusted.get(i), question) for i, arm in enumerate(others)
    )


def _p(differences: Sequence[float], arm: Arm) -> float:
    """The p-value for independent seeds, or for those that share training images."""
    return corrected_p(differences, arm.overlap) if arm.overlap else sign_flip_p(differences)


def _require_possible(effect: Effect, metric: str) -> None:
    """Reject percentage points that were written without their unit."""
    if effect.kind == "absolute" and effect.value >= 1 and is_fraction(metric):
        points, share = f"{100 * effect.value:g} points", f"{effect.value:g}"
        message = f"--min-effect: {words(metric)} is between 0 and 1, so {share} means {points}"
        raise UsageError(f"{message}; write {share}pp for {share} points.")


def find_baseline(arms: Sequence[Arm], wanted: str | None) -> int:
    """Index of the baseline among `arms`.

    Raises:
      UsageError: no run matches, or the prefix matches several RUN-IDs.
    """
    if wanted is None:
        return 0
    places = [place for place, arm in enumerate(arms) if wanted in arm.names]
    if not places and wanted:
        places = [p for p, arm in enumerate(arms) if arm.run_id.startswith(wanted)]
        found = sorted({arms[place].run_id for place in places})
        if len(found) > 1:
            message = f"--baseline: '{wanted}' is a prefix of {len(found)} RUN-IDs"
            raise UsageError(f"{message}; write a longer one, such as {found[-1]}.")
    if places:
        return places[0]
    names = list(dict.fromkeys(arm.names[1] for arm in arms))
    message = f"--baseline: no run named '{wanted}' in this comparison{did_you_mean(wanted, names)}"
    raise UsageError(f"{message}; write {or_list(names)}.")


class _Question(NamedTuple):
    """Parameters of one pairwise comparison; `tests` is the number of simultaneous tests.

    `overlap` and `folds` are those of the runs.
    """

    metric: str
    higher: bool
    alpha: float
    base_mean: float
    least: float
    tests: int
    overlap: float
    folds: int

    @property
    def fewest(self) -> int:
        """Smallest number of seeds that can reach significance; with folds, one for each."""
        return (self.folds or 2) if self.overlap else pairs_for(self.alpha / self.tests)


def _differences(base: Arm, arm: Arm) -> tuple[float, ...]:
    """Run minus baseline for each seed that both have."""
    return tuple(arm.values[s] - base.values[s] for s in _common(base, arm))


def _common(base: Arm, arm: Arm) -> tuple[int, ...]:
    return tuple(seed for seed in base.values if seed in arm.values)


def _verdict(
    base: Arm,
    arm: Arm,
    differences: tuple[float, ...],
    p: float | None,
    question: _Question,
) -> Verdict:
    level, overlap = 1 - question.alpha, question.overlap
    interval = mean_interval(differences, level, overlap) if differences else None
    finding = _finding(differences, interval, p, question)
    ratio, ratio_interval = _time_ratio(base.epoch_s, arm.epoch_s, question.alpha)
    return Verdict(
        label=arm.names[0],
        baseline=base.names[0],
        finding=finding,
        metric=question.metric,
        seeds=_common(base, arm),
        base_mean=question.base_mean,
        differences=differences,
        difference=mean(differences) if differences else math.nan,
        interval=interval,
        p=p,
        alpha=question.alpha,
        fewest=question.fewest,
        min_effect=question.least,
        needed=_seeds_to_run(finding, differences, question),
        time_ratio=ratio,
        time_interval=ratio_interval,
        overlap=question.overlap,
        folds=question.folds,
    )


def _finding(
    differences: Sequence[float], interval: Interval | None, p: float | None, question: _Question
) -> Finding:
    """Statistical significance first, then the noise threshold (as in criterion.rs)."""
    if not all(map(math.isfinite, differences)):
        return Finding.DIVERGED
    if interval is None or p is None or len(differences) < question.fewest:
        return Finding.FEW
    sign = 1 if question.higher else -1
    low, high = sorted((sign * interval.low, sign * interval.high))
    if -question.least < low and high < question.least:
        return Finding.NOISE
    if p > question.alpha or low <= 0 <= high:
        return Finding.NONE
    if low > question.least:
        return Finding.BETTER
    return Finding.WORSE if high < -question.least else Finding.NOISE


def _seeds_to_run(
    finding: Finding, differences: Sequence[float], question: _Question
) -> int | None:
    """Seeds needed for a conclusion; a power analysis needs more than a few seeds itself."""
    if finding is Finding.FEW:
        return question.fewest
    return _needed(differences, question) if finding is Finding.NONE else None


def _needed(differences: Sequence[float], question: _Question) -> int | None:
    """The fewest seeds that detect a difference of this size and spread with `POWER`.

    Approximated by Student's t distribution at Holm's strictest level, alpha / tests.
    """
    from scipy.special import stdtrit

    spread = sample_std(differences) if differences else None
    if spread is None:
        return question.fewest
    size, quantile = abs(mean(differences)), 1 - question.alpha / question.tests / 2
    step = question.folds or 1
    first = max(question.fewest, len(differences) + 1)
    numbers = range(-(-first // step) * step, MOST_SEEDS + 1, step)

    def detectable(n: int) -> float:
        quantiles = stdtrit(n - 1, quantile) + stdtrit(n - 1, POWER)
        return float(quantiles) * standard_error(spread, n, question.overlap)

    place = bisect_left(numbers, True, key=lambda n: detectable(n) < size)
    return numbers[place] if place < len(numbers) else None


def _time_ratio(
    base: Mapping[int, float], other: Mapping[int, float], alpha: float
) -> tuple[float, Interval | None]:
    """Geometric mean of the epoch-time ratios, paired by seed, with its confidence interval."""
    pairs = [(base[s], other[s]) for s in base if s in other and min(base[s], other[s]) > 0]
    if not pairs:
        return math.nan, None
    logs = [math.log(b / a) for a, b in pairs]
    interval = mean_interval(logs, 1 - alpha)
    ends = interval and Interval(math.exp(interval.low), math.exp(interval.high))
    return math.exp(mean(logs)), ends
