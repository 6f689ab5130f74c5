"""Batch norm (Ioffe & Szegedy 2015): a channel's mean and variance, and what they normalize.

A mean may be ten thousand standard deviations from zero, and float32 has seven digits. So
nothing is squared that still contains the mean: each part of a batch is summed about a value
near its own mean, parts are merged about a common one (Chan, Golub & LeVeque 1983, "Algorithms
for computing the sample variance"), and a mean is a rounded value and what it lacks.
docs/explanation/performance.md compares the errors with PyTorch's.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from cnnbench.nn.ops.layout import fold_channels, spread

FACTOR = "factor"  # by which `normalize` multiplies
_SAMPLED = 24  # one of so many columns gives the value that sums are taken about
_BITS = 16  # of that value's mantissa
_FEW_ROWS = 16  # whose sum is rounded as often as it has terms


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


class StableBatchNorm(nnx.BatchNorm):
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
    part.mean[...] = _moved(part.mean[...], near, rest, pace)
    part.var[...] = _moved(part.var[...], variance, jnp.zeros_like(variance), pace)
    # XLA would take a product with the reciprocal root, which is rounded once more.
    deviation = lax.optimization_barrier(jnp.sqrt(variance + part.epsilon))
    factor = part.scale[...] / deviation
    return {"mean": near, FACTOR: factor, "bias": part.bias[...] - rest * factor}


def _moved(running: jax.Array, near: jax.Array, rest: jax.Array, pace: float) -> jax.Array:
    """A running statistic, one step nearer to the batch's; rounded once or twice."""
    change, lost = _two_sum(near, -running)
    large, small = _product(change, pace)
    moved, more = _two_sum(running, large)
    return lax.stop_gradient(moved + (more + (small + pace * (lost + rest))))


def _moments(sums: Sums, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A batch's mean, as a rounded value and what it lacks, and its variance, from its rows'."""
    rows = len(sums.about)
    about = lax.stop_gradient(sums.about)
    middle = _rounded(sum_of_rows(about) / rows)
    own = _times(sums.first, 1 / size)  # of each row, from what it was summed about
    means = (about - middle) + own
    mean, lost = _exactly(_times(sum_of_rows(means), 1 / rows), about - middle, sums, size)
    within = sums.second - sums.first * own
    variance = _times(sum_of_rows(within + size * (means - mean) ** 2), 1 / (rows * size))
    whole, more = _two_sum(middle, mean)
    near = lax.stop_gradient(_rounded(whole))
    return near, (whole - near) + (more + lost), jnp.maximum(variance, 0)


def _exactly(
    mean: jax.Array, shifts: jax.Array, sums: Sums, size: int
) -> tuple[jax.Array, jax.Array]:
    """The mean from `middle`, with the gradient of the rounded one, and what it lacks."""
    terms = (*_product(shifts, size), sums.first)
    large, small = _sum_of_small(jnp.concatenate(terms))
    parts = _product(large, 1 / (len(shifts) * size))
    exact, lost = _two_sum(parts[0], parts[1] + small / (len(shifts) * size))
    return mean + lax.stop_gradient(exact - mean), lax.stop_gradient(lost)


def _times(x: jax.Array, number: float) -> jax.Array:
    """A product that is rounded as if the number had more digits than its array has."""
    near = float(np.asarray(number, x.dtype))
    return x * near + x * (number - near)


def _product(x: jax.Array, number: float) -> tuple[jax.Array, jax.Array]:
    """The first half of a product's digits, which are exact, and all others (Dekker 1971)."""
    half = np.finfo(x.dtype).nmant // 2
    high = _shortened(x, half)
    mantissa, exponent = math.frexp(number)
    short = math.ldexp(round(math.ldexp(mantissa, half)), exponent - half)
    return high * short, high * (number - short) + (x - high) * number


def _two_sum(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A rounded sum, and what rounding took from it (Knuth 1969)."""
    total = x + y
    part = total - x
    return total, (x - (total - part)) + (y - part)


def _shortened(x: jax.Array, bits: int) -> jax.Array:
    """To so many bits of a mantissa."""
    return lax.reduce_precision(x, np.finfo(x.dtype).nexp, bits)


def _rounded(x: jax.Array) -> jax.Array:
    """To so few bits that it is the same number in every program that a compiler makes of it.

    XLA contracts a product and a sum into one operation, and may do so in one place
    and not in the other.
    """
    return _shortened(x, _BITS)


@jax.custom_vjp
def normalize(x: jax.Array, mean: jax.Array, factor: jax.Array, bias: jax.Array) -> jax.Array:
    """(x - mean) * factor + bias, for each channel; `x` is (..., c)."""
    middle, slope, shift = (_spread(v, x) for v in (mean, factor, bias))
    return ((fold_channels(x) - middle) * slope + shift).astype(x.dtype).reshape(x.shape)


def _normalize_forward(
    x: jax.Array, mean: jax.Array, factor: jax.Array, bias: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return normalize(x, mean, factor, bias), (x, mean, factor, bias)


def _normalize_backward(saved: tuple[jax.Array, ...], dy: jax.Array) -> tuple[jax.Array, ...]:
    x, mean, factor, bias = saved
    shift = total(dy)
    slope = total((fold_channels(dy) * (fold_channels(x) - _spread(mean, x))).reshape(x.shape))
    dx = (fold_channels(dy) * _spread(factor, x)).reshape(x.shape)
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
    apart = fold_channels(x) - _spread(about, x)
    first, second = (sum_of_rows(_partial(v, x)) for v in (apart, jnp.square(apart)))
    return Sums(about, first, second)


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
    return (first + 2 * (fold_channels(x) - middle) * second).reshape(x.shape)


def _sums_backward(saved: tuple[jax.Array, jax.Array], changes: Sums) -> tuple[jax.Array]:
    return (sums_gradient(*saved, changes).astype(saved[0].dtype),)


channel_sums.defvjp(_sums_forward, _sums_backward)


def total(x: jax.Array) -> jax.Array:
    """The sum over all axes but the last, at least in float32."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return sum_of_rows(_partial(fold_channels(x), x))


def _partial(merged: jax.Array, x: jax.Array) -> jax.Array:
    """Sums of some values each, (n, c), of what was made of `merge(x)`."""
    if x.ndim == 4:
        # (h, w, n, c) in one step; the first axis of (n, h, w, c) would add too many terms to it.
        axes = (0, 1) if len(x) <= x.shape[1] else 1
        return merged.sum(axes).reshape(-1, x.shape[-1])
    some = math.isqrt(len(x))
    filled = jnp.pad(merged, ((0, -len(x) % some), (0, 0)))
    return filled.reshape(-1, some, x.shape[-1]).sum(1)


def sum_of_rows(x: jax.Array) -> jax.Array:
    """(rows, c) to (c,)."""
    if len(x) <= _FEW_ROWS:
        # A product, since XLA makes a single reduction of two. It is exact on accelerators too.
        ones = jnp.ones((1, len(x)), x.dtype)
        return jnp.matmul(ones, x, precision=lax.Precision.HIGHEST)[0]
    large, small = _sum_of_small(lax.optimization_barrier(x))
    return large + small


def _sum_of_small(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sum of rows as a number and what it lacks.

    What has a third of the bits adds up without rounding, as long as the number of rows times
    the ratio of the largest value to the smallest is below 2^16.
    """
    high = _shortened(x, np.finfo(x.dtype).nmant // 3)
    return high.sum(0), (x - high).sum(0)


def _settled(x: jax.Array) -> jax.Array:
    """A vector as it is, from a product.

    XLA makes one loop of all that leads to a value, but not of products. It would else compute
    again for each value what all values of a channel share.
    """
    return (jnp.ones((1, 2), x.dtype) @ jnp.stack([x, jnp.zeros_like(x)]))[0]


def _spread(values: jax.Array, like: jax.Array) -> jax.Array:
    """`layout.spread`, whose barrier is for CPUs."""
    if like.ndim != 4:
        return values
    result: jax.Array = lax.platform_dependent(
        values,
        cpu=lambda values: spread(values, like),
        default=lambda values: jnp.tile(values, like.shape[2]),
    )
    return result
