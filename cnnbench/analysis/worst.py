"""The test images that trained networks predict worst: those with the largest loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnbench.analysis.predict import Answer, finite_predictions, predict
from cnnbench.analysis.trained_network import TrainedNetwork
from cnnbench.data.splits import Split
from cnnbench.runs.experiment import loss_name
from cnnbench.spec.experiment import Task
from cnnbench.training.losses import per_image_loss


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class WorstImage:
    """A test image and its prediction.

    Args:
      number: its index in the test split.
      pixels: the image, (h, w, c) from 0 to 255.
      truth: its class, targets or labels (1 or 0), (k,); empty for reconstruct.
      answer: the prediction.
      loss: the experiment's test loss of the image, mean over seeds.
    """

    number: int
    pixels: NDArray[np.uint8]
    truth: tuple[float, ...]
    answer: Answer
    loss: float


def worst_images(
    networks: Sequence[TrainedNetwork], test: Split, most: int
) -> tuple[WorstImage, ...]:
    """The test images with the largest loss, the largest first.

    Args:
      networks: the networks of one run, one per seed.
      test: the test images.
      most: number of images.

    Raises:
      StoreError: a seed diverged.
    """
    losses = np.mean([_losses(network, test) for network in networks], axis=0)
    numbers = np.argsort(-losses, kind="stable")[:most]
    images, labels = np.stack([test.images[int(n)] for n in numbers]), test.labels[numbers]
    if networks[0].experiment.task is Task.RECONSTRUCT:
        labels = np.zeros((len(numbers), 0))
    truths = [tuple(truth) for truth in labels.reshape(len(numbers), -1).tolist()]
    answers = predict(networks, images)
    found = zip(numbers.tolist(), images, truths, answers, losses[numbers].tolist(), strict=True)
    return tuple(WorstImage(*each) for each in found)


def _losses(network: TrainedNetwork, test: Split) -> NDArray[Any]:
    """The test loss of each image, (n,), without label smoothing and weights."""
    import jax.numpy as jnp

    experiment = network.experiment
    outputs, targets = finite_predictions(network, test.images), test.labels
    if experiment.task is Task.RECONSTRUCT:
        targets = (np.asarray(test.images) / experiment.dataset.pixel_scale).astype(np.float32)
    if scaling := experiment.dataset.target_scaling:
        outputs, targets = scaling.apply(outputs), scaling.apply(targets)
    loss = per_image_loss(loss_name(experiment))
    return np.asarray(loss(jnp.asarray(outputs), jnp.asarray(targets)))
