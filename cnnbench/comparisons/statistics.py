"""Statistics over seeds: means, intervals, tests and Holm's correction.

Non-finite values are never dropped: the mean over a diverged seed is NaN.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """Mean and standard deviation of one quantity over seeds.

    Args:
      values: raw values, one per seed, at least one.
      mean: arithmetic mean.
      std: sample standard deviation; None for a single value.
      overlap: as for `corrected_p`; 0 for independent values.
    """

    values: tuple[float, ...]
    mean: float
    std: float | None
    overlap: float = 0.0


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, in the unit of its values."""

    low: float
    high: float


def estimate(values: Iterable[float], overlap: float = 0.0) -> Estimate:
    """Mean and spread of one quantity over seeds.

    >>> estimate([0.98, 0.99])
    Estimate(values=(0.98, 0.99), mean=0.985, std=0.007071067811865481, overlap=0.0)
    >>> estimate([0.98]).std is None
    True
    """
    values = tuple(values)
    return Estimate(values, mean(values), sample_std(values), overlap)


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean, between the smallest and largest value; NaN if any is not finite."""
    if not all(map(math.isfinite, values)):
        return math.nan
    largest = max(map(abs, values))
    if largest > 1e300:  # a sum of several could overflow
        return largest * mean([value / largest for value in values])
    # Division may round past the values: fsum([0.1] * 3) / 3 > 0.1.
    return min(max(math.fsum(values) / len(values), min(values)), max(values))


def sample_std(values: Sequence[float]) -> float | None:
    """Standard deviation with n - 1 in the denominator.

    Returns:
      None for a single value; NaN if any value is not finite.
    """
    if len(values) < 2:
        return None
    center = mean(values)
    if math.isnan(center):
        return math.nan
    return math.hypot(*(value - center for value in values)) / math.sqrt(len(values) - 1)


def mean_interval(
    values: Sequence[float], level: float = 0.95, overlap: float = 0.0
) -> Interval | None:
    """Student's t confidence interval for the mean of a normal distribution.

    Args:
      values: one per seed.
      level: confidence level, in (0, 1).
      overlap: as for `corrected_p`; 0 for independent values.

    Returns:
      None for a single value; an interval of NaN if any value is not finite.

    References:
      Student, "The probable error of a mean", Biometrika 6, 1908.
    """
    std = sample_std(values)
    if std is None:
        return None
    from scipy.special import stdtrit

    quantile = float(stdtrit(len(values) - 1, (1 + level) / 2))
    half = quantile * standard_error(std, len(values), overlap)
    center = mean(values)
    return Interval(center - half, center + half)


def standard_error(std: float, number: int, overlap: float = 0.0) -> float:
    """Standard error of the mean of values that are correlated by overlapping training sets.

    The correlation is estimated by the fraction of images held out, n2 / (n1 + n2), so that the
    variance of the mean is 1 / number + n2 / n1 times that of the values.

    Args:
      std: standard deviation of the values.
      number: number of values.
      overlap: number of validation images per training image, n2 / n1; 0 for independent values.

    >>> standard_error(1.0, 10), standard_error(1.0, 10, overlap=1 / 9)
    (0.31622776601683794, 0.45946829173634074)
    """
    return std * math.sqrt(1 / number + overlap)


def corrected_p(differences: Sequence[float], overlap: float) -> float:
    """Two-sided p-value of the corrected resampled t-test of the mean.

    Cross-validation and repeated random splits train on overlapping images. Their differences are
    correlated, which the usual tests ignore: these find differences far too often.

    Args:
      differences: one per pair, finite, at least two.
      overlap: number of validation images per training image, n2 / n1.

    References:
      Nadeau and Bengio, "Inference for the generalization error", Machine Learning 52, 2003;
      Bouckaert and Frank, "Evaluating the replicability of significance tests for comparing
      learning algorithms", PAKDD 2004, for repeated cross-validation.

    >>> round(corrected_p([0.2, 0.1, 0.3, 0.1, 0.3], overlap=1 / 4), 3)
    0.041
    """
    from scipy.special import stdtr

    std, size = sample_std(differences), abs(mean(differences))
    if not std:
        return 0.0 if size else 1.0
    t = size / standard_error(std, len(differences), overlap)
    return float(2 * stdtr(len(differences) - 1, -t))


EXACT = 20  # most pairs whose sign assignments are enumerated; beyond, as many are sampled
_SAMPLES = 2 ** (EXACT - 1)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of a paired sign-flip (permutation) test of the mean.

    Under the null hypothesis the differences are symmetric about zero, so all sign assignments
    are equally likely. Up to 20 pairs the test is exact; beyond, 524,288 assignments are sampled
    with a fixed seed.

    Args:
      differences: one per pair, finite, at least one.

    Returns:
      Fraction of sign assignments whose sum is at least as far from zero as the observed sum;
      never below `smallest_p`.

    References:
      Fisher, "The Design of Experiments", section 21, 1935.

    >>> sign_flip_p([0.2, 0.1, 0.3, 0.1, 0.2, 0.4])  # one direction: 2 of 64
    0.03125
    """
    import numpy as np

    values = np.abs(differences)
    if len(values) <= EXACT:
        sums = values[:1]  # the first sign is fixed: the other half is its mirror image
        for value in values[1:]:
            sums = np.concatenate([sums + value, sums - value])
        counted = 0
    else:
        flips = np.random.default_rng(0).integers(0, 2, (_SAMPLES, len(values)), dtype=bool)
        sums = np.where(flips, values, -values).sum(axis=1)
        counted = 1  # the observed assignment counts too (Phipson and Smyth, 2010)
    observed = abs(math.fsum(differences))
    slack = 1e-12 * float(values.sum())  # tied sums may differ by rounding
    reached = int((np.abs(sums) >= observed - slack).sum())
    return (reached + counted) / (len(sums) + counted)


def smallest_p(num_pairs: int) -> float:
    """Smallest p-value that a two-sided sign-flip test can reach.

    >>> smallest_p(5), smallest_p(6), smallest_p(8)
    (0.0625, 0.03125, 0.0078125)
    """
    return 2.0 ** (1 - num_pairs)


def pairs_for(alpha: float) -> int:
    """Fewest pairs with which a sign-flip test can reach `alpha`.

    >>> pairs_for(0.05), pairs_for(0.01)
    (6, 8)
    """
    return math.ceil(1 - math.log2(alpha))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm-adjusted p-values, in the given order.

    They control the family-wise error rate: the probability of rejecting any true null
    hypothesis is at most alpha.

    References:
      Holm, "A simple sequentially rejective multiple test procedure",
      Scandinavian Journal of Statistics 6, 1979.

    >>> holm([0.01, 0.04, 0.03])
    (0.03, 0.06, 0.06)
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return tuple(adjusted)
