"""The last two axes of images as one, so that a CPU's vectors are filled.

XLA makes a loop of the last axis. Of 8 or 12 channels it has too few turns to become
vectors: gelu then takes 6 nanoseconds a value instead of 0.6 (docs/explanation/performance.md). In
(h, w, n, c) the images of a row and their channels lie side by side, so that whatever
treats all values of a pixel alike can take them together. Nothing is copied.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


def fold_channels(x: jax.Array) -> jax.Array:
    """(h, w, n, c) to (h, w, n * c); vectors, (n, c), stay as they are.

    >>> fold_channels(jnp.zeros((5, 4, 3, 2))).shape
    (5, 4, 6)
    """
    return x.reshape(*x.shape[:2], -1) if x.ndim == 4 else x


def unfold_channels(x: jax.Array, last: tuple[int, ...]) -> jax.Array:
    """The inverse of `fold_channels`.

    Args:
      x: merged images, (h, w, n * c).
      last: their last axes, (n, c); -1 for one that follows from the other.
    """
    return x.reshape(*x.shape[:2], *last)


def each(function: Callable[..., jax.Array], *images: jax.Array) -> jax.Array:
    """A function of single values, on images or vectors of one shape."""
    return function(*map(fold_channels, images)).reshape(images[0].shape)


def spread(values: jax.Array, like: jax.Array) -> jax.Array:
    """A value for each channel, (c,), as `fold_channels(like)` wants it: (n * c,).

    The barrier lets them become numbers first: XLA would look up the channel of each
    value where it is read, and make no vectors.
    """
    if like.ndim != 4:
        return values
    result: jax.Array = lax.optimization_barrier(jnp.tile(values, like.shape[2]))
    return result
