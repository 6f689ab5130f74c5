"""Welch's interval for the difference of two means with unequal variances."""

import math
from collections.abc import Sequence

from cnnbench.statistics.estimates import Interval, mean, sample_std


def welch_interval(
    first: Sequence[float], second: Sequence[float], level: float = 0.95
) -> Interval | None:
    """Student's t confidence interval for a difference of means, with Welch's degrees of freedom.

    Args:
      first: values of one group.
      second: values of the other.
      level: confidence level, in (0, 1).

    Returns:
      The interval of the second mean minus the first; None if a group has a single value; an
      interval of NaN if any value is not finite.

    References:
      Welch, "The generalization of Student's problem when several different population variances
      are involved", Biometrika 34, 1947.

    >>> found = welch_interval([1.0, 2.0, 3.0], [4.0, 5.0, 7.0])
    >>> found and (round(found.low, 3), round(found.high, 3))
    (0.212, 6.454)
    """
    stds = sample_std(first), sample_std(second)
    if stds[0] is None or stds[1] is None:
        return None
    from scipy.special import stdtrit

    parts = stds[0] ** 2 / len(first), stds[1] ** 2 / len(second)
    center, error = mean(second) - mean(first), math.sqrt(sum(parts))
    if not error:
        return Interval(center, center)
    quantile = float(stdtrit(welch_freedom(parts, (len(first), len(second))), (1 + level) / 2))
    return Interval(center - quantile * error, center + quantile * error)


def welch_freedom(variances: Sequence[float], numbers: tuple[int, int]) -> float:
    """Degrees of freedom of the difference of two means.

    Args:
      variances: those of the two means.
      numbers: of values in each mean, at least two.

    >>> welch_freedom([0.5, 0.5], (4, 4)), round(welch_freedom([0.1, 0.9], (4, 4)), 2)
    (6.0, 3.66)
    """
    if not (total := sum(variances)):
        return sum(numbers) - 2.0
    shares = (variance / total for variance in variances)
    return 1 / sum(share**2 / (n - 1) for share, n in zip(shares, numbers, strict=True))
