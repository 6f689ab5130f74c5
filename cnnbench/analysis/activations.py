"""Activations of a trained network on test images: layer statistics, and top images per unit."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnbench.analysis.trained_network import TrainedNetwork
from cnnbench.data.splits import Split
from cnnbench.errors import UsageError
from cnnbench.layers.activation import softmax
from cnnbench.spec.experiment import Task
from cnnbench.system.arrays import Array

EXAMPLES = 9  # images kept per unit


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """Statistics of a layer's activations over images.

    Args:
      name: the layer.
      shape: of its output for one image.
      mean: mean of all values.
      std: standard deviation of all values.
      zeros: fraction of values that are zero.
      least: the smallest value.
      most: the largest value.
    """

    name: str
    shape: tuple[int, ...]
    mean: float
    std: float
    zeros: float
    least: float
    most: float


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class Responses:
    """The images with the largest activations of each unit, in descending order.

    In a layer whose output is an image, a unit is a channel, and its activation is the maximum
    over all positions.

    Args:
      values: activations, (examples, units).
      images: indices of the test images, (examples, units).
      places: row and column of the maximum, (examples, units, 2); (examples, units, 0) for vectors,
        (examples, units, 1) for sequences in a Python model.
    """

    values: Array
    images: Array
    places: Array

    @property
    def strongest(self) -> Array:
        """Units sorted by their largest activation, in descending order."""
        return np.argsort(-self.values[0], kind="stable")


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction for a test image.

    Args:
      image: index of the test image.
      label: its true class; the targets, or the labels as 0 or 1, for other tasks.
      predicted: the most probable class; None for other tasks.
      value: the probability of that class, or else the mean squared error: of a reconstruction, of
        predicted targets, or of the probabilities of labels.
    """

    image: int
    label: int | tuple[float, ...]
    predicted: int | None
    value: float


def choose(test: Split, numbers: Sequence[int]) -> Split:
    """Selects test images by index; all images for an empty list.

    Args:
      test: the test images.
      numbers: indices of the images.

    Raises:
      UsageError: an index is out of range.
    """
    for number in numbers:
        if not 0 <= number < len(test):
            message = f"--image: there is no test image {number}"
            raise UsageError(f"{message}; write 0 to {len(test) - 1}.")
    at = list(numbers) or slice(None)
    return Split(test.images[at], test.labels[at])


@dataclass(slots=True)
class _Sums:
    """Running sums of a layer's activations over chunks of images.

    Squared deviations are from the running mean (Chan, Golub & LeVeque 1983).
    """

    shape: tuple[int, ...]
    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    zeros: int = 0
    least: float = np.inf
    most: float = -np.inf

    def add(self, values: Array) -> None:
        mean = float(values.mean(dtype=np.float64))
        apart, before = mean - self.mean, self.count
        self.count += values.size
        self.mean += apart * values.size / self.count
        self.squares += float(np.square(np.subtract(values, mean, dtype=np.float64)).sum())
        self.squares += apart**2 * before * values.size / self.count
        self.zeros += int((values == 0).sum())
        # NumPy's minimum and maximum propagate NaN; Python's do not.
        self.least = float(np.minimum(self.least, values.min()))
        self.most = float(np.maximum(self.most, values.max()))

    def statistics(self, name: str) -> LayerStatistics:
        std, zeros = np.sqrt(self.squares / self.count), self.zeros / self.count
        return LayerStatistics(
            name, self.shape, self.mean, float(std), zeros, self.least, self.most
        )


def examine(
    network: TrainedNetwork, images: NDArray[np.uint8], layer: str | None = None
) -> tuple[tuple[LayerStatistics, ...], Responses | None]:
    """Statistics of all layers, and top images per unit of one layer, in a single pass.

    Args:
      network: the trained network.
      images: (n, h, w, c), pixels from 0 to 255.
      layer: the layer whose units are examined; None for statistics only.

    Raises:
      UsageError: there is no such layer.
    """
    sums: dict[str, _Sums] = {}
    best: Responses | None = None
    start = 0
    if layer is not None:
        network.require_layers([layer])
    for chunk in network.activation_chunks(images):
        for name, values in chunk.items():
            sums.setdefault(name, _Sums(values.shape[1:])).add(values)
        if layer is not None:
            best = _merged(best, _responses(chunk[layer], start))
        start += len(next(iter(chunk.values())))
    return tuple(entry.statistics(name) for name, entry in sums.items()), best


def _responses(values: Array, start: int) -> Responses:
    """The maximum of each unit in each image, and its position."""
    count, units = len(values), values.shape[-1]
    numbers = np.broadcast_to(np.arange(start, start + count)[:, None], (count, units))
    if values.ndim == 2:
        return Responses(values, numbers, np.zeros((count, units, 0), int))
    flat = values.reshape(count, -1, units)
    at = flat.argmax(axis=1)
    largest = np.take_along_axis(flat, at[:, None], axis=1)[:, 0]
    places = np.stack(np.unravel_index(at, values.shape[1:-1]), axis=-1)
    return Responses(largest, numbers, places)


def _merged(one: Responses | None, other: Responses) -> Responses:
    """The largest activations of both; for equal values, the image that comes first."""
    parts = [other] if one is None else [one, other]
    values = np.concatenate([part.values for part in parts])
    order = np.argsort(-values, axis=0, kind="stable")[:EXAMPLES]
    images = np.concatenate([part.images for part in parts])
    places = np.concatenate([part.places for part in parts])
    return Responses(
        np.take_along_axis(values, order, 0),
        np.take_along_axis(images, order, 0),
        np.take_along_axis(places, order[..., None], 0),
    )


def predictions(
    network: TrainedNetwork, chosen: Split, numbers: Sequence[int]
) -> Iterator[Prediction]:
    """Yields the prediction for each image.

    Args:
      network: the trained network.
      chosen: the images with their labels.
      numbers: their indices in the test split.
    """
    outputs = network.predictions(chosen.images).astype(np.float64)
    scale = network.experiment.dataset.pixel_scale
    for number, image, label, output in zip(
        numbers, chosen.images, chosen.labels, outputs, strict=True
    ):
        task = network.experiment.task
        if task is Task.CLASSIFY:
            best = int(output.argmax())
            with np.errstate(invalid="ignore"):  # outputs of a diverged network
                probability = float(softmax(output)[best])
            yield Prediction(number, int(label), best, probability)
        else:
            made = np.exp(-np.logaddexp(0, -output)) if task is Task.MULTILABEL else output
            target = image / scale if task is Task.RECONSTRUCT else label
            error = float(np.mean((made - target) ** 2))
            own = tuple(label.tolist()) if label.ndim else int(label)
            yield Prediction(number, own, None, error)


def saved(
    network: TrainedNetwork, chosen: Split, numbers: Sequence[int], layer: str | None
) -> Mapping[str, Array]:
    """Activations by layer, with the input images, for a NumPy archive.

    Args:
      network: the trained network.
      chosen: the images with their labels.
      numbers: their indices in the test split.
      layer: the layer to save; all layers if None.
    """
    activations = network.activations(chosen.images, None if layer is None else [layer])
    return {
        "input": chosen.images,
        "input.labels": chosen.labels,
        "input.numbers": np.asarray(numbers),
        **activations,
    }
