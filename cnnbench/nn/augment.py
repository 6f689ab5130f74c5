"""Augmentation of training images, as pure functions.

All random numbers of a step are drawn for the whole batch, from the seed of the run and the number
of the step. The images are therefore independent of engine, micro-batches and devices, and the same
after an interruption.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.ndimage import map_coordinates

from cnnbench.nn.rand_augment import rand_augment
from cnnbench.spec.experiment import Augment

LEAST_AREA, MOST_RATIO = 0.02, 10 / 3  # of an erased rectangle, as in torchvision
# Number of random values per image of each augmentation, in the order of their keys.
VALUES: Mapping[str, int] = {
    "random_crop": 2,
    "random_translation": 2,
    "random_flip": 1,
    "random_rotation": 1,
    "random_erasing": 5,
}
_MIX = len(VALUES)  # number of the key for mixing
_RAND = _MIX + 1  # number of the key for RandAugment, which came later

Own = Mapping[str, jax.Array]
"""Values in [0, 1) of each augmentation, (n, k)."""


class Stream(NamedTuple):
    """Source of the random numbers of a run.

    Args:
      key: key of the seed.
      step: number of steps so far.
    """

    key: jax.Array
    step: jax.Array

    def advanced(self) -> "Stream":
        """The stream of the next step."""
        return self._replace(step=self.step + 1)


class Mix(NamedTuple):
    """How each image of a batch is mixed with another one.

    Args:
      indices: indices of the other images in the dataset, (n,).
      own: random values of the other images.
      share: share of the image in the mixture outside its box, (n,); 1 for cutmix.
      box: top, bottom, left and right of the part that the other image replaces, (n, 4).
    """

    indices: jax.Array
    own: Own
    share: jax.Array
    box: jax.Array


class Draws(NamedTuple):
    """Random numbers for the images of a batch.

    Args:
      own: values of each image.
      mix: mixtures; None for none.
    """

    own: Own
    mix: Mix | None


class MixedLabels(NamedTuple):
    """Soft labels with two classes: `share` of the first and the rest of the second, (n,) each."""

    labels: jax.Array
    others: jax.Array
    share: jax.Array


def first_stream(seed: int) -> Stream:
    """The stream of a seed at its first step."""
    # Another key than that of the network, which is made of the seed itself.
    key = jax.random.fold_in(jax.random.key(seed), 0x617567)
    return Stream(key, jnp.zeros((), jnp.int32))


def draw_augmentation(
    spec: Augment, stream: Stream, indices: jax.Array, size: tuple[int, ...]
) -> Draws:
    """Draws the random numbers of a step.

    Each augmentation has its own key, so that adding one does not change the others.

    Args:
      spec: the augmentations.
      stream: the source.
      indices: indices of the images of the batch, (n,).
      size: height and width of an image.
    """
    key, number = jax.random.fold_in(stream.key, stream.step), len(indices)
    own = {
        name: _uniform(jax.random.fold_in(key, place), (number, count))
        for place, (name, count) in enumerate(VALUES.items())
        if getattr(spec, name) is not None
    }
    if many := spec.rand_augment:
        shape = (number, 2 * many.num_ops)
        own["rand_augment"] = _uniform(jax.random.fold_in(key, _RAND), shape)
    if not spec.mixes:
        return Draws(own, None)
    share, box = _mixture(spec, jax.random.fold_in(key, _MIX), size)
    # The batch is shuffled, so that its neighbor is a random partner, as in torchvision.
    indices, others = jax.tree.map(lambda values: jnp.roll(values, 1, axis=0), (indices, own))
    shares, boxes = jnp.full(number, share), jnp.broadcast_to(box, (number, 4))
    return Draws(own, Mix(indices, others, shares, boxes))


def _uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Multiples of 2**-24 in [0, 1), exact in float32."""
    bits = jax.random.bits(key, shape, jnp.uint32)
    return (bits >> 8).astype(jnp.float32) / 2**24


def _mixture(spec: Augment, key: jax.Array, size: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Share and box of a batch; one of both augmentations, with equal probability."""
    which, of_mixup, of_cutmix, at = jax.random.split(key, 4)
    whole, empty = jnp.ones((), jnp.float32), jnp.zeros(4, jnp.int32)
    share, box = whole, empty
    if spec.mixup:
        share = _beta(of_mixup, spec.mixup.alpha)
    if spec.cutmix:
        box = _box(_beta(of_cutmix, spec.cutmix.alpha), _uniform(at, (2,)), size)
    if spec.mixup and spec.cutmix:
        mixes = _uniform(which, ()) < 0.5
        return jnp.where(mixes, share, whole), jnp.where(mixes, empty, box)
    return share, box


def _beta(key: jax.Array, alpha: float) -> jax.Array:
    return jax.random.beta(key, alpha, alpha, dtype=jnp.float32)


def _box(share: jax.Array, center: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """A box whose area is 1 - share before it is cut at the edges of the image."""
    limits = jnp.array(size, jnp.int32)
    half = (jnp.sqrt(1 - share) * limits.astype(jnp.float32)).astype(jnp.int32) // 2
    middle = jnp.floor(center * limits).astype(jnp.int32)
    ends = jnp.clip(jnp.stack([middle - half, middle + half], axis=1), 0, limits[:, None])
    return ends.reshape(4)


def move_pixels(spec: Augment, images: jax.Array, own: Own) -> jax.Array:
    """Crops, moves and flips images, applies RandAugment, and rotates them.

    Args:
      spec: the augmentations.
      images: uint8, (n, h, w, c).
      own: random values of the images.

    Returns:
      Images of the same shape; floats if they are rotated.
    """
    if crop := spec.random_crop:
        reflects = crop.mode == "reflect"
        images = shift(images, own["random_crop"], crop.padding, reflects=reflects)
    if moved := spec.random_translation:
        images = shift(images, own["random_translation"], moved.pixels, reflects=False)
    if spec.random_flip:
        axis = 2 if spec.random_flip == "horizontal" else 1
        flips = own["random_flip"][:, :, None, None] < 0.5
        images = jnp.where(flips, jnp.flip(images, axis), images)
    if many := spec.rand_augment:
        images = rand_augment(images, own["rand_augment"], many.magnitude)
    if turned := spec.random_rotation:
        angles = math.radians(turned.degrees) * (2 * own["random_rotation"][:, 0] - 1)
        images = jax.vmap(rotate)(images.astype(jnp.float32), angles)
    return images


def shift(images: jax.Array, values: jax.Array, most: int, *, reflects: bool) -> jax.Array:
    """Crops of padded images at uniformly distributed places.

    Args:
      images: (n, h, w, c).
      values: in [0, 1), (n, 2).
      most: rows and columns of the padding at each side.
      reflects: True to pad with the mirror image, else with zeros.
    """
    widths = ((0, 0), (most, most), (most, most), (0, 0))
    padded = jnp.pad(images, widths, mode="reflect" if reflects else "constant")
    starts = jnp.floor(values * (2 * most + 1)).astype(jnp.int32)

    def window(image: jax.Array, start: jax.Array) -> jax.Array:
        return lax.dynamic_slice(image, (start[0], start[1], 0), images.shape[1:])

    cropped: jax.Array = jax.vmap(window)(padded, starts)
    return cropped


def rotate(image: jax.Array, angle: jax.Array) -> jax.Array:
    """Rotates an image about its center, with bilinear interpolation and zeros outside.

    Args:
      image: floats, (h, w, c).
      angle: counterclockwise, in radians.
    """
    height, width = image.shape[:2]
    rows, columns = jnp.meshgrid(
        jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2, indexing="ij"
    )
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    y = cos * rows + sin * columns + (height - 1) / 2
    x = cos * columns - sin * rows + (width - 1) / 2
    sample = partial(map_coordinates, coordinates=[y, x], order=1, mode="constant")
    turned: jax.Array = jax.vmap(sample, in_axes=-1, out_axes=-1)(image)
    return turned


def erase(spec: Augment, images: jax.Array, own: Own) -> jax.Array:
    """Sets a rectangle of some images to zero.

    Args:
      spec: the augmentations.
      images: scaled images, (n, h, w, c).
      own: random values of the images.
    """
    if spec.random_erasing is None:
        return images
    height, width = images.shape[1:3]
    applies, area, ratio, top, left = own["random_erasing"].T
    least = min(LEAST_AREA, spec.random_erasing.area)
    pixels = height * width * (least + (spec.random_erasing.area - least) * area)
    ratio = jnp.exp(math.log(MOST_RATIO) * (2 * ratio - 1))
    boxes = [
        _interval(jnp.sqrt(pixels * ratio), top, height),
        _interval(jnp.sqrt(pixels / ratio), left, width),
    ]
    inside = _inside(jnp.concatenate(boxes, axis=1), (height, width))
    erased = inside & (applies < spec.random_erasing.probability)[:, None, None]
    found: jax.Array = jnp.where(erased[..., None], 0, images)
    return found


def _interval(length: jax.Array, place: jax.Array, size: int) -> jax.Array:
    """Start and end of intervals within [0, size], (n, 2), at uniformly distributed places."""
    whole = jnp.clip(jnp.round(length), 1, size)
    start = jnp.floor(place * (size - whole + 1))
    return jnp.stack([start, start + whole], axis=1)


def _inside(boxes: jax.Array, size: tuple[int, int]) -> jax.Array:
    """True for pixels in boxes (top, bottom, left, right), (n, h, w)."""
    top, bottom, left, right = boxes.T[..., None, None]
    rows, columns = jnp.arange(size[0])[:, None], jnp.arange(size[1])
    inside: jax.Array = (top <= rows) & (rows < bottom) & (left <= columns) & (columns < right)
    return inside


def mix_images(images: jax.Array, others: jax.Array, mix: Mix) -> jax.Array:
    """Mixtures of images with other images, (n, h, w, c)."""
    share = mix.share[:, None, None, None]
    mixture = share * images + (1 - share) * others
    inside = _inside(mix.box, (images.shape[1], images.shape[2]))
    mixtures: jax.Array = jnp.where(inside[..., None], others, mixture)
    return mixtures


def label_share(mix: Mix, size: tuple[int, ...]) -> jax.Array:
    """Share of the image's own label, (n,)."""
    top, bottom, left, right = mix.box.T
    outside = 1 - (bottom - top) * (right - left) / jnp.float32(math.prod(size))
    share: jax.Array = mix.share * outside
    return share


def views_of(augment: str | None, images: Any) -> list[tuple[float, Any]]:
    """Views of images for test-time augmentation, with their weights in the mean of the logits.

    As in airbench (Jordan 2024): `flip` has the image and its mirror image; `flip_translate` has
    both, with half of the weight, and both moved by a pixel up and left, and down and right. The
    edge is filled with its mirror image.

    Args:
      augment: `evaluation.augment`.
      images: (n, h, w, c), in NumPy or JAX.
    """
    if augment is None:
        return [(1.0, images)]
    if augment == "flip":
        return [(0.5, images), (0.5, images[:, :, ::-1])]
    centered = [(weight / 2, view) for weight, view in views_of("flip", images)]
    moved = [
        (weight / 4, view)
        for by in (-1, 1)
        for weight, view in views_of("flip", _moved(images, by))
    ]
    return centered + moved


def _moved(images: Any, by: int) -> Any:
    """Images whose pixels are those `by` rows below and `by` columns to the right."""
    rows, columns = (
        size - 1 - np.abs(size - 1 - np.abs(np.arange(size) + by)) for size in images.shape[1:3]
    )
    return images[:, rows][:, :, columns]


def mixed(score: Callable[[Any, jax.Array], jax.Array], result: Any, targets: Any) -> jax.Array:
    """Loss of each image; with mixed labels, the weighted mean of the losses of both labels.

    For cross-entropy, this is the loss of the soft labels.
    """
    if not isinstance(targets, MixedLabels):
        return score(result, targets)
    first, second = score(result, targets.labels), score(result, targets.others)
    return targets.share * first + (1 - targets.share) * second
