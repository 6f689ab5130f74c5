"""Confusion matrix, calibration, misclassified images and kernels of trained classifiers."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnbench.graph.plan import Plan
from cnnbench.layers import Conv, Dense, Flatten
from cnnbench.layers.activation import log_softmax, softmax
from cnnbench.layers.base import INPUT
from cnnbench.training.metrics.classification import CalibrationBins, Classified, calibration_bins


class Mistake(NamedTuple):
    """A test image that at least one seed misclassifies.

    Args:
      image: (h, w, c), pixels from 0 to 255.
      number: its index in the test split.
      label: its true class.
      answer: the most frequent wrong prediction.
      wrong: number of seeds that misclassify it.
      seeds: number of seeds.
      probability: predicted probability of `answer`, mean over seeds.
      loss: cross-entropy of the image, mean over seeds.
    """

    image: NDArray[np.uint8]
    number: int
    label: int
    answer: int
    wrong: int
    seeds: int
    probability: float
    loss: float


class Kernels(NamedTuple):
    """Kernels of a layer that reads the input image.

    Args:
      layer: name of the layer.
      images: (n, h, w, c), one per kernel.
      total: number of kernels in the layer; `images` may hold only the first.
    """

    layer: str
    images: NDArray[np.floating[Any]]
    total: int


def confusion(labels: NDArray[np.int32], logits: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Confusion matrix: counts by true class (row) and predicted class (column).

    Args:
      labels: (n,).
      logits: (n, classes), or (seeds, n, classes) to sum over seeds; ties go to the first class.

    Returns:
      Counts, (classes, classes).
    """
    classes = logits.shape[-1]
    pairs = labels.astype(np.int64) * classes + logits.argmax(axis=-1)
    return np.bincount(pairs.ravel(), minlength=classes * classes).reshape(classes, classes)


def calibrations(
    labels: NDArray[np.int32], logits: NDArray[np.floating[Any]]
) -> tuple[CalibrationBins, ...]:
    """Images in bins by confidence, for each seed.

    Args:
      labels: (n,).
      logits: (seeds, n, classes).
    """
    confidences = softmax(logits.astype(np.float64)).max(axis=-1)
    found = zip(logits.argmax(axis=-1), confidences, strict=True)
    return tuple(calibration_bins(Classified(labels, *each)) for each in found)


def hardest(
    images: NDArray[np.uint8],
    labels: NDArray[np.int32],
    logits: NDArray[np.floating[Any]],
    most: int,
) -> tuple[Mistake, ...]:
    """The images with the largest mean loss among those that at least one seed misclassifies.

    Args:
      images: (n, h, w, c).
      labels: (n,).
      logits: (seeds, n, classes).
      most: maximum number of images.
    """
    logs = log_softmax(logits.astype(np.float64))
    losses = -logs[:, np.arange(len(labels)), labels].mean(axis=0)
    answers = logits.argmax(axis=-1)
    missed = answers != labels
    found = [int(i) for i in np.argsort(-losses, kind="stable") if missed[:, i].any()][:most]
    common = {i: int(np.bincount(answers[missed[:, i], i]).argmax()) for i in found}
    return tuple(
        Mistake(
            image=images[i],
            number=i,
            label=int(labels[i]),
            answer=answer,
            wrong=int(missed[:, i].sum()),
            seeds=len(logits),
            probability=float(np.exp(logs[:, i, answer]).mean()),
            loss=float(losses[i]),
        )
        for i, answer in common.items()
    )


def first_kernels(
    plan: Plan, parameters: Mapping[str, Mapping[str, NDArray[Any]]], most: int
) -> Iterator[Kernels]:
    """Yields the kernels of each layer that reads the input image, as images.

    A kernel of a dense layer has one weight per pixel. Layers after noise or flattening still
    read the image.

    Args:
      plan: the network.
      parameters: by layer and name.
      most: maximum number of kernels per layer.
    """
    reads_image = {INPUT}
    for node in plan.nodes:
        if not reads_image.issuperset(node.inputs):
            continue
        match node.op:
            case Flatten():
                reads_image.add(node.name)
            case op if op.training_only:
                reads_image.add(node.name)
            case Conv() | Dense() if node.params:
                kernel = np.moveaxis(parameters[node.name]["kernel"], -1, 0)
                shape = kernel.shape[1:] if isinstance(node.op, Conv) else plan.input_shape
                images = kernel.reshape(len(kernel), *shape)
                yield Kernels(node.name, images[:most], len(images))
