"""Ranks of several networks over several datasets: Friedman, Nemenyi and Conover."""

import math
from collections.abc import Sequence
from itertools import permutations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXACT = 200_000  # most rankings that Friedman's test enumerates

Scores = Sequence[Sequence[float]]  # a row per dataset, a column per network


def ranks_of(scores: Scores, *, higher: bool = True) -> list[list[float]]:
    """Ranks of the networks on each dataset: 1 is the best, and ties share their mean rank.

    Args:
      scores: a row per dataset, a column per network, finite.
      higher: True if higher scores are better.

    >>> ranks_of([[0.9, 0.8, 0.9], [0.5, 0.7, 0.6]])
    [[1.5, 3.0, 1.5], [3.0, 1.0, 2.0]]
    """
    from scipy.stats import rankdata

    sign = -1 if higher else 1
    return [[float(r) for r in rankdata([sign * value for value in row])] for row in scores]


def average_ranks(ranks: Scores) -> tuple[float, ...]:
    """Mean rank of each network over the datasets."""
    return tuple(math.fsum(column) / len(ranks) for column in zip(*ranks, strict=True))


def friedman(ranks: Scores) -> tuple[float, float]:
    """Friedman's statistic, corrected for ties, and its p-value.

    The null hypothesis is that on each dataset every ranking of the networks is equally likely. If
    there are at most `EXACT` combinations of rankings, p is exact: for up to 7 datasets with 3
    networks, 4 with 4. Otherwise it is that of the F distribution of Iman and Davenport, since the
    chi-squared distribution is conservative.

    Args:
      ranks: from `ranks_of`, of at least three networks and two datasets.

    Returns:
      The statistic of `scipy.stats.friedmanchisquare`, and p. With equal ranks everywhere 0 and 1.

    References:
      Friedman, "The use of ranks to avoid the assumption of normality implicit in the analysis of
      variance", JASA 32, 1937; Iman and Davenport, "Approximations of the critical region of the
      Friedman statistic", Communications in Statistics A9, 1980; Demsar, "Statistical comparisons
      of classifiers over multiple data sets", JMLR 7, 2006.

    >>> friedman([[1, 2, 3], [1, 2, 3], [1, 2, 3]])
    (6.0, 0.027777777777777776)
    """
    number, arms = len(ranks), len(ranks[0])
    spread = _squares(ranks)
    if spread == 0:
        return 0.0, 1.0
    sums = [math.fsum(column) for column in zip(*ranks, strict=True)]
    center = number * (arms + 1) / 2
    between = math.fsum((total - center) ** 2 for total in sums)
    statistic = (arms - 1) * between / spread
    if math.factorial(arms) ** (number - 1) <= EXACT:
        return statistic, _exact_p(ranks, between)
    return statistic, _davenport_p(statistic, number, arms)


def _squares(ranks: Scores) -> float:
    """Sum of the squared distances of all ranks from their mean."""
    center = (len(ranks[0]) + 1) / 2
    return math.fsum((rank - center) ** 2 for row in ranks for rank in row)


def _exact_p(ranks: Scores, observed: float) -> float:
    """The share of all rankings whose rank sums are at least as unequal; the first row is fixed."""
    import numpy as np

    center = (len(ranks[0]) + 1) / 2
    rows = np.asarray(ranks) - center
    sums: NDArray[np.float64] = rows[:1]
    for row in rows[1:]:
        orders = np.array(list(permutations(row)))
        sums = (sums[:, None] + orders).reshape(-1, len(row))
    reached = (sums**2).sum(axis=1) >= observed * (1 - 1e-9)
    return float(reached.mean())


def _davenport_p(statistic: float, number: int, arms: int) -> float:
    from scipy.special import fdtrc

    rest = number * (arms - 1) - statistic
    if rest <= 1e-12 * statistic:  # all datasets agree
        return 0.0
    f = (number - 1) * statistic / rest
    return float(fdtrc(arms - 1, (arms - 1) * (number - 1), f))


def critical_difference(arms: int, datasets: int, alpha: float = 0.05) -> float:
    """Nemenyi's critical difference: networks differ if their average ranks differ by more.

    CD = q sqrt(k (k + 1) / (6 N)), where q is the quantile of the Studentized range of k
    independent normal variables, divided by sqrt 2.

    Args:
      arms: number of networks k, at least two.
      datasets: number of datasets N.
      alpha: family-wise error rate of all pairs.

    References:
      Nemenyi, "Distribution-free multiple comparisons", Princeton University, 1963; Demsar 2006,
      Table 5.

    >>> round(critical_difference(4, 14), 2)
    1.25
    """
    from scipy.stats import studentized_range

    quantile = float(studentized_range.ppf(1 - alpha, arms, math.inf)) / math.sqrt(2)
    return quantile * _rank_error(arms, datasets)


def nemenyi_p(difference: float, arms: int, datasets: int) -> float:
    """p-value of a difference of two average ranks, adjusted for all pairs by Nemenyi's method.

    Args:
      difference: of the average ranks.
      arms: number of networks.
      datasets: number of datasets.

    >>> round(nemenyi_p(critical_difference(4, 14), 4, 14), 4)
    0.05
    """
    from scipy.stats import studentized_range

    range_ = abs(difference) / _rank_error(arms, datasets) * math.sqrt(2)
    return min(1.0, float(studentized_range.sf(range_, arms, math.inf)))


def _rank_error(arms: int, datasets: int) -> float:
    """Standard error of the difference of two average ranks under the null hypothesis."""
    return math.sqrt(arms * (arms + 1) / (6 * datasets))


def conover_p(ranks: Scores, one: int, other: int) -> float:
    """Unadjusted p-value of two networks by Conover's test, to be adjusted by Holm's method.

    It estimates the variance of the ranks from the datasets, so that it has more power than
    Nemenyi's if the datasets agree. Used after Friedman's test, for comparisons with a baseline.

    Args:
      ranks: from `ranks_of`, of at least three networks and two datasets.
      one: column of a network.
      other: column of another one.

    References:
      Conover, "Practical nonparametric statistics", 3rd edition, 1999, section 5.8.

    >>> round(conover_p([[1, 2, 3], [1, 3, 2], [2, 1, 3], [1, 2, 3]], 0, 2), 3)
    0.032
    """
    from scipy.special import stdtr

    number, arms = len(ranks), len(ranks[0])
    sums = [math.fsum(column) for column in zip(*ranks, strict=True)]
    within = math.fsum(rank**2 for row in ranks for rank in row)
    left = number * within - math.fsum(total**2 for total in sums)
    freedom = (number - 1) * (arms - 1)
    distance = abs(sums[one] - sums[other])
    if left <= 1e-9 * number * within:  # all datasets agree
        return 0.0 if distance else 1.0
    return float(2 * stdtr(freedom, -distance / math.sqrt(2 * left / freedom)))


def cliques(average: Sequence[float], critical: float) -> list[tuple[int, ...]]:
    """The largest groups of networks whose average ranks are within the critical difference.

    These are the bars of a critical-difference diagram.

    Args:
      average: average ranks.
      critical: from `critical_difference`.

    Returns:
      Columns of each group of at least two, best first.

    >>> cliques([3.1, 2.0, 1.5, 2.9], critical=1.0)
    [(2, 1), (1, 3), (3, 0)]
    """
    order = sorted(range(len(average)), key=average.__getitem__)
    groups: list[tuple[int, ...]] = []
    for start, first in enumerate(order):
        group = tuple(i for i in order[start:] if average[i] - average[first] <= critical)
        if len(group) > 1 and not any(set(group) <= set(known) for known in groups):
            groups.append(group)
    return groups
