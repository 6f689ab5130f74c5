"""Verdicts: runs compared with a baseline over their seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple

from cnnbench.comparisons.samples import MOST_SEEDS, Pairing, Procedure, Samples
from cnnbench.errors import UsageError, did_you_mean, or_list
from cnnbench.spec.metrics import is_fraction, words
from cnnbench.statistics.estimates import Interval, mean, mean_interval, number_for_interval
from cnnbench.statistics.improvement import Improvement, improvement
from cnnbench.statistics.matched_pairs import MatchedPairs
from cnnbench.statistics.multiple_tests import holm, holm_levels
from cnnbench.statistics.permutation import TIES, MeanTest

WIDEST = 10  # upper over lower bound of a ratio's interval; a wider one says next to nothing


class Finding(StrEnum):
    """Outcome of comparing a run with the baseline."""

    BETTER = "better"
    WORSE = "worse"
    NOISE = "within the noise threshold"
    NONE = "no difference detected"
    FEW = "too few seeds"
    DIVERGED = "diverged"

    @property
    def differs(self) -> bool:
        """True if a difference was found."""
        return self in {Finding.BETTER, Finding.WORSE}


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
      test: `unpaired` or `paired` by seed; if None, unpaired, except that seeds whose training
        images overlap have a test of their own.
      anytime: True for verdicts that are valid however often seeds are added.
    """

    baseline: str | None = None
    metric: str | None = None
    alpha: float = 0.05
    min_effect: Effect = ANY
    target: str | None = None
    test: Pairing | None = None
    anytime: bool = False


class Arm(NamedTuple):
    """Per-seed measurements of one run.

    Args:
      names: its label, the experiment's name, its path, and aliases such as tags.
      values: the metric after the last epoch, by seed.
      epoch_s: seconds per epoch, by seed.
      overlap: number of validation images per training image, if the seeds train on overlapping
        parts of the images; 0 if they all train on the same.
      folds: number of folds of a cross-validation; 0 for none.
      hardware: model of what the times were measured on; those of different ones have no ratio.
      engine: form of its engine; empty if unknown.
    """

    names: tuple[str, ...]
    values: Mapping[int, float]
    epoch_s: Mapping[int, float]
    overlap: float = 0.0
    folds: int = 0
    hardware: str = ""
    engine: str = ""

    @property
    def run_id(self) -> str:
        """The last component of its path."""
        return self.names[2].rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class ClassShare:
    """Share of a class among the images that only one of two runs gets right."""

    name: str
    share: float


@dataclass(frozen=True, slots=True)
class ImageEvidence:
    """What the results for each image add to a verdict.

    Args:
      images: number of images.
      interval: confidence interval of the difference over seeds and images, at the level of the
        verdict, which contains that over seeds alone; None with fewer than two seeds.
      std_error: standard error of the difference over seeds and images; None if `interval` is.
      df: its degrees of freedom; None if `interval` is.
      negative: the variance component, `seeds` or `images`, that was estimated to be negative and
        taken as zero; empty if none was.
      only_base: images that only the baseline gets right, mean over all pairs of seeds; None if
        the metric is not 0 or 1 for each image.
      only_run: images that only the run gets right, mean over all pairs of seeds.
      classes: the classes that make up most of these images, the largest first; empty if more than
        three do.
      pairs: McNemar's exact test of two trained networks; None unless both have one seed.
    """

    images: int
    interval: Interval | None = None
    std_error: float | None = None
    df: float | None = None
    negative: str = ""
    only_base: float | None = None
    only_run: float | None = None
    classes: tuple[ClassShare, ...] = ()
    pairs: MatchedPairs | None = None


@dataclass(frozen=True, slots=True)
class StoppingRule:
    """The rule by which runs were stopped, which their verdict takes into account.

    Args:
      looks: numbers of seeds at which there was to be a verdict; empty if it is valid after every
        seed.
      number: number of seeds of the verdict.
      threshold: the p-value that decides with this number.
      comparisons: number of comparisons that share alpha.
    """

    looks: tuple[int, ...]
    number: int
    threshold: float
    comparisons: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Comparison of a run with the baseline by one metric after the last epoch.

    Args:
      label: label of the run.
      baseline: label of the baseline.
      finding: outcome of the comparison.
      metric: the metric compared.
      test: `unpaired` for the permutation test of all values, `paired` for the sign-flip test of
        the differences of equal seeds, `resampled` for the corrected resampled t-test of these
        with `overlap`.
      seeds: the seeds that both runs have.
      numbers: numbers of seeds that are compared, of the baseline and of the run: those that both
        have, or all of each if the test is unpaired.
      lost: the seeds that diverged in either, of those compared.
      base_mean: mean of the baseline's metric over all of its seeds.
      differences: run minus baseline for each seed that both have, in the metric's unit.
      difference: mean of the run minus mean of the baseline, over the seeds compared.
      interval: the differences that the test does not reject at `level`; with too few seeds for
        the test, Student's t interval (Welch's if unpaired) or None.
      level: confidence level of the interval: 1 - alpha, and with several verdicts that of Holm's
        procedure for this one.
      p: Holm-adjusted p-value of the test; None with too few seeds.
      alpha: significance level.
      fewest: smallest number of seeds of both with which p can reach alpha.
      min_effect: noise threshold in the metric's unit.
      needed: seeds that would detect a difference of this size with power `POWER`; `fewest` with
        too few seeds; None if the comparison is conclusive or needs over `MOST_SEEDS`.
      correlation: Pearson's correlation of the values of equal seeds; None for fewer than three.
      time_ratio: seconds per epoch relative to the baseline, geometric mean over equal seeds.
      time_interval: Student's t interval of that ratio on a logarithmic scale, at level 1 - alpha;
        None with fewer than two seeds.
      overlap: number of validation images per training image, by which the interval and p are
        corrected if the seeds train on overlapping parts of the images; otherwise 0.
      folds: number of folds of a cross-validation; 0 for none.
      images: what the results for each image add; None if they are unknown.
      stopped: the rule by which the runs were stopped; None if their seeds were chosen beforehand.
      improvement: probability that a random seed of the run beats one of the baseline; None if a
        seed diverged.
      engines: engines of the baseline and of the run if they differ, which makes the ratio of times
        an artifact; otherwise empty.
      time_needed: seeds with times of this spread with which the upper end of `time_interval` would
        be at most `WIDEST` times the lower one; None if it is, or with more than `MOST_SEEDS`.
    """

    label: str
    baseline: str
    finding: Finding
    metric: str
    test: Procedure
    seeds: tuple[int, ...]
    numbers: tuple[int, int]
    lost: tuple[int, ...]
    base_mean: float
    differences: tuple[float, ...]
    difference: float
    interval: Interval | None
    level: float
    p: float | None
    alpha: float
    fewest: int
    min_effect: float
    needed: int | None
    correlation: float | None
    time_ratio: float
    time_interval: Interval | None
    overlap: float = 0.0
    folds: int = 0
    images: ImageEvidence | None = None
    stopped: StoppingRule | None = None
    improvement: Improvement | None = None
    engines: tuple[str, ...] = ()
    time_needed: int | None = None


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
      UsageError: no run matches the baseline, the noise threshold exceeds any difference, or the
        seeds share training images, so that the test cannot be chosen.
    """
    return judge_groups([arms], metric, criteria, higher=higher)[0]


def judge_groups(
    groups: Sequence[Sequence[Arm]], metric: str, criteria: Criteria, *, higher: bool
) -> tuple[tuple[Verdict, ...], ...]:
    """Verdicts for several groups of runs, each with its own baseline, adjusted for one another.

    Args:
      groups: the runs of each group.
      metric: name of the metric.
      criteria: settings of the comparison.
      higher: True if higher values of the metric are better.

    Raises:
      UsageError: as `judge`.
    """
    require_possible(criteria.min_effect, metric)
    pairs = [_pairs(arms, criteria) for arms in groups]
    samples = [sample for group in pairs for _, _, sample in group]
    tests = sum(min(each.numbers) > 1 and not each.lost for each in samples)
    strictest = criteria.alpha / max(1, tests)
    # Runs with a single seed are tested, too, as soon as they have the seeds that we advise.
    planned = criteria.alpha / max(1, sum(not each.lost for each in samples))
    compared = [_compared(each, strictest) for each in samples]
    evidence = iter(_evidence(compared, tests, criteria.alpha))
    judged = []
    for group in pairs:
        verdicts = []
        for base, arm, sample in group:
            base_mean = mean(list(base.values.values()))
            least = criteria.min_effect.in_units(base_mean)
            question = _Question(metric, higher, criteria.alpha, planned, base_mean, least)
            verdicts.append(_verdict(base, question, arm, sample, next(evidence)))
        judged.append(tuple(verdicts))
    return tuple(judged)


def _pairs(arms: Sequence[Arm], criteria: Criteria) -> list[tuple[Arm, Arm, Samples]]:
    """The baseline with each other run, and the values that are compared."""
    base = arms[find_baseline(arms, criteria.baseline)]
    test = _procedure(base, criteria.test)
    return [
        (base, arm, Samples(base.values, arm.values, test, base.overlap, base.folds))
        for arm in arms
        if arm is not base
    ]


def _procedure(base: Arm, wanted: Pairing | None) -> Procedure:
    """The test, as named or by default."""
    if not base.overlap:
        return wanted or "unpaired"
    require_no_test(wanted, base.folds)
    return "resampled"


def require_no_test(wanted: Pairing | None, folds: int) -> None:
    """Reject a named test where seeds share training images.

    Args:
      wanted: the test that was named.
      folds: number of folds of a cross-validation; 0 for random splits by seed.

    Raises:
      UsageError: a test was named.
    """
    if wanted is not None:
        message = (
            f"--test: with '{split_text(folds)}', seeds share training images, so verdicts use"
        )
        raise UsageError(f"{message} the corrected resampled t-test; omit --test.")


def split_text(folds: int) -> str:
    """The key of an experiment whose seeds share training images.

    Args:
      folds: number of folds of a cross-validation; 0 for random splits by seed.

    >>> split_text(5), split_text(0)
    ('split: {folds: 5}', 'split: {by_seed: true}')
    """
    return f"split: {{{f'folds: {folds}' if folds else 'by_seed: true'}}}"


class _Evidence(NamedTuple):
    """Adjusted p-value of one of several tests, and the level and ends of its interval."""

    p: float
    level: float
    interval: Interval


def _compared(samples: Samples, alpha: float) -> MeanTest | None:
    """The test of two runs; None if it could not reach alpha, or a seed is lost."""
    if samples.lost or min(samples.numbers) < max(2, samples.fewest(alpha)):
        return None
    return samples.compared()


def _evidence(
    compared: Sequence[MeanTest | None], tests: int, alpha: float
) -> list[_Evidence | None]:
    """Results of simultaneous tests; those with too few seeds count as not significant."""
    known = [test for test in compared if test is not None]
    p_values = [*(test.p for test in known), *[1.0] * (tests - len(known))]
    results = zip(holm(p_values), holm_levels(p_values, alpha), strict=True)
    found = iter(
        _Evidence(p, 1 - level, test.interval(1 - level))
        for test, (p, level) in zip(known, results, strict=False)
    )
    return [None if test is None else next(found) for test in compared]


def require_possible(effect: Effect, metric: str) -> None:
    """Reject percentage points that were written without their unit.

    Args:
      effect: the noise threshold.
      metric: the metric of the verdict.

    Raises:
      UsageError: no difference can be so large.
    """
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
    """Parameters of one comparison; `strictest` is alpha divided by the number of comparisons."""

    metric: str
    higher: bool
    alpha: float
    strictest: float
    base_mean: float
    least: float


def _verdict(
    base: Arm, question: _Question, arm: Arm, samples: Samples, evidence: _Evidence | None
) -> Verdict:
    finding = _finding(samples, evidence, question)
    level = evidence.level if evidence else 1 - question.alpha
    times = arm.epoch_s if arm.hardware == base.hardware else {}
    time = _time_ratio(base.epoch_s, times, question.alpha)
    engines = base.engine, arm.engine
    return Verdict(
        label=arm.names[0],
        baseline=base.names[0],
        finding=finding,
        metric=question.metric,
        test=samples.test,
        seeds=samples.common,
        numbers=samples.numbers,
        lost=samples.lost,
        base_mean=question.base_mean,
        differences=samples.differences,
        difference=samples.difference,
        interval=evidence.interval if evidence else samples.t_interval(level),
        level=level,
        p=evidence.p if evidence else None,
        alpha=question.alpha,
        fewest=samples.fewest(question.strictest),
        min_effect=question.least,
        needed=_seeds_to_run(finding, samples, question.strictest),
        correlation=samples.correlation,
        time_ratio=time.ratio,
        time_interval=time.interval,
        time_needed=time.needed,
        overlap=samples.overlap,
        folds=samples.folds,
        improvement=improvement(
            *samples.tested,
            1 - question.alpha,
            higher=question.higher,
            independent=not samples.overlap,
        ),
        engines=engines if all(engines) and len(set(engines)) > 1 else (),
    )


def _finding(samples: Samples, evidence: _Evidence | None, question: _Question) -> Finding:
    """Statistical significance first, then the noise threshold (as in criterion.rs)."""
    if samples.lost:
        return Finding.DIVERGED
    if evidence is None:
        return Finding.FEW
    significant = evidence.p <= question.alpha * (1 + TIES)
    return finding_of(
        evidence.interval, question.least, significant=significant, higher=question.higher
    )


def finding_of(ends: Interval, least: float, *, significant: bool, higher: bool) -> Finding:
    """The finding of a test that can decide.

    Args:
      ends: confidence interval of the difference.
      least: noise threshold in the metric's unit.
      significant: True if p is at most alpha.
      higher: True if higher values of the metric are better.
    """
    sign = 1 if higher else -1
    low, high = sorted((sign * ends.low, sign * ends.high))
    if -least < low and high < least:
        return Finding.NOISE
    if not significant or low <= 0 <= high:
        return Finding.NONE
    if low > least:
        return Finding.BETTER
    return Finding.WORSE if high < -least else Finding.NOISE


def _seeds_to_run(finding: Finding, samples: Samples, alpha: float) -> int | None:
    """Seeds needed for a conclusion; a power analysis needs more than a few seeds itself."""
    fewest = samples.fewest(alpha)
    if finding is Finding.FEW:
        return fewest
    return samples.needed(alpha, fewest) if finding is Finding.NONE else None


class _TimeRatio(NamedTuple):
    """The ratio of epoch times, its interval, and the seeds for one that is not too wide."""

    ratio: float
    interval: Interval | None = None
    needed: int | None = None


def _time_ratio(base: Mapping[int, float], other: Mapping[int, float], alpha: float) -> _TimeRatio:
    """Geometric mean of the epoch-time ratios, paired by seed, with its confidence interval."""
    pairs = [(base[s], other[s]) for s in base if s in other and min(base[s], other[s]) > 0]
    if not pairs:
        return _TimeRatio(math.nan)
    logs = [math.log(b / a) for a, b in pairs]
    interval = mean_interval(logs, 1 - alpha)
    if interval is None:
        return _TimeRatio(math.exp(mean(logs)))
    ends, half = Interval(math.exp(interval.low), math.exp(interval.high)), math.log(WIDEST) / 2
    wide = not is_narrow(ends)
    needed = number_for_interval(logs, 1 - alpha, half, MOST_SEEDS) if wide else None
    return _TimeRatio(math.exp(mean(logs)), ends, needed)


def is_narrow(ratio: Interval) -> bool:
    """False for an interval of a ratio that is too wide to say anything."""
    return ratio.high <= WIDEST * ratio.low
