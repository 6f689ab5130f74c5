"""Permutation tests of a difference of means, and the confidence intervals that invert them.

A permutation test is exact if its assignments are enumerated. If there are too many, some are
sampled with a fixed seed, and the observed one counts too (Phipson and Smyth, 2010).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from cnnbench.statistics.estimates import Interval, mean

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

EXACT = 20  # most pairs whose sign assignments are enumerated; beyond, as many are sampled
_SAMPLES = 2 ** (EXACT - 1)
MOST_DIVISIONS = 2**17  # into two groups that are enumerated; of more, as many are sampled
TIES = 1e-9  # relative difference up to which two statistics are equal, since sums round


class MeanTest(Protocol):
    """A two-sided test of a difference of means, and its inversion."""

    @property
    def difference(self) -> float:
        """The observed difference."""

    @property
    def p(self) -> float:
        """The p-value of the hypothesis that there is no difference."""

    def interval(self, level: float) -> Interval:
        """The differences that the test does not reject at the significance level 1 - `level`."""


@dataclass(frozen=True, slots=True, eq=False)
class PermutationTest:
    """A permutation test of a difference of means.

    Subtracting a hypothesized difference d from the values makes an assignment at least as extreme
    as the observed one if one of its two typical values is beyond d, as seen from the observed
    difference. So the number of typical values below 0 gives p, and the ends of the interval are
    typical values.

    Args:
      difference: the observed difference.
      typical: two typical values per assignment: of the assignment and of its mirror image.
      assignments: number of assignments, each with its mirror image; the observed one included.
      always: number of assignments equal to the observed one, which are reached for every d.
      tolerance: typical values as near as this to zero are zero up to rounding.

    References:
      Hartigan, "Using subsample values as typical values", JASA 64, 1969.
    """

    difference: float
    typical: "Floats"
    assignments: int
    always: int
    tolerance: float

    @property
    def p(self) -> float:
        """Fraction of assignments that are at least as extreme as the observed one."""
        if abs(self.difference) <= self.tolerance:
            return 1.0
        opposite = self.typical if self.difference > 0 else -self.typical
        reached = int((opposite <= self.tolerance).sum())
        return (self.always + reached) / self.assignments

    def interval(self, level: float) -> Interval:
        """The differences that the test does not reject.

        Args:
          level: confidence level, in (0, 1).

        Returns:
          A closed interval; without limits if there are too few values to reject anything.
        """
        import numpy as np

        most = math.floor((1 - level) * self.assignments * (1 + TIES))  # with p <= 1 - level
        place = most - self.always
        if place < 0:
            return Interval(-math.inf, math.inf)
        places = (place, len(self.typical) - 1 - place)
        ends = np.partition(self.typical, places)[list(places)]
        low, high = (0.0 if abs(end) <= self.tolerance else float(end) for end in ends)
        return Interval(low, high)


def sign_flip_test(differences: Sequence[float]) -> PermutationTest:
    """The paired test: under the null hypothesis, differences are symmetric about zero.

    All assignments of signs are then equally likely. Typical values are the means of subsets: those
    whose signs are flipped. Up to 20 pairs, all are enumerated; of more, 524,288 are sampled.

    Args:
      differences: one per pair, finite, at least one.

    References:
      Fisher, "The Design of Experiments", section 21, 1935.

    >>> test = sign_flip_test([0.2, 0.1, 0.3, 0.1, 0.2, 0.4])  # one direction: 2 of 64
    >>> test.p, test.interval(0.95)
    (0.03125, Interval(low=0.1, high=0.4))
    """
    import numpy as np

    number = len(differences)
    tolerance = TIES * float(np.mean(np.abs(differences)))
    if number <= EXACT:
        sums = _sums_by_size(differences)
        typical = [sums[size] / size for size in range(1, number)]
        found = np.concatenate([np.empty(0), *typical])
        return PermutationTest(mean(differences), found, 2 ** (number - 1), 1, tolerance)
    rng = np.random.default_rng(0)
    flipped, sums = np.zeros((2, _SAMPLES))
    for value in differences:
        flips = rng.integers(0, 2, _SAMPLES, dtype=bool)
        flipped += flips
        sums += np.where(flips, value, 0.0)
    return _sampled(mean(differences), flipped, sums, number, tolerance)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of `sign_flip_test`, never below `smallest_p`.

    >>> sign_flip_p([0.2, 0.1, 0.3, 0.1, 0.2, 0.4])
    0.03125
    """
    return sign_flip_test(differences).p


def exchange_test(first: Sequence[float], second: Sequence[float]) -> PermutationTest:
    """The unpaired test for equally many values: under the null hypothesis, all are exchangeable.

    All divisions of the values into two groups are then equally likely. Typical values are the
    differences between the means of equally large subsets of both groups: those that change places.
    Up to 10 values per group, all are enumerated; of more, 131,072 are sampled.

    The difference of means orders the divisions exactly as Welch's t does if the groups are
    equally large: the squares of the values have the same sum in each division, so a larger
    difference leaves less variance within the groups. The test is thus the studentized one, which
    also holds approximately for groups with equal means and unequal variances.

    Args:
      first: finite values, at least one.
      second: as many others.

    References:
      Pitman, "Significance tests which may be applied to samples from any populations",
      Supplement to JRSS 4, 1937; Chung and Romano, "Exact and asymptotically robust permutation
      tests", Annals of Statistics 41, 2013.

    >>> test = exchange_test([1.0, 2.0, 3.0, 4.0], [5.0, 7.0, 6.0, 9.0])  # all above: 2 of 70
    >>> round(test.p, 4), test.interval(0.95)
    (0.0286, Interval(low=1.0, high=8.0))
    """
    import numpy as np

    number, center = len(first), mean([*first, *second])
    values = np.subtract([first, second], center)
    tolerance = TIES * float(np.mean(np.abs(values)))
    difference = mean(second) - mean(first)
    if enumerable(number, number):
        count = math.comb(2 * number, number) // 2
        own, others = map(_sums_by_size, values)
        pairs = [
            np.subtract.outer(others[size], own[size]).ravel() / size for size in range(1, number)
        ]
        found = np.concatenate([np.empty(0), *pairs])
        return PermutationTest(difference, found, count, 1, tolerance)
    taken = _taken(number)
    sums = random_subset_sums(np.concatenate([values[1], values[0]]), number)
    return _sampled(difference, taken, sums - values[0].sum(), number, tolerance)


def enumerable(first: int, second: int) -> bool:
    """True if all divisions into groups of these sizes are enumerated, not sampled.

    >>> enumerable(10, 10), enumerable(11, 11), enumerable(4, 30)
    (True, False, True)
    """
    mirrored = 2 if first == second else 1
    return math.comb(first + second, first) <= mirrored * MOST_DIVISIONS


def random_subsets(total: int, size: int) -> "Iterator[npt.NDArray[np.bool_]]":
    """Random subsets of equal size; for each element, yields which of the subsets have it.

    Args:
      total: number of elements, at most 65,535.
      size: number of elements in each subset.

    References:
      Knuth, "The Art of Computer Programming", volume 2, section 3.4.2, algorithm S.
    """
    import numpy as np

    rng, needed = np.random.default_rng(0), np.full(MOST_DIVISIONS, size, np.uint16)
    for left in range(total, 0, -1):
        picked = rng.integers(0, left, MOST_DIVISIONS, dtype=np.uint16) < needed
        needed -= picked
        yield picked


def random_subset_sums(values: "Floats", size: int) -> "Floats":
    """The sums of random subsets of some values, (subsets,).

    Args:
      values: the values, (n,).
      size: number of values in each subset.

    Returns:
      Those of `random_subsets`, in the same order for the same numbers.
    """
    import numpy as np

    packed = _packed_subsets(len(values), size)
    padded = np.zeros((len(packed), 8))
    padded.flat[: len(values)] = values
    # The sum of eight values is looked up by their bits, which is 15 times as fast as adding them.
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    sums = np.zeros(MOST_DIVISIONS)
    for known, places in zip(padded @ bits.T, packed, strict=True):
        sums += known[places]
    return sums


@lru_cache(maxsize=8)
def _taken(number: int) -> "Floats":
    """How many of the first half of 2 `number` values are in each random subset of half of them."""
    import numpy as np

    return random_subset_sums(np.repeat([1.0, 0.0], number), number)


@lru_cache(maxsize=8)
def _packed_subsets(total: int, size: int) -> "npt.NDArray[np.uint8]":
    """`random_subsets` as bits of eight elements, (bytes, subsets)."""
    import numpy as np

    return np.packbits(list(random_subsets(total, size)), axis=0)


def _sums_by_size(values: "Sequence[float] | Floats") -> "list[Floats]":
    """The sums of all subsets of 0, 1, 2, ... values."""
    import numpy as np

    sums = [np.zeros(1)]
    for value in values:
        grown = [own + value for own in sums]
        pairs = zip(sums[1:], grown, strict=False)
        sums = [sums[0], *map(np.concatenate, pairs), grown[-1]]
    return sums


def _sampled(
    difference: float, taken: "Floats", sums: "Floats", number: int, tolerance: float
) -> PermutationTest:
    """The test with sampled assignments; `sums` are those of the `taken` differences."""
    import numpy as np

    changed = (taken > 0) & (taken < number)
    taken, sums = taken[changed], sums[changed]
    mirrored = (number * difference - sums) / (number - taken)
    always = 1 + int((~changed).sum())
    found = np.concatenate([sums / taken, mirrored])
    return PermutationTest(difference, found, len(changed) + 1, always, tolerance)


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
    return math.ceil(1 - math.log2(alpha) - TIES)


def smallest_exchange_p(number: int) -> float:
    """Smallest p-value that a two-sided exchange test of two groups of `number` can reach.

    >>> [round(smallest_exchange_p(number), 4) for number in (3, 4, 5)]
    [0.1, 0.0286, 0.0079]
    """
    return 2 / math.comb(2 * number, number)


def values_for(alpha: float) -> int:
    """Fewest values per group with which an exchange test can reach `alpha`.

    >>> values_for(0.05), values_for(0.01)
    (4, 5)
    """
    number = 1
    while smallest_exchange_p(number) > alpha * (1 + TIES):
        number += 1
    return number
