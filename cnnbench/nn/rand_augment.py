"""RandAugment (Cubuk et al. 2020) with torchvision's operations and magnitudes.

The images are those of torchvision's `RandAugment` for tensors of uint8, with its defaults: 31
magnitudes, the nearest pixel in geometric operations, and black outside. Rounding may differ by one
level of brightness, and at a tie between two pixels the neighbor may be taken.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

MAGNITUDES = 31  # levels: 0 to 30
LEVELS = 256  # of brightness
GRAY = (0.2989, 0.587, 0.114)  # weights of red, green and blue
OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "auto_contrast",
    "equalize",
)
_WARPED, _BLENDED = OPERATIONS[:6], OPERATIONS[6:10]
# Number of the result of `_results` for each operation.
_RESULT = np.array([0] * len(_WARPED) + [1] * len(_BLENDED) + [2, 3, 4, 5])
_SIGNS = (1, -1)


def rand_augment(images: jax.Array, values: jax.Array, magnitude: int) -> jax.Array:
    """Images changed by random operations, one after the other.

    Args:
      images: uint8, (n, h, w, c).
      values: in [0, 1): of each operation, its kind and its sign, (n, 2 * operations).
      magnitude: from 0 to 30.
    """
    apply = jax.vmap(partial(apply_operation, magnitude=magnitude))
    for chosen, sign in zip(values.T[::2], values.T[1::2], strict=True):
        kinds = jnp.floor(chosen * len(OPERATIONS)).astype(jnp.int32)
        images = apply(images, kinds, (sign < 0.5).astype(jnp.int32))
    return images


def apply_operation(
    image: jax.Array, kind: jax.Array, negative: jax.Array, *, magnitude: int
) -> jax.Array:
    """An image changed by an operation.

    Args:
      image: uint8, (h, w, c).
      kind: number of the operation in `OPERATIONS`.
      negative: 1 to shear, move, rotate or blend in the opposite direction, else 0.
      magnitude: from 0 to 30.
    """
    size = (image.shape[0], image.shape[1])
    matrix = jnp.asarray(_matrices(magnitude, size))[kind, negative]
    products = jnp.asarray(_products(magnitude, image.shape[-1]))[kind, negative]
    share = magnitude / (MAGNITUDES - 1)
    merged = 2 ** round(4 * share)  # levels of brightness that posterize makes equal
    results = (
        _warp(image, matrix),
        _blend(image, kind, products),
        image & np.uint8(LEVELS - merged),
        jnp.where(image >= np.float32(255 * (1 - share)), 255 - image, image),
        _auto_contrast(image),
        jax.vmap(_equalize, in_axes=-1, out_axes=-1)(image),
    )
    changed: jax.Array = lax.select_n(jnp.asarray(_RESULT)[kind], *results)
    return changed


def level(most: float, magnitude: int) -> float:
    """Value of a magnitude between 0 and `most`, with the rounding of `torch.linspace`."""
    end, bins = float(np.float32(most)), MAGNITUDES - 1
    step = float(np.float32(end / bins))
    value = step * magnitude if magnitude < bins / 2 else end - step * (bins - magnitude)
    return float(np.float32(value))


def _matrices(magnitude: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """Place in the image of each pixel, from its place (x, y, 1) relative to the center.

    Returns:
      A matrix (2, 3) for each operation and sign; the identity for those that move no pixels.
    """
    height, width = size
    still, found = ((1, 0, 0), (0, 1, 0)), []
    for sign in _SIGNS:
        shear, turn = sign * level(0.3, magnitude), sign * math.radians(level(30, magnitude))
        down, right = (sign * int(level(150 / 331 * length, magnitude)) for length in size)
        cos, sin = math.cos(turn), math.sin(turn)
        own = {
            "shear_x": ((1, shear, shear * height / 2), (0, 1, 0)),
            "shear_y": ((1, 0, 0), (shear, 1, shear * width / 2)),
            "translate_x": ((1, 0, -right), (0, 1, 0)),
            "translate_y": ((1, 0, 0), (0, 1, -down)),
            "rotate": ((cos, -sin, 0), (sin, cos, 0)),
        }
        found.append([own.get(name, still) for name in OPERATIONS])
    return np.array(found, np.float32).swapaxes(0, 1)


def _products(magnitude: int, channels: int) -> NDArray[np.float32]:
    """Each level of brightness times the share of an image and of its other form.

    Returns:
      A table (2, 256) for each operation and sign.
    """
    change = level(0.9, magnitude)
    blended = [name for name in _BLENDED if name != "color" or channels == len(GRAY)]
    shares = [
        [(1 + s * change, -s * change) if name in blended else (1.0, 0.0) for s in _SIGNS]
        for name in OPERATIONS
    ]
    levels = np.arange(LEVELS, dtype=np.float32)
    return np.asarray(np.array(shares, np.float32)[..., None] * levels)


def _warp(image: jax.Array, matrix: jax.Array) -> jax.Array:
    """The nearest pixel at each place; zero outside."""
    height, width, channels = image.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    across, down = (m[0] * x + m[1] * y + m[2] for m in matrix)
    column = jnp.round(across + (width - 1) / 2).astype(jnp.int32)
    row = jnp.round(down + (height - 1) / 2).astype(jnp.int32)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    places = jnp.where(inside, row * width + column, 0)
    pixels = image.reshape(-1, channels)[places]
    warped: jax.Array = jnp.where(inside[..., None], pixels, np.uint8(0))
    return warped


def _blend(image: jax.Array, kind: jax.Array, products: jax.Array) -> jax.Array:
    """Weighted sum of an image and its form without the property that an operation changes.

    Products are read from a table: with a fused multiply-add, sums would be truncated to another
    level of brightness than in torchvision where both forms are equal.
    """
    gray = _gray(image)
    colorless = jnp.broadcast_to(gray, image.shape)
    number = jnp.clip(kind - len(_WARPED), 0, len(_BLENDED) - 1)
    other = lax.select_n(number, jnp.zeros_like(image), colorless, image, _blurred(image))
    mean = jnp.sum(gray.astype(jnp.int32)) / np.float32(gray.size)
    is_contrast = number == _BLENDED.index("contrast")
    added = jnp.where(is_contrast, products[1, 1] * mean, products[1][other])
    return jnp.clip(products[0][image] + added, 0, 255).astype(jnp.uint8)


def _gray(image: jax.Array) -> jax.Array:
    """Brightness of an image in color, (h, w, 1); other images as they are."""
    if image.shape[-1] != len(GRAY):
        return image
    products = np.array(GRAY, np.float32)[:, None] * np.arange(LEVELS, dtype=np.float32)
    red, green, blue = (jnp.asarray(products[i])[image[..., i : i + 1]] for i in range(len(GRAY)))
    return (red + green + blue).astype(jnp.uint8)


def _blurred(image: jax.Array) -> jax.Array:
    """Means over 3 by 3 pixels, in which the center counts five times; edges as they are."""
    height, width, _ = image.shape
    if min(height, width) <= 2:
        return image
    wide = image.astype(jnp.int32)
    center = wide[1:-1, 1:-1]
    total = 4 * center
    for row in range(3):
        for column in range(3):
            total += wide[row : row + height - 2, column : column + width - 2]
    return image.at[1:-1, 1:-1].set(((2 * total + 13) // 26).astype(jnp.uint8))


def _auto_contrast(image: jax.Array) -> jax.Array:
    """Each channel stretched to all levels of brightness."""
    pixels = image.astype(jnp.float32)
    least, most = pixels.min(axis=(0, 1)), pixels.max(axis=(0, 1))
    stretched = (pixels - least) * (255 / jnp.where(most > least, most - least, 1))
    found = jnp.clip(stretched, 0, 255).astype(jnp.uint8)
    return jnp.where(most > least, found, image)


def _equalize(channel: jax.Array) -> jax.Array:
    """A channel, (h, w), in which all levels of brightness are about equally frequent."""
    counts = jnp.zeros(LEVELS, jnp.int32).at[channel.reshape(-1)].add(1)
    step = (channel.size - counts[channel.max()]) // (LEVELS - 1)
    levels = (jnp.cumsum(counts) - counts + step // 2) // jnp.maximum(step, 1)
    levels = jnp.where(jnp.cumsum(counts) > counts, levels, 0)
    table = jnp.clip(levels, 0, LEVELS - 1).astype(jnp.uint8)
    return jnp.where(step > 0, table[channel], channel)
