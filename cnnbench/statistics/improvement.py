"""Probability of improvement: how often a seed of one network beats a seed of another."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from cnnbench.statistics.estimates import Interval, root_between


@dataclass(frozen=True, slots=True)
class Improvement:
    """Probability that a random seed of a network beats one of the baseline.

    Args:
      share: the probability; ties count half.
      interval: its confidence interval; None if seeds share training images.
    """

    share: float
    interval: Interval | None


def improvement(
    base: Sequence[float],
    other: Sequence[float],
    level: float = 0.95,
    *,
    higher: bool = True,
    independent: bool = True,
) -> Improvement | None:
    """Probability of improvement with its interval.

    Args:
      base: values of the baseline, one per seed.
      other: values of the other network.
      level: confidence level, in (0, 1).
      higher: True if higher values are better.
      independent: False if seeds share training images.

    Returns:
      None if a value is not finite, or there are none.

    >>> improvement([0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8])
    Improvement(share=1.0, interval=Interval(low=0.5822840455834578, high=1.0))
    """
    values = (base, other)
    if not all(each and all(map(math.isfinite, each)) for each in values):
        return None
    share = probability_of_improvement(base, other, higher=higher)
    known = improvement_interval(share, len(base), len(other), level) if independent else None
    return Improvement(share, known)


def probability_of_improvement(
    base: Sequence[float], other: Sequence[float], *, higher: bool = True
) -> float:
    """P(other > base) for one random seed of each; ties count half.

    This is the Mann-Whitney statistic over the number of pairs, U / (m n), and the common-language
    effect size. rliable reports it, averaged over tasks, under the same name.

    Args:
      base: values of the baseline, one per seed, finite, at least one.
      other: values of the other network.
      higher: True if higher values are better.

    References:
      Mann and Whitney, "On a test of whether one of two random variables is stochastically larger
      than the other", Annals of Mathematical Statistics 18, 1947; Agarwal et al., "Deep
      reinforcement learning at the edge of the statistical precipice", NeurIPS 2021.

    >>> probability_of_improvement([0.1, 0.2], [0.2, 0.3])
    0.875
    """
    import numpy as np

    gains = np.subtract.outer(np.asarray(other, float), np.asarray(base, float))
    if not higher:
        gains = -gains
    return float(((gains > 0) + 0.5 * (gains == 0)).mean())


def improvement_interval(share: float, m: int, n: int, level: float = 0.95) -> Interval:
    """Score interval of a probability of improvement: Newcombe's method 5.

    The bounds are the probabilities whose distance from `share` is z standard errors. The variance
    is that of Hanley and McNeil (1982) with both group sizes replaced by their mean:

        V(t) = t (1 - t) / (m n) * [1 + N (1 - t) / (2 - t) + N t / (1 + t)],  N = (m + n) / 2 - 1

    Unlike the Brunner-Munzel interval, it is informative if every seed of one network beats every
    seed of the other.

    Args:
      share: the estimated probability, in [0, 1].
      m: number of seeds of one network.
      n: number of seeds of the other; the seeds are independent.
      level: confidence level, in (0, 1).

    References:
      Newcombe, "Confidence intervals for an effect size measure based on the Mann-Whitney
      statistic. Part 2", Statistics in Medicine 25, 2006.

    >>> improvement_interval(1.0, 4, 4)
    Interval(low=0.5822840455834578, high=1.0)
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    return Interval(_lower(share, m, n, z), 1 - _lower(1 - share, m, n, z))


def _lower(share: float, m: int, n: int, z: float) -> float:
    if share <= 0:
        return 0.0
    # The end is a little below `share`, since at 1 the variance is 0.
    return root_between(lambda t: share - t - z * _deviation(t, m, n), 0, share * (1 - 1e-9))


def _deviation(t: float, m: int, n: int) -> float:
    shared = (m + n) / 2 - 1
    factor = 1 + shared * (1 - t) / (2 - t) + shared * t / (1 + t)
    return math.sqrt(t * (1 - t) * factor / (m * n))
