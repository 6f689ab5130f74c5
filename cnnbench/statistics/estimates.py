"""Means, spreads and Student's intervals over seeds.

Non-finite values are never dropped: the mean over a diverged seed is NaN.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import mul

_BISECTIONS = 100  # doubles have 53 binary digits


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


def number_for_interval(
    values: Sequence[float], level: float, half: float, most: int
) -> int | None:
    """Smallest number of values of the same spread with an interval of the mean that is narrow.

    Args:
      values: at least two.
      level: confidence level of Student's t interval, in (0, 1).
      half: the largest distance of its ends from the mean.
      most: the largest number.

    Returns:
      None if it is larger than `most`.

    >>> number_for_interval([0.0, 1.0], 0.95, 1.5, 100)
    4
    """
    std = sample_std(values)
    assert std is not None
    from scipy.special import stdtrit

    halves = ((n, stdtrit(n - 1, (1 + level) / 2) * std / math.sqrt(n)) for n in range(2, most + 1))
    return next((n for n, own in halves if own <= half), None)


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


def pearson(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's correlation of pairs; None if all values of one are equal.

    >>> round(pearson([1.0, 2.0, 3.0], [1.0, 3.0, 2.0]), 9)
    0.5
    >>> pearson([1.0, 1.0], [1.0, 2.0]) is None
    True
    """
    gaps = [[value - mean(values) for value in values] for values in (first, second)]
    sizes = [math.hypot(*own) for own in gaps]
    if min(sizes) <= 1e-12 * max(map(abs, (*first, *second))):
        return None
    scaled = [[gap / size for gap in own] for own, size in zip(gaps, sizes, strict=True)]
    return min(1.0, max(-1.0, math.fsum(map(mul, *scaled))))


def root_between(function: Callable[[float], float], one: float, other: float) -> float:
    """The root of a continuous function between two numbers, by bisection.

    SciPy's solvers take 0.2 s to import.

    Args:
      function: the function; its signs at the ends differ.
      one: an end.
      other: the other end.

    >>> root_between(lambda x: x * x - 2, 2, 0)
    1.4142135623730951
    """
    start = function(one) > 0
    for _ in range(_BISECTIONS):
        middle = (one + other) / 2
        if middle in {one, other}:
            break
        if (function(middle) > 0) == start:
            one = middle
        else:
            other = middle
    return one
