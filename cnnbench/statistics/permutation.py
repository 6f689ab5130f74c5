"""Exact permutation tests."""

import math
from collections.abc import Sequence

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
