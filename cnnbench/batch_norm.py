"""Batch norm (Ioffe & Szegedy 2015): a channel's mean and variance, and what they normalize.

A mean may be ten thousand standard deviations from zero, and float32 has seven digits. So
nothing is squared that still contains the mean: each part of a batch is summed about a value
near its own mean, parts are merged about a common one (Chan, Golub & LeVeque 1983, "Algorithms
for computing the sample variance"), and a mean is a rounded value and what it lacks.
docs/performance.md compares the errors with PyTorch's.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from cnnbench.lanes import each, merge, spread

FACTOR = "factor"  # by which `normalize` multiplies
_SAMPLED = 24  # one of so many columns gives the value that sums are taken about
_BITS = 16  # of that value's mantissa


class Sums(NamedTuple):
    """Sums over some values of each channel, about a value near their mean, (..., c) each.

    Args:
      about: that value, to 16 bits.
      first: sums of the differences from it.
      second: sums of their squares.
    """

    about: jax.Array
    first: jax.Array
    second: jax.Array


class BatchNorm(nnx.BatchNorm):
    """Flax's layer with accurate statistics: Flax takes E[x^2] - E[x]^2, which cancels."""

    def __call__(self, x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
        """Normalizes over all axes but the last; in evaluation by the running statistics."""
        if self.use_running_average:
            evaluated: jax.Array = super().__call__(x, *args, **kwargs)
            return evaluated
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        sums = Sums(*(part[None] for part in channel_sums(wide)))
        return normalize(wide, **statistics(self, sums, x.size // x.shape[-1])).astype(x.dtype)


def statistics(part: nnx.BatchNorm, sums: Sums, size: int) -> dict[str, jax.Array]:
    """Arguments of `normalize`; the running statistics move on, as in `nnx.BatchNorm`.

    Args:
      part: scale, bias and running statistics.
      sums: of each row of the batch, (rows, c).
      size: values of a channel in a row.
    """
    assert part.scale is not None
    assert part.bias is not None
    near, rest, variance = _moments(sums, size)
    pace = 1 - part.momentum
    for running, change in (
        (part.mean, (near - part.mean[...]) + rest),
        (part.var, variance - part.var[...]),
    ):
        running[...] += lax.stop_gradient(_times(change, pace))
    # XLA would take a product with the reciprocal root, which is rounded once more.
    deviation = lax.optimization_barrier(jnp.sqrt(variance + part.epsilon))
    factor = part.scale[...] / deviation
    return {"mean": near, FACTOR: factor, "bias": part.bias[...] - rest * factor}


def _moments(sums: Sums, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A batch's mean, as a rounded value and what it lacks, and its variance, from its rows'."""
    rows = len(sums.about)
    about = lax.stop_gradient(sums.about)
    middle = _rounded(sum_of_rows(about) / rows)
    own = _times(sums.first, 1 / size)  # of each row, from what it was summed about
    means = (about - middle) + own
    mean = _times(sum_of_rows(means), 1 / rows)
    within = sums.second - sums.first * own
    variance = _times(sum_of_rows(within + size * (means - mean) ** 2), 1 / (rows * size))
    near = lax.stop_gradient(_rounded(middle + mean))
    return near, (middle - near) + mean, jnp.maximum(variance, 0)


def _times(x: jax.Array, number: float) -> jax.Array:
    """A product that is rounded as if the number had more digits than its array has."""
    near = float(np.asarray(number, x.dtype))
    return x * near + x * (number - near)


def _rounded(x: jax.Array) -> jax.Array:
    """To so few bits that it is the same number in every program that a compiler makes of it.

    XLA contracts a product and a sum into one operation, and may do so in one place
    and not in the other.
    """
    return lax.reduce_precision(x, np.finfo(x.dtype).nexp, _BITS)


@jax.custom_vjp
def normalize(x: jax.Array, mean: jax.Array, factor: jax.Array, bias: jax.Array) -> jax.Array:
    """(x - mean) * factor + bias, for each channel; `x` is (..., c)."""
    middle, slope, shift = (_spread(v, x) for v in (mean, factor, bias))
    return ((merge(x) - middle) * slope + shift).astype(x.dtype).reshape(x.shape)


def _normalize_forward(
    x: jax.Array, mean: jax.Array, factor: jax.Array, bias: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return normalize(x, mean, factor, bias), (x, mean, factor, bias)


def _normalize_backward(saved: tuple[jax.Array, ...], dy: jax.Array) -> tuple[jax.Array, ...]:
    x, mean, factor, bias = saved
    shift = total(dy)
    slope = total((merge(dy) * (merge(x) - _spread(mean, x))).reshape(x.shape))
    dx = (merge(dy) * _spread(factor, x)).reshape(x.shape)
    changes = (dx, -factor * shift, slope, shift)
    return tuple(c.astype(v.dtype) for c, v in zip(changes, (x, mean, factor, bias), strict=True))


normalize.defvjp(_normalize_forward, _normalize_backward)


@jax.custom_vjp
def channel_sums(x: jax.Array) -> Sums:
    """Sums over all axes but the last, about a value near the mean of one column or more.

    However the values are spread, that of one column out of 24 is less than five standard
    deviations from the mean of all, which costs a digit and a half at the worst.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    about = _near_mean(x)
    apart = (merge(x) - _spread(about, x)).reshape(x.shape)
    return Sums(about, total(apart), total(each(jnp.square, apart)))


def _near_mean(x: jax.Array) -> jax.Array:
    """A value to take sums about, with no finer digits than the values themselves have.

    What is left of them would else be rounded to the same side in all.
    """
    axis, channels = (1 if x.ndim == 4 else 0), x.shape[-1]
    size = x.shape[axis]
    some = lax.slice_in_dim(x, size % _SAMPLED // 2, size, _SAMPLED, axis).reshape(-1, channels)
    both = jnp.concatenate([some, jnp.abs(some)], axis=1)
    sums = jnp.ones((1, len(both)), x.dtype) @ both / len(some)
    mean, scale = sums[0, :channels], sums[0, channels:]
    info = np.finfo(x.dtype)
    grid = jnp.maximum(lax.reduce_precision(scale, info.nexp, 0) / 1024, float(info.tiny))
    return _settled(jnp.where(jnp.abs(mean) < scale / 4, 0, jnp.round(mean / grid) * grid))


def _sums_forward(x: jax.Array) -> tuple[Sums, tuple[jax.Array, jax.Array]]:
    sums = channel_sums(x)
    return sums, (x, sums.about)


def sums_gradient(x: jax.Array, about: jax.Array, changes: Sums) -> jax.Array:
    """The gradient of `channel_sums`, in the dtype of the sums; what they are about is given."""
    middle, first, second = (_spread(v, x) for v in (about, changes.first, changes.second))
    return (first + 2 * (merge(x) - middle) * second).reshape(x.shape)


def _sums_backward(saved: tuple[jax.Array, jax.Array], changes: Sums) -> tuple[jax.Array]:
    return (sums_gradient(*saved, changes).astype(saved[0].dtype),)


channel_sums.defvjp(_sums_forward, _sums_backward)


def total(x: jax.Array) -> jax.Array:
    """The sum over all axes but the last, at least in float32."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    split = x.reshape(_divisor(len(x)), -1, *x.shape[1:])
    return sum_of_rows(split.sum(tuple(range(1, split.ndim - 1))))


def sum_of_rows(x: jax.Array) -> jax.Array:
    """(rows, c) to (c,), in two steps: rounding errors grow with the terms of each."""
    first = _divisor(len(x))
    ones = jnp.ones((1, first), x.dtype)
    # A product, since XLA makes a single reduction of two. It is exact on accelerators too.
    halfway = jnp.matmul(ones, x.reshape(first, -1), precision=lax.Precision.HIGHEST)
    return halfway.reshape(-1, x.shape[-1]).sum(0)


def _divisor(number: int) -> int:
    """The largest that is not above the root.

    >>> _divisor(50), _divisor(500), _divisor(7)
    (5, 20, 1)
    """
    return max(n for n in range(1, math.isqrt(number) + 1) if number % n == 0)


def _settled(x: jax.Array) -> jax.Array:
    """A vector as it is, from a product.

    XLA makes one loop of all that leads to a value, but not of products. It would else compute
    again for each value what all values of a channel share.
    """
    return (jnp.ones((1, 2), x.dtype) @ jnp.stack([x, jnp.zeros_like(x)]))[0]


def _spread(values: jax.Array, like: jax.Array) -> jax.Array:
    """`lanes.spread`, whose barrier is for CPUs."""
    if like.ndim != 4:
        return values
    result: jax.Array = lax.platform_dependent(
        values,
        cpu=lambda values: spread(values, like),
        default=lambda values: jnp.tile(values, like.shape[2]),
    )
    return result
