"""Expected best of several trials, as a function of the tuning budget."""

import math
from collections.abc import Sequence
from math import comb


def expected_best(values: Sequence[float], *, higher: bool = True) -> tuple[float, ...]:
    """Expected best value of k trials, for each budget k from 1 to their number N.

    The mean of the best value over all subsets of k trials, which is unbiased for the expected best
    of k independent draws from the same distribution:

        E_k = sum_{i=k..N} C(i-1, k-1) / C(N, k) v_(i),   v_(1) the worst and v_(N) the best value.

    The estimator of Dodge et al. (2019), sum of v_(i) (i^k - (i-1)^k) / N^k, draws with replacement
    instead, and is too low for k > 1.

    Args:
      values: one per trial, at least one. A value that is not finite belongs to a trial that
        diverged; it is worse than every other.
      higher: True if higher values are better.

    Returns:
      A value for each budget; NaN where all trials of a subset may have diverged.

    References:
      Tang et al., "Showing your work doesn't always work", ACL 2020, equation 5; Dodge et al.,
      "Show your work: improved reporting of experimental results", EMNLP 2019.

    >>> expected_best([0.5, 0.25, 0.75])
    (0.5, 0.6666666666666666, 0.75)
    >>> expected_best([0.5, float("nan")])
    (nan, 0.5)
    """
    finite = sorted(filter(math.isfinite, values), reverse=not higher)
    number, lost = len(values), len(values) - len(finite)
    return tuple(_expected(finite, number, lost, k) for k in range(1, number + 1))


def _expected(finite: Sequence[float], number: int, lost: int, k: int) -> float:
    """The expected best of k trials; `finite` are the values from worst to best."""
    if k <= lost:
        return math.nan
    ranked = enumerate(finite, lost + 1)
    return math.fsum(comb(i - 1, k - 1) * value for i, value in ranked) / comb(number, k)
