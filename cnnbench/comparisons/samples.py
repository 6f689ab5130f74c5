"""Two runs as samples: the values of their seeds, and the test that compares them."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from cnnbench.statistics.estimates import (
    Interval,
    mean,
    mean_interval,
    pearson,
    sample_std,
    standard_error,
)
from cnnbench.statistics.permutation import (
    MeanTest,
    exchange_test,
    pairs_for,
    sign_flip_test,
    values_for,
)
from cnnbench.statistics.resampled import ResampledTest
from cnnbench.statistics.studentized import studentized_test
from cnnbench.statistics.welch import welch_freedom, welch_interval

MOST_SEEDS = 1000  # larger sample sizes are not reported: training that many is unrealistic
POWER = 0.8  # statistical power of the reported sample size

Pairing = Literal["unpaired", "paired"]
Procedure = Literal["unpaired", "paired", "resampled"]


class Samples(NamedTuple):
    """The values of a metric of the baseline and of a run, by seed.

    Args:
      base: values of the baseline.
      other: values of the run.
      test: the test that compares them: a permutation test of all values (`unpaired`), a sign-flip
        test of the differences of equal seeds (`paired`), or of these the corrected resampled
        t-test (`resampled`).
      overlap: number of validation images per training image if the seeds train on overlapping
        parts of the images; 0 for other tests than `resampled`.
      folds: number of folds of a cross-validation; 0 for none.
    """

    base: Mapping[int, float]
    other: Mapping[int, float]
    test: Procedure
    overlap: float = 0.0
    folds: int = 0

    @property
    def common(self) -> tuple[int, ...]:
        """The seeds that both have."""
        return tuple(seed for seed in self.base if seed in self.other)

    @property
    def differences(self) -> tuple[float, ...]:
        """Run minus baseline for each seed that both have."""
        return tuple(self.other[seed] - self.base[seed] for seed in self.common)

    @property
    def tested(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The values that are compared: of the baseline, and of the run."""
        if self.test == "unpaired":
            return tuple(self.base.values()), tuple(self.other.values())
        pairs = [(self.base[seed], self.other[seed]) for seed in self.common]
        return tuple(base for base, _ in pairs), tuple(other for _, other in pairs)

    @property
    def numbers(self) -> tuple[int, int]:
        """The numbers of seeds that are compared: of the baseline, and of the run."""
        return len(self.tested[0]), len(self.tested[1])

    @property
    def lost(self) -> tuple[int, ...]:
        """The seeds that cannot be compared, since their value is not finite."""
        seeds = dict.fromkeys((*self.base, *self.other) if self.test == "unpaired" else self.common)
        values = (self.base, self.other)
        return tuple(s for s in seeds if not all(math.isfinite(v.get(s, 0.0)) for v in values))

    @property
    def difference(self) -> float:
        """The difference of the means; NaN if there are none."""
        if self.test == "unpaired":
            base, other = map(mean, self.tested)
            return other - base
        return mean(self.differences) if self.common else math.nan

    @property
    def correlation(self) -> float | None:
        """Pearson's correlation of equal seeds; None for fewer than three, or equal values."""
        pairs = [(self.base[s], self.other[s]) for s in self.common]
        finite = [pair for pair in pairs if all(map(math.isfinite, pair))]
        return pearson(*zip(*finite, strict=True)) if len(finite) > 2 else None

    def fewest(self, alpha: float) -> int:
        """The fewest seeds of both with which p can reach alpha; with folds, one for each."""
        match self.test:
            case "unpaired":
                return values_for(alpha)
            case "paired":
                return pairs_for(alpha)
        return self.folds or 2

    def compared(self) -> MeanTest:
        """The test, for finite values and not too few of them."""
        base, other = self.tested
        if self.test == "resampled":
            return ResampledTest(self.differences, self.overlap)
        if self.test == "paired":
            return sign_flip_test(self.differences)
        return (exchange_test if len(base) == len(other) else studentized_test)(base, other)

    def t_interval(self, level: float) -> Interval | None:
        """Student's t interval of the difference, or Welch's if the seeds are not paired.

        Args:
          level: confidence level, in (0, 1).

        Returns:
          None if either has a single value; an interval of NaN if any value is not finite.
        """
        if self.test == "unpaired":
            return welch_interval(*self.tested, level)
        differences = self.differences
        return mean_interval(differences, level, self.overlap) if differences else None

    def needed(self, alpha: float, fewest: int) -> int | None:
        """The fewest seeds that detect a difference of this size and spread with `POWER`.

        Approximated by Student's t distribution.

        Args:
          alpha: significance level.
          fewest: a smaller number is not an answer.

        Returns:
          None for more than `MOST_SEEDS`.
        """
        from scipy.special import stdtrit

        size, step = abs(self.difference), self.folds or 1
        first = max(fewest, min(self.numbers) + 1)
        counts = range(-(-first // step) * step, MOST_SEEDS + 1, step)

        def detectable(count: int) -> float:
            error, freedom = self._error(count)
            return float(stdtrit(freedom, 1 - alpha / 2) + stdtrit(freedom, POWER)) * error

        place = bisect_left(counts, True, key=lambda count: detectable(count) < size)
        return counts[place] if place < len(counts) else None

    def _error(self, count: int) -> tuple[float, float]:
        """Standard error of the difference with `count` seeds, and its degrees of freedom."""
        if self.test != "unpaired":
            return standard_error(_std(self.differences), count, self.overlap), count - 1
        variances = [_std(values) ** 2 / count for values in self.tested]
        return math.sqrt(sum(variances)), welch_freedom(variances, (count, count))


def _std(values: Sequence[float]) -> float:
    return sample_std(values) or 0.0
