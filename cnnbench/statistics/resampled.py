"""The test for values that share training images: folds and random splits."""

from collections.abc import Sequence
from typing import NamedTuple

from cnnbench.statistics.estimates import (
    Interval,
    mean,
    mean_interval,
    sample_std,
    standard_error,
)


def corrected_p(differences: Sequence[float], overlap: float) -> float:
    """Two-sided p-value of the corrected resampled t-test of the mean.

    Cross-validation and repeated random splits train on overlapping images. Their differences are
    correlated, which the usual tests ignore: these find differences far too often.

    Args:
      differences: one per pair, finite, at least two.
      overlap: number of validation images per training image, n2 / n1.

    References:
      Nadeau and Bengio, "Inference for the generalization error", Machine Learning 52, 2003;
      Bouckaert and Frank, "Evaluating the replicability of significance tests for comparing
      learning algorithms", PAKDD 2004, for repeated cross-validation.

    >>> round(corrected_p([0.2, 0.1, 0.3, 0.1, 0.3], overlap=1 / 4), 3)
    0.041
    """
    from scipy.special import stdtr

    std, size = sample_std(differences), abs(mean(differences))
    if not std:
        return 0.0 if size else 1.0
    t = size / standard_error(std, len(differences), overlap)
    return float(2 * stdtr(len(differences) - 1, -t))


class ResampledTest(NamedTuple):
    """The corrected resampled t-test of the mean, as `corrected_p`.

    Args:
      differences: one per pair, finite, at least two.
      overlap: number of validation images per training image, n2 / n1.
    """

    differences: Sequence[float]
    overlap: float

    @property
    def difference(self) -> float:
        """The observed mean."""
        return mean(self.differences)

    @property
    def p(self) -> float:
        """The two-sided p-value."""
        return corrected_p(self.differences, self.overlap)

    def interval(self, level: float) -> Interval:
        """Student's t interval with the corrected standard error.

        Args:
          level: confidence level, in (0, 1).
        """
        found = mean_interval(self.differences, level, self.overlap)
        assert found is not None
        return found
