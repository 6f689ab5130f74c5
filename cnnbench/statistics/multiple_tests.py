"""Corrections for several tests at a time."""

from collections.abc import Sequence


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


def holm_levels(p_values: Sequence[float], alpha: float) -> tuple[float, ...]:
    """The significance level at which Holm's procedure compares each p-value, in the given order.

    The k-th smallest of m p-values that it rejects is compared with alpha / (m - k + 1), the
    others with the level of the first that it does not reject. A confidence interval at that level
    excludes zero if and only if the adjusted p-value is at most alpha.

    Each interval covers its difference with probability 1 - alpha at least. All of them together
    need not, unless nothing is rejected: simultaneous intervals that agree with Holm's procedure
    say only the sign of what it rejects (Strassburger and Bretz, "Compatible simultaneous lower
    confidence bounds for the Holm procedure", Statistics in Medicine 27, 2008).

    >>> [round(level, 4) for level in holm_levels([0.01, 0.04, 0.03], 0.05)]
    [0.0167, 0.025, 0.025]
    """
    number = len(p_values)
    order = sorted(range(number), key=p_values.__getitem__)
    adjusted = holm(p_values)
    rejected = sum(p <= alpha * (1 + 1e-9) for p in adjusted)
    levels = [0.0] * number
    for rank, index in enumerate(order):
        levels[index] = alpha / (number - min(rank, rejected))
    return tuple(levels)
