"""Statistics over seeds: what a table shows of several runs of one experiment.

Non-finite values are never dropped: a mean over a diverged seed is NaN.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """One quantity over seeds.

    Args:
      values: the raw values, one per seed, at least one.
      mean: their arithmetic mean.
      std: their sample standard deviation; None for a single value.
    """

    values: tuple[float, ...]
    mean: float
    std: float | None


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, in the unit of its values."""

    low: float
    high: float


def estimate(values: Iterable[float]) -> Estimate:
    """Mean and spread of one quantity over seeds.

    >>> estimate([0.98, 0.99])
    Estimate(values=(0.98, 0.99), mean=0.985, std=0.007071067811865481)
    >>> estimate([0.98]).std is None
    True
    """
    values = tuple(values)
    return Estimate(values, mean(values), sample_std(values))


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; NaN when a value is not finite."""
    if not all(map(math.isfinite, values)):
        return math.nan
    largest = max(map(abs, values))
    if largest > 1e300:  # the sum of a few could overflow
        return largest * mean([value / largest for value in values])
    return math.fsum(values) / len(values)


def sample_std(values: Sequence[float]) -> float | None:
    """Standard deviation with n - 1 in the denominator.

    Returns:
      None for a single value, which has no spread; NaN when a value is not finite.
    """
    if len(values) < 2:
        return None
    centre = mean(values)
    if math.isnan(centre):
        return math.nan
    return math.hypot(*(value - centre for value in values)) / math.sqrt(len(values) - 1)


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """Student's t interval for the mean of values from a normal distribution.

    Args:
      values: one per seed.
      level: coverage, in (0, 1).

    Returns:
      None for a single value; an interval of NaN when a value is not finite.

    References:
      Student, "The probable error of a mean", Biometrika 6, 1908.
    """
    std = sample_std(values)
    if std is None:
        return None
    from scipy.special import stdtrit

    quantile = float(stdtrit(len(values) - 1, (1 + level) / 2))
    half = quantile * std / math.sqrt(len(values))
    centre = mean(values)
    return Interval(centre - half, centre + half)
