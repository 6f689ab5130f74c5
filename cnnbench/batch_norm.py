"""Batch norm (Ioffe & Szegedy 2015) on a CPU: sums over a batch, and what they normalise."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from cnnbench.lanes import each, merge, spread


def statistics(
    part: nnx.BatchNorm, totals: tuple[jax.Array, jax.Array], size: int
) -> dict[str, jax.Array]:
    """What `normalize` needs; the running statistics move on, as in `nnx.BatchNorm`."""
    assert part.scale is not None
    assert part.bias is not None
    mean = totals[0] / size
    variance = jnp.maximum(totals[1] / size - mean**2, 0)
    keep = part.momentum
    part.mean[...] = keep * part.mean[...] + (1 - keep) * lax.stop_gradient(mean)
    part.var[...] = keep * part.var[...] + (1 - keep) * lax.stop_gradient(variance)
    factor = part.scale[...] * lax.rsqrt(variance + part.epsilon)
    return {"mean": mean, "factor": factor, "bias": part.bias[...]}


@jax.custom_vjp
def normalize(x: jax.Array, mean: jax.Array, factor: jax.Array, bias: jax.Array) -> jax.Array:
    """(x - mean) * factor + bias, for each channel; `x` is (..., c)."""
    middle, slope, shift = (spread(v, x) for v in (mean, factor, bias))
    return ((merge(x) - middle) * slope + shift).astype(x.dtype).reshape(x.shape)


def _normalize_forward(
    x: jax.Array, mean: jax.Array, factor: jax.Array, bias: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return normalize(x, mean, factor, bias), (x, mean, factor, bias)


def _normalize_backward(saved: tuple[jax.Array, ...], dy: jax.Array) -> tuple[jax.Array, ...]:
    x, mean, factor, bias = saved
    shift = _total(dy)
    slope = _total((merge(dy) * (merge(x) - spread(mean, x))).reshape(x.shape))
    dx = (merge(dy) * spread(factor, x)).reshape(x.shape)
    changes = (dx, -factor * shift, slope, shift)
    return tuple(c.astype(v.dtype) for c, v in zip(changes, (x, mean, factor, bias), strict=True))


normalize.defvjp(_normalize_forward, _normalize_backward)


@jax.custom_vjp
def channel_sums(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums of the values and of their squares over all axes but the last."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return _total(x), _total(each(jnp.square, x))


def _sums_forward(x: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    return channel_sums(x), x


def sums_gradient(x: jax.Array, changes: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The gradient of `channel_sums`."""
    ones, squares = (spread(change, x) for change in changes)
    return (ones + 2 * merge(x) * squares).astype(x.dtype).reshape(x.shape)


def _sums_backward(x: jax.Array, changes: tuple[jax.Array, jax.Array]) -> tuple[jax.Array]:
    return (sums_gradient(x, changes),)


channel_sums.defvjp(_sums_forward, _sums_backward)


def _total(x: jax.Array) -> jax.Array:
    """The sum over all axes but the last, as a product: XLA's own is not vectorised on a CPU."""
    flat = x.reshape(-1, x.shape[-1])
    total: jax.Array = jnp.ones((1, len(flat)), x.dtype) @ flat
    return total[0]
