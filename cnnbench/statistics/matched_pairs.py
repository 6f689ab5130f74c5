"""Two trained networks on the same images: McNemar's exact test and Tango's interval.

They generalize to other images, not to other seeds.
"""

import math
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist

from cnnbench.statistics.estimates import Interval, root_between


@dataclass(frozen=True, slots=True)
class MatchedPairs:
    """Images that only one of two networks gets right.

    Args:
      images: number of images.
      only_base: images that only the baseline gets right.
      only_arm: images that only the other network gets right.
      p: p-value of McNemar's exact test.
      interval: confidence interval of the difference of the accuracies, which has zero if and only
        if p exceeds 1 - `level`.
      level: confidence level of the interval.
    """

    images: int
    only_base: int
    only_arm: int
    p: float
    interval: Interval
    level: float = 0.95

    @property
    def difference(self) -> float:
        """The difference of the accuracies."""
        return (self.only_arm - self.only_base) / self.images


def compare_pairs(images: int, only_base: int, only_arm: int, level: float = 0.95) -> MatchedPairs:
    """The test and the interval, which is extended to zero if the test does not reject it.

    Without that, the exact test and the approximate interval may disagree near `level`.

    Args:
      images: number of images.
      only_base: images that only the baseline gets right.
      only_arm: images that only the other network gets right.
      level: confidence level, in (0, 1).

    >>> found = compare_pairs(5000, 58, 31)
    >>> round(found.p, 4), round(found.interval.low, 5), round(found.interval.high, 5)
    (0.0055, -0.00927, -0.00174)
    """
    p, found = mcnemar_p(only_base, only_arm), tango_interval(images, only_arm, only_base, level)
    if p > 1 - level:
        found = Interval(min(found.low, 0.0), max(found.high, 0.0))
    return MatchedPairs(images, only_base, only_arm, p, found, level)


def mcnemar_p(one: int, other: int) -> float:
    """Two-sided p-value of McNemar's exact test.

    Under the null hypothesis, an image that one network alone gets right is as likely to be
    either network's. The smaller tail is doubled, as in R's `binom.test` for probability 1/2.

    Args:
      one: images that only the first network gets right.
      other: images that only the second gets right.

    References:
      McNemar, "Note on the sampling error of the difference between correlated proportions or
      percentages", Psychometrika 12, 1947.
      Dietterich, "Approximate statistical tests for comparing supervised classification learning
      algorithms", Neural Computation 10, 1998.

    >>> round(mcnemar_p(31, 58), 4), mcnemar_p(3, 3), mcnemar_p(0, 0)
    (0.0055, 1.0, 1.0)
    """
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(one, other), one + other, 0.5)))


def tango_interval(number: int, one: int, other: int, level: float = 0.95) -> Interval:
    """Score interval of the difference of two proportions in matched pairs.

    Args:
      number: number of pairs.
      one: pairs in which only the first succeeds.
      other: pairs in which only the second succeeds.
      level: confidence level, in (0, 1).

    Returns:
      The interval of the proportion of the first, minus that of the second.

    References:
      Tango, "Equivalence test and confidence interval for the difference in proportions for the
      paired-sample design", Statistics in Medicine 17, 1998.

    >>> found = tango_interval(100, 12, 4)
    >>> round(found.low, 4), round(found.high, 4)
    (0.0018, 0.1656)
    """
    quantile, center = NormalDist().inv_cdf((1 + level) / 2), (one - other) / number

    def beyond(difference: float, sign: int) -> float:
        error = number * (center - difference)
        return sign * error - quantile * _null_std(number, one, other, difference)

    # At the center itself, both terms of `beyond` are zero if all pairs agree.
    ends = [
        center
        if sign * center == -1
        else root_between(partial(beyond, sign=sign), center - sign * 1e-9, -sign)
        for sign in (1, -1)
    ]
    return Interval(*ends)


def _null_std(number: int, one: int, other: int, difference: float) -> float:
    """Standard deviation of `one - other` if the proportions differ by `difference`.

    The probability of `other`, a nuisance parameter, is its maximum-likelihood estimate.
    """
    b = (2 * number - one + other) * difference - one - other
    c = -other * difference * (1 - difference)
    share = (math.sqrt(max(0.0, b * b - 8 * number * c)) - b) / (4 * number)
    return math.sqrt(max(0.0, number * (2 * share + difference * (1 - difference))))
