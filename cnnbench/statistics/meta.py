"""Means of one difference over several datasets, or over other settings of an experiment.

A dataset's effect is the mean difference over its seeds; its variance is that of this mean.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cnnbench.statistics.estimates import Interval, mean, mean_interval, sample_std


@dataclass(frozen=True, slots=True)
class MeanEffect:
    """A difference measured on one dataset.

    Args:
      mean: mean difference over the seeds.
      variance: squared standard error of that mean.
      freedom: degrees of freedom of the variance.
    """

    mean: float
    variance: float
    freedom: float


@dataclass(frozen=True, slots=True)
class Pooled:
    """Mean difference over datasets.

    Args:
      mean: the mean, in which each dataset counts the same.
      these: confidence interval of the mean over these very datasets; the seeds are random.
      others: confidence interval of the mean over datasets like these; datasets and seeds are
        random. None for a single dataset.
      between: standard deviation of the true differences over datasets, without the noise of the
        seeds; None for a single dataset.
    """

    mean: float
    these: Interval | None
    others: Interval | None
    between: float | None


def paired_effect(differences: Sequence[float]) -> MeanEffect:
    """MeanEffect of differences that are paired by seed, at least two.

    >>> paired_effect([0.1, 0.3])
    MeanEffect(mean=0.2, variance=0.01, freedom=1)
    """
    number = len(differences)
    return MeanEffect(mean(differences), (sample_std(differences) or 0.0) ** 2 / number, number - 1)


def unpaired_effect(base: Sequence[float], other: Sequence[float]) -> MeanEffect:
    """MeanEffect of independent seeds, at least two of each, whose spreads may differ.

    References:
      Welch, "The generalization of Student's problem when several different population variances
      are involved", Biometrika 34, 1947.

    >>> unpaired_effect([0.1, 0.2], [0.4, 0.5])
    MeanEffect(mean=0.3, variance=0.004999999999999999, freedom=2.0)
    """
    parts = [paired_effect(values) for values in (base, other)]
    variance = sum(part.variance for part in parts)
    return MeanEffect(parts[1].mean - parts[0].mean, variance, _freedom(parts))


def _freedom(parts: Sequence[MeanEffect]) -> float:
    """Satterthwaite's degrees of freedom of the sum of the variances."""
    squares = sum(part.variance**2 / part.freedom for part in parts)
    total = sum(part.variance for part in parts)
    return total**2 / squares if squares else float(sum(part.freedom for part in parts))


def pool(effects: Sequence[MeanEffect], level: float = 0.95) -> Pooled:
    """The mean difference over datasets, with intervals for two questions.

    `these` asks about the datasets at hand: its variance is that of the seeds, by Satterthwaite's
    approximation. `others` generalizes to datasets like these, in a random-effects model
    (difference of a dataset = mean + deviation of the dataset + noise of its seeds). It is
    Student's t interval of the datasets' differences, which is that of Hartung and Knapp with
    equal weights. Weights by variance would narrow it, but the variances of a few seeds are too
    uncertain for that: with estimated weights it covers less than its level.

    Args:
      effects: one per dataset.
      level: confidence level, in (0, 1).

    References:
      Hartung and Knapp, "On tests of the overall treatment effect in meta-analysis with normally
      distributed responses", Statistics in Medicine 20, 2001.
    """
    from scipy.special import stdtrit

    means = [effect.mean for effect in effects]
    center, number = mean(means), len(effects)
    error = math.sqrt(sum(effect.variance for effect in effects)) / number
    half = float(stdtrit(_freedom(effects), (1 + level) / 2)) * error
    between = math.sqrt(between_variance(effects)) if number > 1 else None
    return Pooled(
        center, Interval(center - half, center + half), mean_interval(means, level), between
    )


def between_variance(effects: Sequence[MeanEffect]) -> float:
    """Variance of the true effects by the method of DerSimonian and Laird; never below 0.

    References:
      DerSimonian and Laird, "Meta-analysis in clinical trials", Controlled Clinical Trials 7, 1986.
    """
    if any(effect.variance == 0 for effect in effects):  # no noise: the spread is that of the means
        return (sample_std([effect.mean for effect in effects]) or 0.0) ** 2
    weights = [1 / effect.variance for effect in effects]
    total = math.fsum(weights)
    excess = _weighted_squares(effects, weights) - (len(effects) - 1)
    return max(0.0, excess / (total - math.fsum(w * w for w in weights) / total))


def hartung_knapp(effects: Sequence[MeanEffect], level: float = 0.95) -> tuple[float, Interval]:
    """Mean weighted by variance, and its interval by Hartung and Knapp, at least two datasets.

    For comparison with `pool`, and as an oracle of other software.
    """
    from scipy.special import stdtrit

    tau2 = between_variance(effects)
    weights = [1 / (effect.variance + tau2) for effect in effects]
    center = _weighted_mean(effects, weights)
    scale = _weighted_squares(effects, weights) / (len(effects) - 1)
    half = float(stdtrit(len(effects) - 1, (1 + level) / 2)) * math.sqrt(scale / math.fsum(weights))
    return center, Interval(center - half, center + half)


def equal_effects_p(effects: Sequence[MeanEffect]) -> float:
    """p-value of Welch's test that the true differences are all equal; at least two.

    Whether one setting reaches significance and another does not is no test of whether the
    difference depends on the setting; this is.

    Args:
      effects: one per setting, with positive variances.

    References:
      Welch, "On the comparison of several mean values: an alternative approach", Biometrika 38,
      1951; Gelman and Stern, "The difference between significant and not significant is not itself
      statistically significant", The American Statistician 60, 2006.

    >>> equal_effects_p([MeanEffect(0.1, 0.01, 5), MeanEffect(0.1, 0.04, 5)])
    1.0
    """
    from scipy.special import fdtrc

    number = len(effects)
    weights = [1 / effect.variance for effect in effects]
    total = math.fsum(weights)
    unsure = math.fsum(
        (1 - w / total) ** 2 / e.freedom for w, e in zip(weights, effects, strict=True)
    )
    spread = _weighted_squares(effects, weights) / (number - 1)
    f = spread / (1 + 2 * (number - 2) / (number**2 - 1) * unsure)
    return float(fdtrc(number - 1, (number**2 - 1) / (3 * unsure), f))


def _weighted_mean(effects: Sequence[MeanEffect], weights: Sequence[float]) -> float:
    pairs = zip(weights, effects, strict=True)
    return math.fsum(w * effect.mean for w, effect in pairs) / math.fsum(weights)


def _weighted_squares(effects: Sequence[MeanEffect], weights: Sequence[float]) -> float:
    """Cochran's Q: the weighted sum of squared distances from the weighted mean."""
    center = _weighted_mean(effects, weights)
    pairs = zip(weights, effects, strict=True)
    return math.fsum(w * (effect.mean - center) ** 2 for w, effect in pairs)
