"""Scaling of pixels to the input of a network, and statistics of the training images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from cnnbench.errors import DataError

if TYPE_CHECKING:  # reading an experiment imports no NumPy
    import numpy as np
    from numpy.typing import NDArray

    from cnnbench.data.streaming.images import StreamedImages

BRIGHTEST = 255  # largest pixel value in a dataset
CHUNK = 1000  # images counted at a time


@dataclass(frozen=True, slots=True)
class Scaling:
    """Scales pixels from 0 to 255 to the input of a network.

    Without a mean, pixels are divided by `pixel_scale`. With a mean, they are scaled to [0, 1] and
    normalized by channel, as by torchvision's `Normalize`.

    Args:
      pixel_scale: divisor of the pixels, unless there is a mean.
      mean: of pixels in [0, 1], one per channel or one for all; empty to divide by `pixel_scale`.
      std: standard deviations, as many as means.
    """

    pixel_scale: float
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def offsets(self) -> "NDArray[np.float32]":
        """Values to subtract from pixels first, (channels,) or (1,)."""
        import numpy as np

        return np.array([BRIGHTEST * value for value in self.mean], np.float32)

    @property
    def divisors(self) -> "NDArray[np.float32]":
        """Divisors of pixels, (channels,) or (1,)."""
        import numpy as np

        factors = [BRIGHTEST * value for value in self.std]
        return np.array(factors or [self.pixel_scale], np.float32)

    def apply(self, pixels: Any) -> Any:
        """The input of a network for pixels in float32, (..., channels), in NumPy or JAX."""
        if not self.mean:
            return pixels / self.pixel_scale
        return (pixels - self.offsets) / self.divisors

    def of_unit(self, values: "NDArray[np.float64]") -> "NDArray[np.float64]":
        """The input of a network for pixels divided by 255, (..., channels)."""
        import numpy as np

        if not self.mean:
            return (BRIGHTEST / self.pixel_scale) * values
        normalized: NDArray[np.float64] = (values - np.array(self.mean)) / np.array(self.std)
        return normalized

    @property
    def text(self) -> str:
        """Description in words.

        >>> Scaling(256.0).text, Scaling(256.0, (0.5,), (0.25,)).text
        ('divided by 256', 'divided by 255 and normalized: mean 0.5, std 0.25')
        """
        if not self.mean:
            return f"divided by {self.pixel_scale:g}"
        mean, std = map(_numbers, (self.mean, self.std))
        return f"divided by {BRIGHTEST} and normalized: mean {mean}, std {std}"


@dataclass(frozen=True, slots=True)
class TargetScaling:
    """Normalization of regression targets, as `StandardScaler` of scikit-learn.

    Args:
      mean: one per target, or one for all.
      std: standard deviations, as many as means.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, targets: Any) -> Any:
        """What a network predicts for targets, (n, k), in NumPy or JAX."""
        import numpy as np

        return (targets - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)

    def undo(self, outputs: Any) -> Any:
        """Targets that the outputs of a network stand for, (n, k), in NumPy or JAX."""
        import numpy as np

        return outputs * np.array(self.std, np.float32) + np.array(self.mean, np.float32)


def _numbers(values: Sequence[float]) -> str:
    texts = [f"{value:.4g}" for value in values]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def channel_statistics(
    images: "NDArray[np.uint8] | StreamedImages",
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, after scaling to [0, 1].

    Computed from exact sums of integers, so that they depend on neither order nor machine.

    Args:
      images: (n, height, width, channels).

    Raises:
      DataError: all pixels of a channel have the same value.

    >>> import numpy as np
    >>> channel_statistics(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1))
    ((0.5,), (0.5,))
    """
    number, *sums = _channel_sums(images)
    found = (_mean_and_std(number, *of_channel) for of_channel in zip(*sums, strict=True))
    means, stds = zip(*found, strict=True)
    if 0.0 in stds:
        message = f"dataset.normalize: channel {stds.index(0.0)} of the training images is constant"
        raise DataError(f"{message}; write {{mean: [...], std: [...]}} instead of auto.")
    return means, stds


def balanced_weights(labels: "NDArray[np.int32]", num_classes: int) -> tuple[float, ...]:
    """Class weights inversely proportional to the number of images, as `balanced` in scikit-learn.

    The number of images divided by the number of classes and by the number of images of the class:
    the mean weight of an image is 1.

    Args:
      labels: labels of the training images, (n,).
      num_classes: number of classes.

    Raises:
      DataError: a class has no images.

    >>> import numpy as np
    >>> balanced_weights(np.array([0, 0, 0, 1], np.int32), 2)
    (0.6666666666666666, 2.0)
    """
    import numpy as np

    counts = np.bincount(labels, minlength=num_classes).tolist()
    if 0 in counts:
        message = f"train.class_weights: class {counts.index(0)} has no training images"
        raise DataError(f"{message}; write a list of weights instead of balanced.")
    return tuple(len(labels) / (num_classes * count) for count in counts)


def balanced_pos_weight(
    labels: "NDArray[np.uint8]", names: Sequence[str] = ()
) -> tuple[float, ...]:
    """Number of images without a label, divided by that of images with it, for each label.

    With this weight, both count the same in binary cross-entropy (PyTorch's documentation of
    `BCEWithLogitsLoss`).

    Args:
      labels: 1 for the labels of each training image, else 0, (n, labels).
      names: names of the labels; empty if they have numbers.

    Raises:
      DataError: all training images have a label, or none has.

    >>> import numpy as np
    >>> balanced_pos_weight(np.array([[1, 0], [0, 1], [0, 1], [0, 0]]))
    (3.0, 1.0)
    """
    import numpy as np

    number, counts = len(labels), np.count_nonzero(labels, axis=0).tolist()
    for label, count in enumerate(counts):
        if count in {0, number}:
            name = f"'{names[label]}'" if names else label
            which = "all training images have" if count else "no training image has"
            message = f"train.pos_weight: {which} label {name}"
            raise DataError(f"{message}; write a list of weights instead of balanced.")
    return tuple((number - count) / count for count in counts)


def target_statistics(
    targets: "NDArray[np.float32]", names: Sequence[str] = ()
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each target, computed in float64.

    Args:
      targets: of the training images, (n, k).
      names: names of the targets; empty if they have numbers.

    Raises:
      DataError: a target is the same for all training images.

    >>> import numpy as np
    >>> target_statistics(np.array([[1, 10], [3, 20]], np.float32))
    ((2.0, 15.0), (1.0, 5.0))
    """
    import numpy as np

    wide = targets.astype(np.float64)
    mean, std = wide.mean(axis=0).tolist(), wide.std(axis=0).tolist()
    constant = (targets == targets[0]).all(axis=0)
    if constant.any():
        place = int(constant.argmax())
        name = f"target '{names[place]}'" if names else f"target {place}"
        message = f"dataset.normalize_targets: {name} is the same for all training images"
        raise DataError(f"{message}; write {{mean: [...], std: [...]}} instead of auto.")
    return tuple(mean), tuple(std)


def _channel_sums(
    images: "NDArray[np.uint8] | StreamedImages",
) -> "tuple[int, Sequence[int], Sequence[int]]":
    """Number of pixels per channel, and by channel the sum of their values and of their squares."""
    import numpy as np

    if not isinstance(images, np.ndarray):
        return images.channel_sums()
    counts: NDArray[np.int64] = sum(
        (_counts(images[start : start + CHUNK]) for start in range(0, len(images), CHUNK)),
        np.zeros((images.shape[-1], BRIGHTEST + 1), np.int64),
    )
    levels = np.arange(BRIGHTEST + 1)
    return int(counts[0].sum()), (counts @ levels).tolist(), (counts @ levels**2).tolist()


def _counts(images: "NDArray[np.uint8]") -> "NDArray[np.int64]":
    """Number of pixels of each value, (channels, 256)."""
    import numpy as np

    channels = images.reshape(-1, images.shape[-1]).T
    return np.stack([np.bincount(values, minlength=BRIGHTEST + 1) for values in channels])


def _mean_and_std(number: int, total: int, squares: int) -> tuple[float, float]:
    variance = Fraction(number * squares - total**2, (number * BRIGHTEST) ** 2)
    return float(Fraction(total, number * BRIGHTEST)), math.sqrt(variance)
