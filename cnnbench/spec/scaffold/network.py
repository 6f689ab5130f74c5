"""Chooses image size, network and training settings for a dataset."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from cnnbench.data.catalog import ResizeMethod

SIDE = 64  # pixels of an image for a training of minutes on a laptop, and with `MANY` images
SIDE_OF_MANY, MANY = 32, 10_000
MULTIPLE = 8  # of image sizes, so that pooling drops no pixels
WASTE = 0.2  # of an image that may be cropped
ALIKE = 1.25  # ratio of aspect ratios that count as the same
WIDEST = 4.0  # aspect ratio of resized images
END = 64  # pixels of the feature maps of the last convolution
STEPS = 1_000  # of a training


@dataclass(frozen=True, slots=True)
class ResizeChoice:
    """A size for images of several sizes.

    Args:
      size: height and width.
      method: of scaling.
      waste: share that a quarter of the images would lose, at least, if they were cropped.
    """

    size: tuple[int, int]
    method: ResizeMethod
    waste: float


def choose_resize(sizes: Sequence[tuple[int, int]], num_train: int) -> ResizeChoice | None:
    """Chooses the size of network inputs.

    The aspect ratio is that of the median image if most have a similar one, or else square.
    Images are cropped to it if three quarters of them lose no more than `WASTE`. At least half of
    them are not enlarged, unless they are smaller than `MULTIPLE` pixels. Very wide or tall images
    are stretched, since padding would leave a few pixels of their shorter side.

    Args:
      sizes: heights and widths of the images.
      num_train: number of training images.

    Returns:
      None if all images have the same size, with few pixels.

    >>> choose_resize([(480, 640)] * 3, 1000)
    ResizeChoice(size=(56, 72), method='crop', waste=0.03...)
    >>> choose_resize([(28, 28)] * 3, 1000) is None
    True
    """
    most = SIDE if num_train <= MANY else SIDE_OF_MANY
    if len(set(sizes)) == 1 and (max(sizes[0]) <= most or _is_strip(sizes[0], most**2)):
        return None
    ratios = [width / height for height, width in sizes]
    aspect = _aspect(ratios)
    across = median(min(height, width / aspect) for height, width in sizes)
    height = max(_whole(MULTIPLE / min(aspect, 1)), _whole(min(across, most / aspect**0.5)))
    width = max(MULTIPLE, _whole(height * aspect))
    lost = sorted(1 - min(ratio * height / width, width / height / ratio) for ratio in ratios)
    waste = lost[3 * len(lost) // 4]
    if waste <= WASTE:
        return ResizeChoice((height, width), "crop", waste)
    is_wide = not 1 / (2 * WIDEST) <= median(ratios) <= 2 * WIDEST
    return ResizeChoice((height, width), "stretch" if is_wide else "fit", waste)


def _is_strip(size: tuple[int, int], most: int) -> bool:
    """True for images that are so low or narrow that they have few pixels in spite of their length.

    >>> _is_strip((2, 300), 4096), _is_strip((48, 80), 4096)
    (True, False)
    """
    return min(size) < MULTIPLE and size[0] * size[1] <= most


def _aspect(ratios: Sequence[float]) -> float:
    """Width divided by height: the median if most ratios are similar to it, or else 1."""
    ratios = [min(max(ratio, 1 / WIDEST), WIDEST) for ratio in ratios]
    middle = median(ratios)
    near = sum(middle / ALIKE <= ratio <= middle * ALIKE for ratio in ratios)
    if near < 0.8 * len(ratios) or 1 / ALIKE <= middle <= ALIKE:
        return 1.0
    return middle


def _whole(pixels: float) -> int:
    return MULTIPLE * round(pixels / MULTIPLE)


def choose_layers(
    shape: tuple[int, int], num_classes: int, num_train: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """A small convolutional network: convolutions with max pooling until the image is small.

    With few images, a dropout layer.

    Args:
      shape: height and width of the images.
      num_classes: units of the last layer.
      num_train: number of training images.

    Returns:
      Names and settings of the layers.

    >>> [name for name, _ in choose_layers((28, 28), 10, 500)]
    ['conv1', 'pool1', 'conv2', 'pool2', 'conv3', 'drop', 'out']
    """
    filters = 16 if num_train <= MANY else 32
    number = num_pools(shape)
    for index in range(number + 1):
        conv = {"filters": min(filters * 2**index, 256), "kernel": 3, "padding": "same"}
        yield f"conv{index + 1}", {"op": "conv", **conv, "activation": "relu"}
        if index < number:
            yield f"pool{index + 1}", {"op": "max_pool", "size": 2}
    if num_train <= MANY:
        yield "drop", {"op": "dropout", "rate": 0.5}
    yield "out", {"op": "dense", "units": num_classes}


def num_pools(shape: tuple[int, int]) -> int:
    """How often a 2x2 pool halves an image until it has no more than `END` pixels.

    >>> num_pools((64, 64)), num_pools((28, 28)), num_pools((7, 9)), num_pools((3, 100))
    (3, 2, 0, 0)
    """
    low, high = min(shape), max(shape)
    number = 0
    while low * high > END and low >= 4:
        low, high, number = low // 2, high // 2, number + 1
    return number


def choose_batch_size(num_train: int) -> int:
    """A power of two for about 30 steps per epoch, between 16 and 256.

    >>> [choose_batch_size(number) for number in (20, 800, 4_000, 50_000)]
    [16, 16, 128, 256]
    """
    size = 16
    while size < 256 and num_train >= 60 * size:
        size *= 2
    return min(size, max(num_train, 1))


def choose_epochs(num_train: int, batch_size: int) -> int:
    """Epochs for about `STEPS` steps, between 5 and 30."""
    return min(30, max(5, round(STEPS / max(1, num_train // batch_size))))
