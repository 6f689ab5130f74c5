"""The studentized permutation test: two groups of different sizes and variances."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cnnbench.statistics.estimates import Interval, mean
from cnnbench.statistics.permutation import TIES, enumerable, random_subset_sums

if TYPE_CHECKING:
    from cnnbench.statistics.permutation import Floats

_STEPS = 30  # of the bisection


@dataclass(frozen=True, slots=True, eq=False)
class StudentizedTest:
    """A permutation test with Welch's t, for groups of different sizes.

    For equally large groups, use `exchange_test`: it is the same test, and its interval is exact.

    The difference of means and its variance are known for every division and every shift, the
    observed difference minus the hypothesized one, with the sign reversed: as polynomials.

    Args:
      difference: the observed difference of means, second minus first.
      error: its standard error, by Welch.
      means: coefficients of the difference of means, a row per power of the shift, a column for
        each division other than the observed one.
      variances: those of its squared standard error.
      unchanged: number of divisions equal to the observed one, or to its mirror image.

    References:
      Janssen, "Studentized permutation tests for non-i.i.d. hypotheses and the generalized
      Behrens-Fisher problem", Statistics and Probability Letters 36, 1997; Chung and Romano,
      "Exact and asymptotically robust permutation tests", Annals of Statistics 41, 2013.
    """

    difference: float
    error: float
    means: "Floats"
    variances: "Floats"
    unchanged: int

    @property
    def p(self) -> float:
        """Fraction of divisions whose absolute t is at least the observed one."""
        return self._p(-self.difference)

    def interval(self, level: float) -> Interval:
        """The differences that the test does not reject, by bisection of p.

        p is a step function of the hypothesized difference. Zero is in the interval if and only if
        p > 1 - `level`.

        Args:
          level: confidence level, in (0, 1).

        Returns:
          A closed interval; without limits if there are too few values to reject anything.
        """
        alpha = (1 - level) * (1 + TIES)
        if self.unchanged > alpha * self._total:
            return Interval(-math.inf, math.inf)
        ends = (self._end(sign, lambda shift: self._p(shift) > alpha) for sign in (-1, 1))
        low, high = (0.0 if end == -self.difference else self.difference + end for end in ends)
        return Interval(low, high)

    @property
    def _total(self) -> int:
        return len(self.means[0]) + self.unchanged

    def _end(self, sign: int, accepted: Callable[[float], bool]) -> float:
        """The last accepted shift in a direction."""
        inner, step, zero = 0.0, sign * (self.error or 1.0), -self.difference
        if sign * zero > 0 and not accepted(zero):
            outer = zero
        else:
            inner = max(inner, zero, key=lambda shift: sign * shift)
            while accepted(inner + step):
                inner, step = inner + step, 2 * step
            outer = inner + step
        for _ in range(_STEPS):
            middle = (inner + outer) / 2
            inner, outer = (middle, outer) if accepted(middle) else (inner, middle)
        return inner

    def _p(self, shift: float) -> float:
        """The p-value of the hypothesis that the difference is the observed one plus a shift."""
        if abs(shift) <= TIES * (abs(self.difference) + self.error):
            return 1.0
        means = self.means[0] + shift * self.means[1]
        variances = self.variances[0] + shift * (self.variances[1] + shift * self.variances[2])
        far = (means * self.error) ** 2 >= shift**2 * variances * (1 - TIES)
        return (self.unchanged + int(far.sum())) / self._total


def studentized_test(first: Sequence[float], second: Sequence[float]) -> StudentizedTest:
    """Divides the values of two groups in all ways, or in 131,072 random ones if there are more.

    Args:
      first: finite values, at least two.
      second: at least two others.

    >>> test = studentized_test([1.0, 2.0, 3.0, 4.0], [7.0, 8.0, 6.0, 9.0, 8.0])
    >>> round(test.p, 4)  # one of 126 divisions
    0.0079
    """
    import numpy as np

    centers = mean(first), mean(second)
    values = [np.subtract(group, c) for group, c in zip((first, second), centers, strict=True)]
    sizes = len(first), len(second)
    exchanged = (_all if enumerable(*sizes) else _random)(*values)
    changed = exchanged[0] > 0
    if sizes[0] == sizes[1]:  # exchanging all values changes the sign only
        changed &= exchanged[0] < sizes[0]
    unchanged = int((~changed).sum()) + (not enumerable(*sizes))
    squares = [float((group**2).sum()) for group in values]
    means, variances = _moments(exchanged[:, changed], sizes, squares)
    error = math.sqrt(sum(s / (n * (n - 1)) for s, n in zip(squares, sizes, strict=True)))
    return StudentizedTest(centers[1] - centers[0], error, means, variances, unchanged)


def _moments(
    exchanged: "Floats", sizes: tuple[int, int], squares: Sequence[float]
) -> "tuple[Floats, Floats]":
    """The difference of means and its variance, as polynomials of the shift.

    The sum of the first group is s - shift * number, that of all values -m * shift, and the sum of
    squares of the first group is q + change - 2 * shift * given + shift^2 * number.

    Args:
      exchanged: as `_all`.
      sizes: n and m, the numbers of values.
      squares: the sums of squares of both groups.
    """
    import numpy as np

    (number, given, s, change), (n, m) = exchanged, sizes
    inverse = 1 / n + 1 / m
    means = np.stack([-inverse * s, inverse * number - 1])
    a, b = 1 / (n * (n - 1)), 1 / (m * (m - 1))
    c = a / n + b / m
    constant = (a - b) * (squares[0] + change) + b * sum(squares) - c * s**2
    linear = 2 * (b - a) * given - 2 * b * s + 2 * c * s * number
    return means, np.stack([constant, linear, (a + b) * number - c * number**2])


def _all(first: "Floats", second: "Floats") -> "Floats":
    """What changes places, for every division.

    Returns:
      Rows: how many values change places; the sum of those that the first group gets; this minus
      the sum of those that it gives away; the same difference of the sums of squares.
    """
    import numpy as np

    found = []
    pairs = zip(_moments_by_size(first), _moments_by_size(second), strict=False)
    for size, (own, others) in enumerate(pairs):
        changes = np.subtract(others[:, :, None], own[:, None]).reshape(2, -1)
        given = np.repeat(others[0], own.shape[1])
        found.append(np.stack([np.full_like(given, size), given, *changes]))
    return np.concatenate(found, axis=1)


def _random(first: "Floats", second: "Floats") -> "Floats":
    """The same for random divisions."""
    import numpy as np

    size, pooled = len(first), np.concatenate([first, second])
    received = np.arange(len(pooled)) >= size
    rows = [received * 1.0, received * pooled, pooled, pooled**2]
    found = np.stack([random_subset_sums(row, size) for row in rows])
    found[2:] -= np.array([[first.sum()], [(first**2).sum()]])
    return found


def _moments_by_size(values: "Floats") -> "list[Floats]":
    """The sums of values and of squares of all subsets of 0, 1, 2, ... values."""
    import numpy as np

    found = [np.zeros((2, 1))]
    for value in values:
        grown = [own + np.array([[value], [value**2]]) for own in found]
        pairs = zip(found[1:], grown, strict=False)
        found = [found[0], *(np.concatenate(pair, axis=1) for pair in pairs), grown[-1]]
    return found
