"""Numerically stable batch norm (Ioffe & Szegedy 2015).

The mean of a channel can be ten thousand times its standard deviation, and float32 has seven
digits. Values and their squares are therefore summed in float64, which still leaves seven digits
of the variance. On CPUs, loops over rows convert the values in registers, as fast as sums in
float32; XLA would convert all of them first. Everything else is in float32; the mean is a rounded
value plus a remainder. docs/explanation/performance.md compares the errors with PyTorch's.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from cnnbench.nn.ops.activation import Relu
from cnnbench.nn.ops.layout import (
    fold_channels,
    largest_divisor,
    materialized,
    repeat_channels,
)
from cnnbench.system.arrays import Array
from cnnbench.system.compile_cache import traced_once

FACTOR = "factor"  # argument of `normalize`
_BITS = 16  # mantissa bits of the rounded mean
_MOST_ROWS = 16  # added at a time
_MOST_VALUES = 4096  # of a row; few iterations, since XLA takes a microsecond for each operation


@dataclass(frozen=True, slots=True)
class Summation:
    """Sums over all axes but the last, (..., c) to (c,), in float64.

    Args:
      of_values: sums of values, and of their squares.
      of_errors: sums of errors before a relu, and of their products with `x - mean`. Arguments:
        the relu or None, errors after it, and arguments of `normalize`.
    """

    of_values: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
    of_errors: Callable[..., tuple[jax.Array, jax.Array]]


class Sums(NamedTuple):
    """Per-channel sums of a batch about the rounded mean.

    Args:
      about: the mean with 16 mantissa bits, (c,).
      first: sum of the deviations, (c,).
      second: sum of the squared deviations, (c,).
    """

    about: jax.Array
    first: jax.Array
    second: jax.Array


class StableBatchNorm(nnx.BatchNorm):
    """`nnx.BatchNorm` without the cancellation of Flax's E[x^2] - E[x]^2.

    Args:
      channels: channels of the input.
      summation: computes sums over a batch.
      **options: those of `nnx.BatchNorm`.
    """

    def __init__(self, channels: int, summation: Summation, **options: Any) -> None:
        super().__init__(channels, **options)
        self.summation = nnx.static(summation)

    def __call__(
        self, x: jax.Array, *args: Any, relu: Relu | None = None, **kwargs: Any
    ) -> jax.Array:
        """Normalizes over all axes but the last, with running statistics in evaluation.

        Args:
          x: images or vectors.
          *args: those of `nnx.BatchNorm`, for evaluation.
          relu: applied to the result.
          **kwargs: those of `nnx.BatchNorm`, for evaluation.
        """
        if self.use_running_average:
            evaluated: jax.Array = super().__call__(x, *args, **kwargs)
            return relu.apply(evaluated) if relu else evaluated
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        by: Summation = self.summation
        known = statistics(self, batch_sums(wide, by), x.size // x.shape[-1])
        return normalize(by, wide, **known, relu=relu).astype(x.dtype)


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
      sums: sums of the batch.
      size: number of values per channel in the batch.
    """
    rest = sums.first / size
    variance = jnp.maximum(sums.second / size - rest**2, 0)
    part.mean[...] = _moved(part.mean[...], (sums.about, rest), part.momentum)
    part.var[...] = _moved(part.var[...], (variance,), part.momentum)
    # Otherwise XLA multiplies by the reciprocal, which rounds differently.
    deviation = lax.optimization_barrier(jnp.sqrt(variance + part.epsilon))
    factor = (1 if part.scale is None else part.scale[...]) / deviation
    bias = 0 if part.bias is None else part.bias[...]
    return {"mean": sums.about, FACTOR: factor, "bias": bias - rest * factor}


def _moved(running: jax.Array, parts: tuple[jax.Array, ...], momentum: float) -> jax.Array:
    """Exponential moving average of the sum of `parts`, with a single rounding."""
    with jax.enable_x64(True):
        before, *new = (_wide(lax.stop_gradient(v)) for v in (running, *parts))
        return (momentum * before + (1 - momentum) * sum(new)).astype(running.dtype)


@traced_once()
def channel_sums(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums and sums of squares over all axes but the last, in float64."""
    first, second = _totals(lambda x: (_wide(x), jnp.square(_wide(x))), x)
    return first, second


def _error_sums(
    relu: Relu | None, dy: jax.Array, x: jax.Array, mean: jax.Array, *others: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sums of errors, and of their products with centered values, in float64."""
    repeated, errors = _repeated(mean, x), _errors(relu, dy, x, mean, *others).reshape(x.shape)
    return _totals(lambda dy, x: (_wide(dy), _wide(dy * (x - repeated))), errors, x)


BY_XLA = Summation(channel_sums, _error_sums)


@traced_once(0, 5)
def normalize(
    summation: Summation,
    x: jax.Array,
    mean: jax.Array,
    factor: jax.Array,
    bias: jax.Array,
    relu: Relu | None = None,
) -> jax.Array:
    """(x - mean) * factor + bias, per channel; `x` is (..., c).

    With a relu, errors before it are not stored: they are computed again wherever they are read.
    """
    return _normalize((summation, relu), x, mean, factor, bias)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _normalize(static: tuple[Summation, Relu | None], x: jax.Array, *given: jax.Array) -> jax.Array:
    y, relu = _affine(x, *given).astype(x.dtype), static[1]
    return (relu.apply(y) if relu else y).reshape(x.shape)


def _affine(x: jax.Array, mean: jax.Array, factor: jax.Array, bias: jax.Array) -> jax.Array:
    middle, slope, shift = (_repeated(v, x) for v in (mean, factor, bias))
    return (fold_channels(x) - middle) * slope + shift


def _errors(relu: Relu | None, dy: jax.Array, *given: jax.Array) -> jax.Array:
    """Errors before a relu, if there is one, from those after it and arguments of `normalize`."""
    folded = fold_channels(dy)
    return relu.errors(folded, _affine(*given)) if relu else folded


def _normalize_forward(
    static: tuple[Summation, Relu | None], *given: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return _normalize(static, *given), given


def _normalize_backward(
    static: tuple[Summation, Relu | None], saved: tuple[jax.Array, ...], dy: jax.Array
) -> tuple[jax.Array, ...]:
    summation, relu = static
    return normalize_gradient(summation.of_errors(relu, dy, *saved), relu, dy, *saved)


_normalize.defvjp(_normalize_forward, _normalize_backward)


def normalize_gradient(
    sums: tuple[jax.Array, jax.Array],
    relu: Relu | None,
    dy: jax.Array,
    x: jax.Array,
    *given: jax.Array,
) -> tuple[jax.Array, ...]:
    """Gradients of the arguments of `normalize`.

    Args:
      sums: as `Summation.of_errors`.
      relu: the relu, if there is one.
      dy: errors of the outputs.
      x: values.
      *given: mean, factor and bias.
    """
    mean, factor, _ = given
    shift, slope = (each.astype(mean.dtype) for each in sums)
    dx = (_errors(relu, dy, x, *given) * _repeated(factor, x)).reshape(x.shape)
    changes = (dx, -factor * shift, slope, shift)
    return tuple(c.astype(v.dtype) for c, v in zip(changes, (x, *given), strict=True))


class Pending(NamedTuple):
    """A batch norm and its relu, which the next layer computes.

    Args:
      x: values, (n, h, w, c).
      mean: argument of `normalize`, (c,).
      factor: argument of `normalize`, (c,).
      bias: argument of `normalize`, (c,).
      relu: the relu.
    """

    x: jax.Array
    mean: jax.Array
    factor: jax.Array
    bias: jax.Array
    relu: Relu


def about_mean(first: jax.Array, second: jax.Array, size: int, dtype: Any) -> Sums:
    """Sums about the mean, from sums about zero.

    Args:
      first: sums of each row of the batch in float64, (rows, c).
      second: sums of squares, (rows, c).
      size: number of values per channel in the batch.
      dtype: dtype of the results.
    """
    with jax.enable_x64(True):
        total, square = first.sum(0), second.sum(0)
        mean = total / size
        # Few bits make it independent of the order of summation.
        about = lax.reduce_precision(mean.astype(dtype), np.finfo(dtype).nexp, _BITS)
        rest = mean - _wide(about)
        apart = square - total * mean + size * rest**2
        return Sums(about, *(v.astype(dtype) for v in (size * rest, apart)))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def batch_sums(x: jax.Array, summation: Summation = BY_XLA) -> Sums:
    """Sums of a batch, (..., c), about its mean."""
    first, second = summation.of_values(x)
    return about_mean(first[None], second[None], x.size // x.shape[-1], x.dtype)


def _sums_forward(x: jax.Array, summation: Summation) -> tuple[Sums, tuple[jax.Array, jax.Array]]:
    sums = batch_sums(x, summation)
    return sums, (x, sums.about)


def sums_gradient(x: jax.Array, about: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """Gradient of `Sums` in their dtype, from the gradients of both sums."""
    middle, first, second = (_repeated(v, x) for v in (about, first, second))
    return (first + 2 * (fold_channels(x) - middle) * second).reshape(x.shape)


def _sums_backward(
    _summation: Summation, saved: tuple[jax.Array, jax.Array], changes: Sums
) -> tuple[jax.Array]:
    x, about = saved
    return (sums_gradient(x, about, changes.first, changes.second).astype(x.dtype),)


batch_sums.defvjp(_sums_forward, _sums_backward)


def _totals(
    terms: Callable[..., tuple[jax.Array, jax.Array]], *images: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sums of two elementwise functions of images, (..., c) to (c,), in float64.

    Args:
      terms: both functions of a row of each image, in float64.
      images: images of equal shape.
    """

    def looped(*rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        def add(sums: tuple[jax.Array, jax.Array], some: tuple[jax.Array, ...]) -> Any:
            parts = [terms(*row) for row in zip(*map(materialized, some), strict=True)]
            # Sum a few rows first: rounding errors grow with the number of terms.
            first, second = (reduce(jnp.add, part) for part in zip(*parts, strict=True))
            return (sums[0] + first, sums[1] + second), None

        zeros = jnp.zeros(rows[0].shape[2:], jnp.float64)
        first, second = lax.scan(add, (zeros, zeros), rows)[0]
        return first, second

    def at_once(*rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        first, second = terms(*rows)
        return first.sum((0, 1)), second.sum((0, 1))

    with jax.enable_x64(True):
        sums = lax.platform_dependent(*map(_in_rows, images), cpu=looped, default=at_once)
        first, second = (v.reshape(-1, images[0].shape[-1]).sum(0) for v in sums)
        return first, second


def _in_rows(x: jax.Array) -> jax.Array:
    """(h, w, n, c) to (some, rows, parts, n * c), up to 16 rows of parts each; vectors likewise.

    The axis of parts is left out if its size is one: XLA would copy the images for its layout.
    """
    flat = x.reshape(-1, math.prod(x.shape[2:])) if x.ndim == 4 else x.reshape(-1, x.shape[-1])
    rows = largest_divisor(len(flat), _MOST_ROWS)
    parts = largest_divisor(len(flat) // rows, max(1, _MOST_VALUES // flat.shape[-1]))
    return flat.reshape(-1, rows, *([parts] if parts > 1 else ()), flat.shape[-1])


def sum_of_rows(x: jax.Array) -> jax.Array:
    """Sums rows, (rows, c) to (c,), in float64."""
    with jax.enable_x64(True):
        return _wide(x).sum(0).astype(x.dtype)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float64)


def _repeated(values: jax.Array, like: jax.Array) -> jax.Array:
    """`layout.repeat_channels` on CPUs; on accelerators, values that are not materialized."""
    if like.ndim != 4:
        return values
    result: jax.Array = lax.platform_dependent(
        values,
        cpu=lambda values: repeat_channels(values, like),
        default=lambda values: jnp.tile(values, like.shape[2]),
    )
    return result
