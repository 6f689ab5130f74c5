"""Merges the last two axes of images for vectorization on CPUs.

XLA vectorizes over the last axis. With 8 or 12 channels, the loop is too short: gelu then takes 6
nanoseconds per value instead of 0.6 (docs/explanation/performance.md). In (h, w, n, c), images and
channels are contiguous, so elementwise operations process both axes as one, without copies.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from cnnbench.system.arrays import Pair


def fold_channels(x: jax.Array) -> jax.Array:
    """Merges (h, w, n, c) to (h, w, n * c); vectors, (n, c), are unchanged.

    >>> fold_channels(jnp.zeros((5, 4, 3, 2))).shape
    (5, 4, 6)
    """
    return x.reshape(*x.shape[:2], -1) if x.ndim == 4 else x


def unfold_channels(x: jax.Array, last: tuple[int, ...]) -> jax.Array:
    """The inverse of `fold_channels`.

    Args:
      x: merged images, (h, w, n * c).
      last: sizes of the last axes, (n, c); -1 to infer one of them.
    """
    return x.reshape(*x.shape[:2], *last)


def elementwise(function: Callable[..., jax.Array], *images: jax.Array) -> jax.Array:
    """Applies an elementwise function to images or vectors of the same shape."""
    return function(*map(fold_channels, images)).reshape(images[0].shape)


def repeat_channels(values: jax.Array, like: jax.Array) -> jax.Array:
    """Repeats a value per channel, (c,), to the shape of `fold_channels(like)`: (n * c,).

    They are materialized, for which a barrier is not enough: otherwise XLA looks up the channel of
    each value where it is used, and does not vectorize.
    """
    if like.ndim != 4:
        return values
    return materialized(jnp.tile(values, like.shape[2]))


def each_channel(values: jax.Array, like: jax.Array) -> jax.Array:
    """Broadcasts a value per channel, (c,), to the shape of `fold_channels(like)`.

    The gradient is a product with ones: after layer norm, it takes a ninth of the time of XLA's sum
    over a micro-batch on a CPU.

    >>> each_channel(jnp.arange(3.0), jnp.zeros((5, 4, 2, 3)))[0, 0]
    Array([0., 1., 2., 0., 1., 2.], dtype=float32)
    """
    return _each_channel(values, like.shape)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _each_channel(values: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    like = jnp.zeros(shape, values.dtype)  # for its shape; not computed
    return jnp.broadcast_to(repeat_channels(values, like), fold_channels(like).shape)


@jax.custom_batching.custom_vmap
def _channel_sums(rows: jax.Array) -> jax.Array:
    """Sums over the first axis, (n, c) to (c,), in float32 at least."""
    wide = jnp.promote_types(rows.dtype, jnp.float32)
    ones = jnp.ones((1, len(rows)), rows.dtype)
    highest = lax.Precision.HIGHEST
    sums = jnp.matmul(ones, rows, precision=highest, preferred_element_type=wide)
    return sums[0].astype(rows.dtype)


@_channel_sums.def_vmap
def _sums_of_batch(_size: int, _batched: list[bool], rows: jax.Array) -> tuple[jax.Array, bool]:
    """XLA's sums: for many matrices, they take a third of the time of products."""
    return rows.sum(1), True


_each_channel.defvjp(
    lambda values, shape: (_each_channel(values, shape), None),
    lambda shape, _, dy: (_channel_sums(dy.reshape(-1, shape[-1])),),
)


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor up to a limit.

    >>> largest_divisor(98, 16), largest_divisor(5, 16)
    (14, 5)
    """
    return next(n for n in range(min(number, most), 0, -1) if number % n == 0)


def within(zeros: jax.Array, values: jax.Array, start: Pair) -> jax.Array:
    """Writes values into an array from a row and column on; those outside of it are dropped.

    Faster than padding, for which XLA checks at each position whether it is inside.

    Args:
      zeros: (n, h, w, ...).
      values: (n, rows, columns, ...).
      start: row and column of the first value; negative if it is outside.
    """
    for axis, first in enumerate(start, start=1):
        last = min(values.shape[axis], zeros.shape[axis] - first)
        values = lax.slice_in_dim(values, max(0, -first), last, axis=axis)
    place = [0, *(max(0, first) for first in start), *[0] * (zeros.ndim - 3)]
    return lax.dynamic_update_slice(zeros, values, place)


@jax.custom_vjp
def materialized(x: jax.Array) -> jax.Array:
    """Forces values to be computed before they are used, also inside `jax.vmap`.

    Otherwise XLA fuses an activation into its consumers: it is recomputed for each of them, and not
    vectorized if they pad, shift or stride. Since XLA does not know the branch of a conditional, it
    must compute the values first.

    Args:
      x: floats, or integers that are not negative.
    """
    result: jax.Array = _conditional(x)
    return result


materialized.defvjp(lambda x: (materialized(x), None), lambda _, dx: (dx,))


@jax.custom_batching.custom_vmap
def _conditional(x: jax.Array) -> jax.Array:
    first = x.reshape(-1)[0]
    never = first < 0 if jnp.issubdtype(x.dtype, jnp.integer) else first > jnp.inf
    result: jax.Array = lax.cond(never, jnp.negative, lambda x: x, x)
    return result


@_conditional.def_vmap
def _of_batch(_size: int, _batched: list[bool], x: jax.Array) -> tuple[jax.Array, bool]:
    """One conditional for the batch: a batched condition becomes a select, which XLA fuses."""
    return _conditional(x), True
