"""What a trained classifier gets wrong, and what its first kernels look like."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnbench.graph import Plan
from cnnbench.layers import INPUT, Conv, Dense, Dropout, Flatten, GaussianNoise, MaskingNoise


class Mistake(NamedTuple):
    """An image that a classifier finds hard.

    Args:
      image: (h, w, c), pixels from 0 to 255.
      number: its place among the images, from 0.
      label: its class.
      answer: the class that the network says.
      probability: of that answer, by the network.
      loss: cross-entropy of the image.
    """

    image: NDArray[np.uint8]
    number: int
    label: int
    answer: int
    probability: float
    loss: float


class Kernels(NamedTuple):
    """The kernels of a layer that reads the image.

    Args:
      layer: its name.
      images: (n, h, w, c), one for each kernel.
      total: how many there are; `images` may be only the first.
    """

    layer: str
    images: NDArray[np.floating[Any]]
    total: int


def confusion(labels: NDArray[np.int32], logits: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """How many images of a class (line) were taken for which (column), (classes, classes).

    Args:
      labels: (n,).
      logits: (n, classes); of equal ones the first counts.
    """
    classes = logits.shape[1]
    pairs = labels.astype(np.int64) * classes + logits.argmax(axis=1)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def hardest(
    images: NDArray[np.uint8],
    labels: NDArray[np.int32],
    logits: NDArray[np.floating[Any]],
    most: int,
) -> tuple[Mistake, ...]:
    """The images with the largest loss among those that are taken for another class.

    Args:
      images: (n, h, w, c).
      labels: (n,).
      logits: (n, classes).
      most: at most so many are returned.
    """
    logs = _log_softmax(logits.astype(np.float64))
    losses, answers = -logs[np.arange(len(labels)), labels], logits.argmax(axis=1)
    wrong = [int(i) for i in np.argsort(-losses, kind="stable") if answers[i] != labels[i]]
    return tuple(
        Mistake(
            images[i],
            i,
            int(labels[i]),
            int(answers[i]),
            float(np.exp(logs[i, answers[i]])),
            float(losses[i]),
        )
        for i in wrong[:most]
    )


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def first_kernels(
    plan: Plan, parameters: Mapping[str, Mapping[str, NDArray[Any]]], most: int
) -> Iterator[Kernels]:
    """The kernels of every layer that reads the image, as images.

    A dense layer's kernel is one weight for each pixel. Noise and flattening do not
    change what is read.

    Args:
      plan: the network.
      parameters: by layer and name.
      most: at most so many kernels of a layer are returned.
    """
    reads_image = {INPUT}
    for node in plan.nodes:
        if not reads_image.issuperset(node.inputs):
            continue
        match node.op:
            case Dropout() | GaussianNoise() | MaskingNoise() | Flatten():
                reads_image.add(node.name)
            case Conv() | Dense():
                kernel = np.moveaxis(parameters[node.name]["kernel"], -1, 0)
                shape = kernel.shape[1:] if isinstance(node.op, Conv) else plan.input_shape
                images = kernel.reshape(len(kernel), *shape)
                yield Kernels(node.name, images[:most], len(images))
