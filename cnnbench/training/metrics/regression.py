"""Metrics of regression that are functions of the predictions for a whole split."""

from typing import Any, NamedTuple

import numpy as np


class Regressed(NamedTuple):
    """Predictions for n images, as JAX arrays on the device and NumPy arrays on the host.

    Args:
      outputs: predicted targets, (n, targets).
      targets: true targets, (n, targets).
    """

    outputs: Any
    targets: Any


def r2(predictions: Regressed) -> float:
    """Coefficient of determination, the mean over targets; NaN for one image or NaN outputs.

    1 for perfect predictions, 0 for those that always are the mean. As in scikit-learn's
    `r2_score`, a target that is the same for all images has 1 if all predictions are exact, else 0.

    >>> r2(Regressed(np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [2.0], [6.0]])))
    0.3571428571428571
    """
    outputs, targets = (np.asarray(each, np.float64) for each in predictions)
    if len(targets) < 2 or np.isnan(outputs).any():
        return float("nan")
    errors = ((targets - outputs) ** 2).sum(axis=0)
    total = ((targets - targets.mean(axis=0)) ** 2).sum(axis=0)
    constant = (targets == targets[0]).all(axis=0)
    shares = np.where(constant, errors > 0, errors / np.where(constant, 1, total))
    return float(np.mean(1 - shares))


def rmse(predictions: Regressed) -> float:
    """Root mean squared error, the mean over targets; NaN for NaN outputs.

    As in scikit-learn's `root_mean_squared_error`, the root is that of each target over all images,
    so it is not the mean of roots of the images.

    >>> rmse(Regressed(np.array([[1.0], [2.0]]), np.array([[4.0], [6.0]])))
    3.5355339059327378
    """
    outputs, targets = (np.asarray(each, np.float64) for each in predictions)
    return float(np.sqrt(((targets - outputs) ** 2).mean(axis=0)).mean())
