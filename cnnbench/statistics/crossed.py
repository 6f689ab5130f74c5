"""Intervals of a mean difference over seeds and images: crossed random effects.

A seed's accuracy on a test set varies for two reasons: another seed gives another network, and
another test set has other images. Every seed is tested on the same images, so both are random
factors, and they are crossed. An interval over seeds alone is about these images; the one over
seeds and images is about images like them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from cnnbench.statistics.estimates import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class CrossedEstimate:
    """A mean difference with its standard error over seeds and images.

    Args:
      difference: the mean difference.
      seeds: variance of the mean from seeds, with what varies by seed and image.
      images: the same from images.
      both: variance of the mean from what varies by seed and image, which is part of both.
      df: degrees of freedom of `std_error` (Satterthwaite).
      negative: `seeds` or `images` if the estimate of that variance component is negative, and
        therefore taken as zero; empty otherwise.
    """

    difference: float
    seeds: float
    images: float
    both: float
    df: float
    negative: str = ""

    @property
    def variance(self) -> float:
        """Variance of the mean difference over seeds and images."""
        return max(self.seeds + self.images - self.both, self.seeds, self.images)

    @property
    def std_error(self) -> float:
        """Standard error of the mean difference over seeds and images."""
        return math.sqrt(self.variance)

    def interval(self, level: float = 0.95, over_seeds: Interval | None = None) -> Interval:
        """Confidence interval of the mean difference over seeds and images.

        Args:
          level: confidence level, in (0, 1).
          over_seeds: the interval over seeds alone, which this one contains. With fewer than six
            seeds, Satterthwaite's degrees of freedom are uncertain, and Student's t interval may be
            narrower and cover too little.
        """
        from scipy.special import stdtrit

        half = float(stdtrit(self.df, (1 + level) / 2)) * self.std_error if self.variance else 0.0
        ends = [self.difference - half, self.difference + half]
        if over_seeds is not None:
            ends += [over_seeds.low, over_seeds.high]
        return Interval(min(ends), max(ends))


class _Term(NamedTuple):
    """A part of a variance, and its degrees of freedom."""

    value: float
    df: float


def paired(differences: "NDArray[Any]") -> CrossedEstimate:
    """The mean difference of two arms whose seeds are pairs.

    The mean squares of a two-way layout with one value per cell, S seeds by N images::

        MS_S = N sum_s (D_s. - D..)^2 / (S - 1)
        MS_I = S sum_i (D_.i - D..)^2 / (N - 1)
        MS_E = sum_si (D_si - D_s. - D_.i + D..)^2 / ((S - 1) (N - 1))

    have the expectations E + N V_S, E + S V_I and E, so that V_S / S + V_I / N + E / (S N), the
    variance of the mean, is estimated by (MS_S + MS_I - MS_E) / (S N).

    Args:
      differences: for each pair and image, (seeds, images), at least two of each.

    References:
      Searle, Casella and McCulloch, "Variance Components", 1992, chapter 4.
      Satterthwaite, "An approximate distribution of estimates of variance components",
      Biometrics Bulletin 2, 1946.
      Baayen, Davidson and Bates, "Mixed-effects modeling with crossed random effects for subjects
      and items", Journal of Memory and Language 59, 2008.

    >>> import numpy as np
    >>> found = paired(np.array([[1.0, 0, 0, 1], [1, 0, 1, 1], [1, 0, 0, 0]]))
    >>> round(found.difference, 6), round(found.std_error, 6)
    (0.5, 0.235702)
    """
    import numpy as np

    values = np.asarray(differences, float)
    parts = _mean_squares(values)
    return _estimate(float(values.mean()), [parts.seeds], parts.images, [parts.both])


def unpaired(arm: "NDArray[Any]", base: "NDArray[Any]") -> CrossedEstimate:
    """The mean difference of two arms with independent seeds and the same images.

    The variance of the difference of the means of arms a, with S_a seeds each, is::

        sum_a V_S(a) / S_a  +  V_I / N  +  sum_a E(a) / (S_a N)

    where V_I is the variance over images of the expected difference. Variances over seeds of the
    seeds' means, divided by S_a, estimate the first and the third term; the variance over images
    of the difference of the images' means, divided by N, the second and the third. The third is
    therefore subtracted once, as for pairs.

    Args:
      arm: values for each seed and image, (seeds, images), at least two of each.
      base: the same of the baseline, for any number of seeds and the same images.

    References:
      As for `paired`; for questions as a random factor in evaluations of language models: Miller,
      "Adding error bars to evals", arXiv 2411.00640, 2024.

    >>> import numpy as np
    >>> one = np.array([[1.0, 0, 0, 1], [1, 0, 1, 1], [1, 0, 0, 0]])
    >>> found = unpaired(one, np.zeros((2, 4)))
    >>> round(found.difference, 6), round(found.std_error, 6)
    (0.5, 0.235702)
    """
    import numpy as np

    arms = [np.asarray(each, float) for each in (arm, base)]
    parts = [_mean_squares(each) for each in arms]
    means = [each.mean(axis=0) for each in arms]
    differences = means[0] - means[1]
    number = len(differences)
    images = _Term(float(differences.var(ddof=1)) / number, number - 1)
    return _estimate(
        float(differences.mean()), [p.seeds for p in parts], images, [p.both for p in parts]
    )


class _MeanSquares(NamedTuple):
    """Mean squares of a layout of seeds by images, divided by the number of values."""

    seeds: _Term
    images: _Term
    both: _Term


def _mean_squares(values: "NDArray[Any]") -> _MeanSquares:
    seeds, images = values.shape
    by_seed, by_image = values.mean(axis=1), values.mean(axis=0)
    spreads = float(by_seed.var(ddof=1)), float(by_image.var(ddof=1))
    rest = values - by_seed[:, None] - by_image + values.mean()
    df = (seeds - 1) * (images - 1)
    both = float((rest**2).sum()) / df / (seeds * images)
    return _MeanSquares(
        _Term(spreads[0] / seeds, seeds - 1),
        _Term(spreads[1] / images, images - 1),
        _Term(both, df),
    )


def _estimate(
    difference: float, seeds: Sequence[_Term], images: _Term, both: Sequence[_Term]
) -> CrossedEstimate:
    """The estimate, without a component whose estimate is negative.

    With V_I = 0, for example, images and both have the same expectation, and what varies over
    seeds is the whole variance.
    """
    over_seeds, rest = (sum(term.value for term in terms) for terms in (seeds, both))
    negative, used = "", [*seeds, images, *both]
    if images.value < rest:
        negative, used = "images", list(seeds)
    if over_seeds < rest and over_seeds <= images.value:
        negative, used = "seeds", [images]
    total = over_seeds + images.value - rest if not negative else sum(term.value for term in used)
    weights = sum(term.value**2 / term.df for term in used)
    df = total**2 / weights if weights else math.inf
    return CrossedEstimate(difference, over_seeds, images.value, rest, df, negative)
