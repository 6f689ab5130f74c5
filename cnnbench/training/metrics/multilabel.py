"""Metrics of several labels per image that are functions of the predictions for a whole split."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Labeled(NamedTuple):
    """Predictions for n images, as JAX arrays on the device and NumPy arrays on the host.

    Args:
      logits: outputs, (n, labels).
      targets: 1 for the labels of an image, else 0, (n, labels).
    """

    logits: Any
    targets: Any


def mean_average_precision(predictions: Labeled) -> float:
    """Mean over labels of the average precision; NaN if an output is.

    The average precision of a label is the mean of the precision over its images, each at the
    threshold of its own output, as in scikit-learn's `average_precision_score`. Labels that no
    image has do not count.

    >>> mean_average_precision(Labeled(np.array([[3.0], [2.0], [1.0]]), np.array([[1], [0], [1]])))
    0.8333333333333333
    """
    logits, targets = predictions
    occurs = targets.any(axis=0)
    if np.isnan(logits).any() or not occurs.any():
        return float("nan")
    pairs = zip(logits.T[occurs], targets.T[occurs], strict=True)
    return float(np.mean([_average_precision(scores, own) for scores, own in pairs]))


def _average_precision(scores: NDArray[Any], targets: NDArray[Any]) -> float:
    """The average precision of a label, from the scores and targets of n images, (n,) each."""
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(targets[order], dtype=np.int64)
    ordered = scores[order]
    last = np.append(ordered[1:] != ordered[:-1], True)  # of the images with equal scores
    precision = (found / np.arange(1, len(found) + 1))[last]
    return float(np.diff(found[last], prepend=0) @ precision / found[-1])


def macro_f1_of_labels(predictions: Labeled) -> float:
    """Mean over labels of the F1 score; those that no image has or is predicted do not count.

    >>> macro_f1_of_labels(Labeled(np.array([[1.0, -1], [1, -1]]), np.array([[1, 1], [1, 0]])))
    0.5
    """
    correct, either = _counts(predictions)
    occurs = either > 0
    return float(np.mean(2 * correct[occurs] / either[occurs])) if occurs.any() else float("nan")


def micro_f1(predictions: Labeled) -> float:
    """The F1 score of all labels of all images together; NaN if there are none.

    >>> micro_f1(Labeled(np.array([[1.0, -1], [1, -1]]), np.array([[1, 1], [1, 0]])))
    0.8
    """
    correct, either = (int(counts.sum()) for counts in _counts(predictions))
    return 2 * correct / either if either else float("nan")


def _counts(predictions: Labeled) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Correct predictions of each label, and all images with it plus all predictions of it."""
    predicted, targets = predictions.logits >= 0, predictions.targets != 0  # probability 0.5
    return (predicted & targets).sum(axis=0), predicted.sum(axis=0) + targets.sum(axis=0)
