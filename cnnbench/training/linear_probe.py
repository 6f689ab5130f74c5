"""Linear probe: accuracy of a linear classifier on an autoencoder's code."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_TRAIN = 10_000  # training images of the probe
_ITERATIONS = 1_000

Codes = NDArray[np.float32]
Labels = NDArray[np.integer[Any]]


def probe_accuracy(train: Codes, labels: Labels, test: Codes, test_labels: Labels) -> float:
    """Test accuracy of a logistic regression trained on frozen codes.

    The usual measure of a representation (Alain & Bengio 2017). Codes are standardized; the
    penalty is scikit-learn's default.

    Args:
      train: codes of training images, (n, ...).
      labels: their classes, (n,).
      test: codes of test images, (m, ...).
      test_labels: their classes, (m,).

    Returns:
      A fraction; NaN if any code is not finite.

    >>> one, other = np.zeros((9, 1), np.float32), np.ones((9, 1), np.float32)
    >>> codes, labels = np.concatenate([one, other]), np.repeat([3, 5], 9)
    >>> probe_accuracy(codes, labels, codes, labels)
    1.0
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, test = train.reshape(len(train), -1), test.reshape(len(test), -1)
    if not (np.isfinite(train).all() and np.isfinite(test).all()):
        return math.nan
    if len(np.unique(labels)) < 2:
        return float(np.mean(test_labels == labels[0]))
    reader = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_ITERATIONS))
    reader.fit(train, labels)
    return float(reader.score(test, test_labels))
