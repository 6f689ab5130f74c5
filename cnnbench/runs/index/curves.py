"""Learning curves with few points, for lists."""

import math
from collections.abc import Sequence
from itertools import pairwise

CURVE_POINTS = 6  # as many as a list shows


def binned(values: Sequence[float], count: int) -> list[float]:
    """Means of neighbors, so that at most `count` values remain.

    Args:
      values: in order; values that are not finite are left out of the means.
      count: number of bins; without effect on no more values than that.

    Returns:
      The means; NaN for a bin without finite values.

    >>> binned([1.0, 3.0, math.nan, 4.0, 5.0, 7.0], 3)
    [2.0, 4.0, 6.0]
    """
    if len(values) <= count:
        return [value if math.isfinite(value) else math.nan for value in values]
    edges = [round(place * len(values) / count) for place in range(count + 1)]
    return [_mean(values[a:b]) for a, b in pairwise(edges)]


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
