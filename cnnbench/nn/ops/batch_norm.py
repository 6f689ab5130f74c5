"""Numerically stable batch norm (Ioffe & Szegedy 2015).

A mean may be ten thousand standard deviations from zero, and float32 has seven digits. Values are
therefore shifted before they are squared (Chan, Golub & LeVeque 1983, "Algorithms for computing
the sample variance"), by the running mean. If the mean of the batch turns out to be far from it,
as in the first steps, the batch is summed again about its own mean. A mean is represented as a
rounded value plus a remainder. docs/explanation/performance.md compares the errors with PyTorch's.
"""

import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from cnnbench.nn.ops.layout import fold_channels, repeat_channels
from cnnbench.system.arrays import Array

FACTOR = "factor"  # of `normalize`
_BITS = 16  # mantissa bits of the shift
_FEW_ROWS = 16  # up to this many rows are summed by a product, rounding once per term


class Sums(NamedTuple):
    """Sums per channel about a value near the mean.

    Args:
      about: the shift, with 16 mantissa bits, (c,).
      first: sums of the differences from the shift, for each row of the batch, (rows, c).
      second: sums of their squares, (rows, c).
    """

    about: jax.Array
    first: jax.Array
    second: jax.Array


class StableBatchNorm(nnx.BatchNorm):
    """Flax's layer with accurate statistics: Flax uses E[x^2] - E[x]^2, which cancels."""

    def __call__(self, x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
        """Normalizes over all axes but the last; in evaluation, with the running statistics."""
        if self.use_running_average:
            evaluated: jax.Array = super().__call__(x, *args, **kwargs)
            return evaluated
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        sums = batch_sums(wide, running_shift(self))
        return normalize(wide, **statistics(self, sums, x.size // x.shape[-1])).astype(x.dtype)


def running_shift(part: nnx.BatchNorm) -> jax.Array:
    """Shift for the sums of the next batch: the running mean, or zero where that is near enough."""
    mean, var = part.mean[...], part.var[...]
    shift = jnp.where(4 * mean**2 > var, _rounded(mean), 0)
    return _settled(lax.stop_gradient(shift))


def initial(channels: int, params: Collection[str]) -> dict[str, Array]:
    """Initial running statistics, and parameters of the given names."""
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    values = {"scale": ones, "bias": zeros, "mean": zeros, "var": ones}
    return {name: v for name, v in values.items() if name in params or name in ("mean", "var")}


def fixed(
    epsilon: float,
    *,
    mean: jax.Array,
    var: jax.Array,
    scale: jax.Array | float = 1.0,
    bias: jax.Array | float = 0.0,
) -> dict[str, jax.Array]:
    """Arguments of `normalize` in evaluation, from running statistics and parameters."""
    shift = jnp.broadcast_to(jnp.asarray(bias, mean.dtype), mean.shape)
    return {"mean": mean, FACTOR: scale / jnp.sqrt(var + epsilon), "bias": shift}


def statistics(part: nnx.BatchNorm, sums: Sums, size: int) -> dict[str, jax.Array]:
    """Updates the running statistics, as in `nnx.BatchNorm`, and returns arguments of `normalize`.

    Args:
      part: scale, bias and running statistics.
      sums: sums of each row of the batch.
      size: number of values per channel in the batch.
    """
    near, rest, variance = _moments(sums, size)
    pace = 1 - part.momentum
    part.mean[...] = _moved(part.mean[...], near, rest, pace)
    part.var[...] = _moved(part.var[...], variance, jnp.zeros_like(variance), pace)
    # XLA would multiply by the reciprocal root, with another rounding.
    deviation = lax.optimization_barrier(jnp.sqrt(variance + part.epsilon))
    factor = (1 if part.scale is None else part.scale[...]) / deviation
    bias = 0 if part.bias is None else part.bias[...]
    return {"mean": near, FACTOR: factor, "bias": bias - rest * factor}


def _moved(running: jax.Array, near: jax.Array, rest: jax.Array, pace: float) -> jax.Array:
    """Exponential moving average of a statistic, rounded once or twice."""
    change, lost = _two_sum(near, -running)
    large, small = _product(change, pace)
    moved, more = _two_sum(running, large)
    return lax.stop_gradient(moved + (more + (small + pace * (lost + rest))))


def _moments(sums: Sums, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean of a batch, as rounded value and remainder, and variance."""
    large, small = _sum_of_small(sums.first)
    parts = _product(large, 1 / size)
    mean, lost = _two_sum(parts[0], parts[1] + small / size)
    variance = _times(sum_of_rows(sums.second), 1 / size) - mean**2
    near = lax.stop_gradient(_rounded(sums.about + mean))
    return near, (sums.about - near) + mean + lost, jnp.maximum(variance, 0)


def _times(x: jax.Array, number: float) -> jax.Array:
    """Product with a number of higher precision than the array."""
    near = float(np.asarray(number, x.dtype))
    return x * near + x * (number - near)


def _product(x: jax.Array, number: float) -> tuple[jax.Array, jax.Array]:
    """Product as an exact leading half and the remainder (Dekker 1971)."""
    half = np.finfo(x.dtype).nmant // 2
    high = _shortened(x, half)
    mantissa, exponent = math.frexp(number)
    short = math.ldexp(round(math.ldexp(mantissa, half)), exponent - half)
    return high * short, high * (number - short) + (x - high) * number


def _two_sum(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rounded sum and its rounding error (Knuth 1969)."""
    total = x + y
    part = total - x
    return total, (x - (total - part)) + (y - part)


def _shortened(x: jax.Array, bits: int) -> jax.Array:
    """Rounds to a number of mantissa bits."""
    return lax.reduce_precision(x, np.finfo(x.dtype).nexp, bits)


def _rounded(x: jax.Array) -> jax.Array:
    """Rounds to so few bits that the value does not depend on how XLA compiles the program.

    XLA may or may not contract a product and a sum into one operation.
    """
    return _shortened(x, _BITS)


@jax.custom_vjp
def normalize(x: jax.Array, mean: jax.Array, factor: jax.Array, bias: jax.Array) -> jax.Array:
    """(x - mean) * factor + bias, per channel; `x` is (..., c)."""
    middle, slope, shift = (_repeated(v, x) for v in (mean, factor, bias))
    return ((fold_channels(x) - middle) * slope + shift).astype(x.dtype).reshape(x.shape)


def _normalize_forward(
    x: jax.Array, mean: jax.Array, factor: jax.Array, bias: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return normalize(x, mean, factor, bias), (x, mean, factor, bias)


def _normalize_backward(saved: tuple[jax.Array, ...], dy: jax.Array) -> tuple[jax.Array, ...]:
    x, mean, factor, bias = saved
    shift = total(dy)
    slope = total((fold_channels(dy) * (fold_channels(x) - _repeated(mean, x))).reshape(x.shape))
    dx = (fold_channels(dy) * _repeated(factor, x)).reshape(x.shape)
    changes = (dx, -factor * shift, slope, shift)
    return tuple(c.astype(v.dtype) for c, v in zip(changes, (x, mean, factor, bias), strict=True))


normalize.defvjp(_normalize_forward, _normalize_backward)


def channel_sums(x: jax.Array, about: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums of differences from a shift and of their squares, over all axes but the last."""
    x = x.astype(about.dtype)
    apart = fold_channels(x) - _repeated(about, x)
    first, second = (sum_of_rows(_partial(v, x)) for v in (apart, jnp.square(apart)))
    return first, second


def near_mean(
    sums: Sums, size: int, again: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
) -> Sums:
    """Sums about values at most a standard deviation from the mean.

    The variance loses one bit then.

    Args:
      sums: sums of each row of the batch.
      size: number of values per channel in the batch.
      again: computes the sums of each row about another shift, if that is necessary.
    """
    mean, square = sums.first.sum(0) / size, sums.second.sum(0) / size
    is_near = 2 * mean**2 <= square
    nearer = jnp.where(is_near, sums.about, _rounded(sums.about + mean))
    about = _settled(lax.stop_gradient(nearer))
    return Sums(about, *lax.cond(is_near.all(), lambda _: sums[1:], again, about))


@jax.custom_vjp
def batch_sums(x: jax.Array, about: jax.Array) -> Sums:
    """Sums of a batch about values near the mean, in one row.

    Args:
      x: values, (..., c).
      about: values that are expected to be near the mean.
    """

    def one_row(about: jax.Array) -> tuple[jax.Array, jax.Array]:
        first, second = channel_sums(x, about)
        return first[None], second[None]

    return near_mean(Sums(about, *one_row(about)), x.size // x.shape[-1], one_row)


def _sums_forward(x: jax.Array, about: jax.Array) -> tuple[Sums, tuple[jax.Array, jax.Array]]:
    sums = batch_sums(x, about)
    return sums, (x, sums.about)


def sums_gradient(x: jax.Array, about: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """The gradient of `channel_sums` in its dtype, given those of its results."""
    middle, first, second = (_repeated(v, x) for v in (about, first, second))
    return (first + 2 * (fold_channels(x) - middle) * second).reshape(x.shape)


def _sums_backward(
    saved: tuple[jax.Array, jax.Array], changes: Sums
) -> tuple[jax.Array, jax.Array]:
    x, about = saved
    change = sums_gradient(x, about, changes.first[0], changes.second[0])
    return change.astype(x.dtype), jnp.zeros_like(about)


batch_sums.defvjp(_sums_forward, _sums_backward)


def total(x: jax.Array) -> jax.Array:
    """Sum over all axes but the last, at least in float32."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return sum_of_rows(_partial(fold_channels(x), x))


def _partial(merged: jax.Array, x: jax.Array) -> jax.Array:
    """Partial sums, (n, c), of values in the layout of `fold_channels(x)`."""
    if x.ndim == 4:
        # (h, w, n, c) in one step; for (n, h, w, c), this would sum too many terms.
        axes = (0, 1) if len(x) <= x.shape[1] else 1
        return merged.sum(axes).reshape(-1, x.shape[-1])
    some = math.isqrt(len(x))
    filled = jnp.pad(merged, ((0, -len(x) % some), (0, 0)))
    return filled.reshape(-1, some, x.shape[-1]).sum(1)


def sum_of_rows(x: jax.Array) -> jax.Array:
    """Sums rows, (rows, c) to (c,)."""
    if len(x) <= _FEW_ROWS:
        # A product, because XLA merges two reductions into one. Exact on accelerators, too.
        ones = jnp.ones((1, len(x)), x.dtype)
        return jnp.matmul(ones, x, precision=lax.Precision.HIGHEST)[0]
    large, small = _sum_of_small(lax.optimization_barrier(x))
    return large + small


def _sum_of_small(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sum of rows as a rounded value and remainder.

    Values with a third of the mantissa bits are summed without rounding if the number of rows times
    the ratio of the largest to the smallest value is below 2^16.
    """
    high = _shortened(x, np.finfo(x.dtype).nmant // 3)
    return high.sum(0), (x - high).sum(0)


def _settled(x: jax.Array) -> jax.Array:
    """Returns a vector unchanged, as the result of a product.

    XLA does not fuse products. Otherwise, it would recompute per-channel values for each value of
    the channel.
    """
    return (jnp.ones((1, 2), x.dtype) @ jnp.stack([x, jnp.zeros_like(x)]))[0]


def _repeated(values: jax.Array, like: jax.Array) -> jax.Array:
    """`layout.repeat_channels` on CPUs, and without its barrier on accelerators."""
    if like.ndim != 4:
        return values
    result: jax.Array = lax.platform_dependent(
        values,
        cpu=lambda values: repeat_channels(values, like),
        default=lambda values: jnp.tile(values, like.shape[2]),
    )
    return result
