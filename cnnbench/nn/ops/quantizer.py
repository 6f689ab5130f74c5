"""Vector quantization (van den Oord et al. 2017, "Neural Discrete Representation Learning")."""

import jax
import jax.numpy as jnp
from jax import lax


def nearest(x: jax.Array, codebook: jax.Array) -> jax.Array:
    """Vectors of a codebook, (codes, c), that are nearest to those of `x`, (..., c).

    Products are those of deviations from the first code: far from zero, they would cancel.
    """
    first = codebook[0]
    codes = codebook - first
    products = jnp.matmul(x - first, codes.T, precision=lax.Precision.HIGHEST)
    closeness = products - jnp.square(codes).sum(axis=1) / 2  # |x|^2 is the same for all codes
    return codebook[closeness.argmax(axis=-1)]


def quantize(x: jax.Array, codebook: jax.Array) -> jax.Array:
    """The nearest vectors, with the gradient of the identity."""
    return lax.stop_gradient(nearest(x, codebook)) + (x - lax.stop_gradient(x))


def distances(
    x: jax.Array, codebook: jax.Array, commitment: float, axes: tuple[int, ...]
) -> jax.Array:
    """Codebook and commitment loss of each image, (n,): means over its values.

    Args:
      x: images or vectors, with the channels as the last axis.
      codebook: (codes, c).
      commitment: weight of the commitment loss.
      axes: all axes except that of the images.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    x, codes = x.astype(dtype), nearest(x, codebook).astype(dtype)
    moves_codes = jnp.square(codes - lax.stop_gradient(x))
    moves_vectors = jnp.square(x - lax.stop_gradient(codes))
    return (moves_codes + commitment * moves_vectors).mean(axes)
