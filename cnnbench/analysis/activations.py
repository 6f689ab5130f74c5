"""What a trained network does with test images: its layers in numbers, its units by example."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnnbench.analysis.trained_network import TrainedNetwork
from cnnbench.data.dataset import Split
from cnnbench.errors import UsageError
from cnnbench.layers.activation import softmax
from cnnbench.spec.experiment import Task
from cnnbench.system.arrays import Array

EXAMPLES = 9  # images kept for a unit


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """The values of a layer over images.

    Args:
      name: the layer.
      shape: of its result for one image.
      mean: of all values.
      std: their standard deviation.
      zeros: share of values that are zero.
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
    """What excites each unit of a layer most, the strongest first, one value an image.

    A unit of a layer of images is a channel; its value is the largest of the channel.

    Args:
      values: (examples, units).
      images: numbers of the test images, likewise.
      places: row and column of the value, (examples, units, 2); (examples, units, 0) for vectors,
        (examples, units, 1) for sequences in a Python model.
    """

    values: Array
    images: Array
    places: Array

    @property
    def strongest(self) -> Array:
        """Units by their largest value, the strongest first."""
        return np.argsort(-self.values[0], kind="stable")


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the network makes of an image.

    Args:
      image: number of the test image.
      label: its class.
      predicted: the class that the network prefers; None unless it classifies.
      value: that class's probability, or the mean squared error of a reconstruction.
    """

    image: int
    label: int
    predicted: int | None
    value: float


def choose(test: Split, numbers: Sequence[int]) -> Split:
    """The test images of these numbers; all of them for none.

    Raises:
      UsageError: there is no such image.
    """
    for number in numbers:
        if not 0 <= number < len(test):
            message = f"--image: there is no test image {number}"
            raise UsageError(f"{message}; write 0 to {len(test) - 1}.")
    at = list(numbers) or slice(None)
    return Split(test.images[at], test.labels[at])


@dataclass(slots=True)
class _Sums:
    """Sums of a layer over chunks of images.

    Squares are those of differences from the mean so far (Chan, Golub & LeVeque 1983).
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
        # NumPy's, which let no NaN pass unseen.
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
    """Every layer in numbers, and what excites the units of one, in one pass over the images.

    Args:
      network: the trained network.
      images: (n, h, w, c), pixels from 0 to 255.
      layer: the one whose units are asked about; None for none.

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
    """Every image's largest value of each unit, and where it is."""
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
    """The strongest examples of both; of equal values the first image's."""
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
    """What the network makes of test images.

    Args:
      network: the trained network.
      chosen: the images, with their labels.
      numbers: their numbers.
    """
    outputs = network.outputs(chosen.images).astype(np.float64)
    scale = network.experiment.dataset.pixel_scale
    for number, image, label, output in zip(
        numbers, chosen.images, chosen.labels, outputs, strict=True
    ):
        if network.experiment.task is Task.CLASSIFY:
            best = int(output.argmax())
            with np.errstate(invalid="ignore"):  # a diverged network's outputs
                probability = float(softmax(output)[best])
            yield Prediction(number, int(label), best, probability)
        else:
            error = float(np.mean((output - image / scale) ** 2))
            yield Prediction(number, int(label), None, error)


def saved(
    network: TrainedNetwork, chosen: Split, numbers: Sequence[int], layer: str | None
) -> Mapping[str, Array]:
    """Arrays for a notebook: activations by layer, and the images that caused them."""
    activations = network.activations(chosen.images, None if layer is None else [layer])
    return {
        "input": chosen.images,
        "input.labels": chosen.labels,
        "input.numbers": np.asarray(numbers),
        **activations,
    }
