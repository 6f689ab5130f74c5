"""Predictions and reconstructions of your own images, by one seed or an ensemble of seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from cnnbench.analysis.trained_network import Images, TrainedNetwork
from cnnbench.errors import StoreError
from cnnbench.layers.activation import softmax
from cnnbench.runs.experiment import loss_name
from cnnbench.spec.experiment import Task
from cnnbench.training.losses import per_image_loss

THRESHOLD = 0.5  # probability from which a label is predicted


@dataclass(frozen=True, slots=True)
class Guess:
    """The classification of an image.

    Args:
      predicted: the most probable class.
      probability: its probability, mean over seeds.
      runner_up: the second most probable class.
      runner_up_probability: its probability, mean over seeds.
      by_seed: the class predicted by each seed.
      probabilities: of all classes, mean over seeds.
    """

    predicted: int
    probability: float
    runner_up: int
    runner_up_probability: float
    by_seed: tuple[int, ...]
    probabilities: tuple[float, ...]

    @property
    def agreement(self) -> int:
        """Number of seeds that predict this class."""
        return self.by_seed.count(self.predicted)


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class Reconstruction:
    """The reconstruction of an image.

    Args:
      loss: the experiment's loss between image and reconstruction, mean over seeds.
      squared_error: of pixels divided by the experiment's pixel_scale, mean over pixels and seeds.
      pixels: the first seed's reconstruction, (h, w, c) from 0 to 255.
    """

    loss: float
    squared_error: float
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Regression:
    """The predicted targets of an image.

    Args:
      values: each target, mean over seeds.
      by_seed: the targets that each seed predicts.
    """

    values: tuple[float, ...]
    by_seed: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class LabelSet:
    """The predicted labels of an image.

    Args:
      labels: those with a probability of 0.5 or more, the most probable first.
      probabilities: of all labels, mean over seeds.
    """

    labels: tuple[int, ...]
    probabilities: tuple[float, ...]


Answer = Guess | Reconstruction | Regression | LabelSet


def predict(networks: Sequence[TrainedNetwork], images: Images) -> Sequence[Answer]:
    """Predictions for images, as the task of the networks is.

    Args:
      networks: the networks of one run, one per seed.
      images: (n, h, w, c), pixels from 0 to 255.

    Raises:
      StoreError: a seed diverged.
    """
    match networks[0].experiment.task:
        case Task.CLASSIFY:
            return classify(networks, images)
        case Task.RECONSTRUCT:
            return reconstruct(networks, images)
        case Task.REGRESS:
            return regress(networks, images)
        case Task.MULTILABEL:
            return find_labels(networks, images)
        case _:
            assert_never(networks[0].experiment.task)


def regress(networks: Sequence[TrainedNetwork], images: Images) -> list[Regression]:
    """Predicts targets, as `predict`."""
    outputs = np.stack([finite_predictions(network, images) for network in networks], axis=1)
    means = outputs.astype(np.float64).mean(axis=1).tolist()
    each = [tuple(map(tuple, seeds)) for seeds in outputs.tolist()]
    return [Regression(tuple(mean), own) for mean, own in zip(means, each, strict=True)]


def find_labels(networks: Sequence[TrainedNetwork], images: Images) -> list[LabelSet]:
    """Predicts labels, as `predict`."""
    logits = [finite_predictions(network, images).astype(np.float64) for network in networks]
    found = []
    for mean in np.mean([np.exp(-np.logaddexp(0, -z)) for z in logits], axis=0):
        order = np.argsort(-mean, kind="stable").tolist()
        labels = tuple(label for label in order if mean[label] >= THRESHOLD)
        found.append(LabelSet(labels, tuple(mean.tolist())))
    return found


def classify(networks: Sequence[TrainedNetwork], images: Images) -> list[Guess]:
    """Classifies images.

    Args:
      networks: the networks of one run, one per seed.
      images: (n, h, w, c), pixels from 0 to 255.

    Raises:
      StoreError: a seed diverged.
    """
    shares = np.stack(
        [softmax(finite_predictions(network, images).astype(np.float64)) for network in networks]
    )
    guesses = []
    for mean, each in zip(shares.mean(axis=0), shares.swapaxes(0, 1), strict=True):
        first, second = np.argsort(-mean, kind="stable")[:2].tolist()
        by_seed = tuple(each.argmax(axis=1).tolist())
        chances = tuple(mean.tolist())
        guesses.append(Guess(first, chances[first], second, chances[second], by_seed, chances))
    return guesses


def reconstruct(networks: Sequence[TrainedNetwork], images: Images) -> list[Reconstruction]:
    """Reconstructs images.

    Args:
      networks: the networks of one run, one per seed.
      images: (n, h, w, c), pixels from 0 to 255.

    Raises:
      StoreError: a seed diverged.
    """
    scale = networks[0].experiment.dataset.pixel_scale
    outputs = [finite_predictions(network, images) for network in networks]
    targets: Any = (images / scale).astype(np.float32)
    loss = per_image_loss(loss_name(networks[0].experiment))
    losses = np.mean([loss(made, targets) for made in outputs], axis=0).tolist()
    errors = np.mean([per_image_loss("mse")(made, targets) for made in outputs], axis=0).tolist()
    pixels = np.clip(outputs[0] * scale, 0, 255).round().astype(np.uint8)
    return [Reconstruction(*each) for each in zip(losses, errors, pixels, strict=True)]


def finite_predictions(network: TrainedNetwork, images: Images) -> Any:
    """Outputs as in the evaluation of the run, (n, ...).

    Args:
      network: the network of a seed.
      images: (n, h, w, c), pixels from 0 to 255.

    Raises:
      StoreError: they are not finite.
    """
    outputs = network.predictions(images)
    if not np.isfinite(outputs).all():
        message = f"{network.path}: seed {network.seed} diverged (its outputs are not finite)"
        raise StoreError(f"{message}; choose another with --seed.")
    return outputs
