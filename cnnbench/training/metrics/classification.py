"""Metrics of classifiers that are functions of the predictions for a whole split."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

BINS = 15  # of the calibration error, as in Guo et al. 2017


class Classified(NamedTuple):
    """Predictions for n images, as JAX arrays on the device and NumPy arrays on the host.

    Args:
      labels: true classes, (n,) int32.
      classes: predicted classes, (n,) int32; -1 if an output is NaN.
      confidences: probabilities of the predicted classes (softmax), (n,); NaN if an output is.
    """

    labels: Any
    classes: Any
    confidences: Any


def predictions_of(logits: jax.Array, labels: jax.Array) -> Classified:
    """Predictions from logits, (n, classes); ties go to the lower class index."""
    lost = jnp.isnan(logits).any(axis=1)
    classes = jnp.where(lost, -1, logits.argmax(axis=1))
    return Classified(labels, classes.astype(jnp.int32), jax.nn.softmax(logits).max(axis=1))


class ClassCounts(NamedTuple):
    """Numbers of images by class, (classes,) int64 each.

    Args:
      images: images with this label.
      predicted: images predicted to be of this class.
      correct: images of this class that are predicted to be.
    """

    images: NDArray[np.int64]
    predicted: NDArray[np.int64]
    correct: NDArray[np.int64]


def class_counts(predictions: Classified) -> ClassCounts:
    """Numbers of images by class; exact for any number of images."""
    labels, classes = predictions.labels, predictions.classes
    size = 1 + max(labels.max(), classes.max())
    some = (labels, classes[classes >= 0], labels[labels == classes])
    return ClassCounts(*(np.bincount(each, minlength=size) for each in some))


def balanced_accuracy(predictions: Classified) -> float:
    """Mean recall of the classes that occur among the labels (Brodersen et al. 2010).

    >>> balanced_accuracy(Classified(np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0]), None))
    0.5
    """
    counts = class_counts(predictions)
    occurs = counts.images > 0
    return float(np.mean(counts.correct[occurs] / counts.images[occurs]))


def macro_f1(predictions: Classified) -> float:
    """Mean F1 score of the classes that occur among the labels or the predictions.

    A class's score is 2 TP / (2 TP + FP + FN), the harmonic mean of its precision and recall; 0
    if it is never predicted, or never the label.

    >>> macro_f1(Classified(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), None))
    0.7333333333333334
    """
    counts = class_counts(predictions)
    either = counts.images + counts.predicted
    occurs = either > 0
    return float(np.mean(2 * counts.correct[occurs] / either[occurs]))


class CalibrationBins(NamedTuple):
    """Images in bins of equal width by confidence, (bins,) each; bin b is (b/bins, (b+1)/bins].

    Args:
      images: number of images.
      confidence: sum of their confidences.
      correct: number of those predicted correctly.
    """

    images: NDArray[np.int64]
    confidence: NDArray[np.float64]
    correct: NDArray[np.int64]

    @property
    def error(self) -> float:
        """The expected calibration error (Guo et al. 2017, equation 3)."""
        return float(np.abs(self.correct - self.confidence).sum() / self.images.sum())


def calibration_bins(predictions: Classified, bins: int = BINS) -> CalibrationBins:
    """Bins of a reliability diagram (Niculescu-Mizil and Caruana 2005).

    Args:
      predictions: for n images, with finite confidences.
      bins: number of bins.
    """
    confidences = np.asarray(predictions.confidences, np.float64)
    index = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    correct = predictions.labels == predictions.classes
    return CalibrationBins(
        np.bincount(index, minlength=bins),
        np.bincount(index, confidences, minlength=bins).astype(np.float64),
        np.bincount(index[correct], minlength=bins),
    )


def expected_calibration_error(predictions: Classified) -> float:
    """Distance between confidence and accuracy, averaged over images in bins by confidence.

    NaN if an output is NaN.

    >>> sure = np.array([0.9, 0.9, 0.9, 0.9])
    >>> round(expected_calibration_error(Classified(np.array([0, 0, 1, 1]), np.zeros(4), sure)), 6)
    0.4
    """
    if np.isnan(predictions.confidences).any():
        return float("nan")
    return calibration_bins(predictions).error
