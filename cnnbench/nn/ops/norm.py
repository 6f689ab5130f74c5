"""Normalization of each image by itself."""

import jax
import jax.numpy as jnp
from jax import lax


def standardized(x: jax.Array, axes: tuple[int, ...], epsilon: float) -> jax.Array:
    """Values with mean 0 and variance 1 over some axes.

    Computed in float32 at least, about the first value: equal values become exactly zero, and none
    of n values is more than sqrt(n) standard deviations from their mean. The rounding error of the
    mean is removed, too ("corrected two-pass algorithm", Chan, Golub & LeVeque 1983).

    Args:
      x: values.
      axes: the axes to normalize over.
      epsilon: term added to the variance.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    first = wide[tuple(slice(1) if axis in axes else slice(None) for axis in range(x.ndim))]
    differences = wide - lax.stop_gradient(first)
    apart = differences - differences.mean(axes, keepdims=True)
    rest = apart.mean(axes, keepdims=True)
    variance = jnp.square(apart).mean(axes, keepdims=True) - jnp.square(rest)
    return ((apart - rest) * lax.rsqrt(variance + epsilon)).astype(x.dtype)


def standardized_groups(
    x: jax.Array, groups: int, places: tuple[int, int], epsilon: float
) -> jax.Array:
    """Images with mean 0 and variance 1 in each group of channels.

    Args:
      x: images, with the channels last.
      groups: number of groups.
      places: the axes of height and width.
      epsilon: term added to the variance.
    """
    split = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return standardized(split, (*places, split.ndim - 1), epsilon).reshape(x.shape)
