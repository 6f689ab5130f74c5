"""Random layers in training: dropout, noise, and the sampling layer of a VAE.

Each image has its own key, derived from the key of the layer and the number of the image. Random
values are therefore independent of memory layout, micro-batching and devices: all engines draw the
same ones.
"""

import math
from typing import assert_never

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from cnnbench.layers import (
    Dropout,
    DropPath,
    GaussianNoise,
    MaskingNoise,
    Sample,
    SpatialDropout,
)
from cnnbench.layers.base import Shape
from cnnbench.nn.ops import layout
from cnnbench.nn.ops.threefry import random_bits

Random = Dropout | SpatialDropout | DropPath | GaussianNoise | MaskingNoise | Sample


def draw(op: Random, key: jax.Array, numbers: jax.Array, shape: Shape) -> jax.Array:
    """Draws random values for images: boolean masks of kept values, or normal values.

    Channels and images are kept as a whole by masks whose other axes have size 1.

    Uses 32 bits per value. Masks are independent of the dtype, and normal values are those of
    float64, rounded.

    Args:
      op: the layer.
      key: random key of the layer.
      numbers: image numbers, (n,); images with equal numbers get equal values.
      shape: output shape of the layer for one image.

    Returns:
      (n, *op.drawn_shape(shape)).
    """
    shape = op.drawn_shape(shape)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
    # Flattened, because CPUs vectorize over the last axis, which may be a single channel.
    bits = random_bits(keys, math.prod(shape)).reshape(-1, *shape)
    match op:
        case (
            Dropout(rate=rate)
            | SpatialDropout(rate=rate)
            | DropPath(rate=rate)
            | MaskingNoise(rate=rate)
        ):
            kept: jax.Array = bits < jnp.uint32(min(round((1 - rate) * 2**32), 2**32 - 1))
            return kept
        case GaussianNoise() | Sample():
            # Odd numbers of 24 bits with sign: exact in float32, symmetric, and never 1.
            odd = 2 * (bits >> 8).astype(jnp.int32) + (1 - 2**24)
            uniform = odd.astype(jnp.result_type(float)) / 2**24
            normal: jax.Array = math.sqrt(2) * lax.erf_inv(uniform)
            return normal
        case _:
            assert_never(op)


def apply_noise(op: Random, drawn: jax.Array, *inputs: jax.Array) -> jax.Array:
    """Output of a random layer in training, from its inputs and random values."""
    x = inputs[0]
    match op:
        case Dropout(rate=rate):
            return layout.elementwise(lambda keep, x: jnp.where(keep, x / (1 - rate), 0), drawn, x)
        case SpatialDropout(rate=rate) | DropPath(rate=rate):
            return jnp.where(drawn, x / (1 - rate), 0)
        case MaskingNoise():
            return layout.elementwise(lambda keep, x: jnp.where(keep, x, 0), drawn, x)
        case GaussianNoise(stddev=stddev):
            return layout.elementwise(lambda noise, x: x + stddev * noise.astype(x.dtype), drawn, x)
        case Sample():
            return layout.elementwise(_reparameterized, drawn, *inputs)
        case _:
            assert_never(op)


def _reparameterized(noise: jax.Array, mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """Reparameterization trick (Kingma & Welling 2014, section 2.4)."""
    return mean + jnp.exp(log_variance / 2) * noise.astype(mean.dtype)


def divergence(
    mean: jax.Array, log_variance: jax.Array, axes: tuple[int, ...] | None = None
) -> jax.Array:
    """Kullback-Leibler divergence from the standard normal distribution, in nats (n,).

    Kingma & Welling 2014, appendix B: (variance + mean**2 - 1 - log variance) / 2, summed.

    Args:
      mean: mean of the code, (n, ...).
      log_variance: log variance of the code, of the same shape.
      axes: axes to sum over, all except that of the images; default: all except the first.

    >>> divergence(jnp.array([[0.0, 2.0]]), jnp.zeros((1, 2))).tolist()
    [2.0]
    """
    axes = tuple(range(1, mean.ndim)) if axes is None else axes
    # Summing over a code in bfloat16 would leave two significant digits.
    dtype = jnp.promote_types(mean.dtype, jnp.float32)
    mean, log_variance = mean.astype(dtype), log_variance.astype(dtype)
    each = (jnp.expm1(log_variance) - log_variance + mean**2) / 2
    return each.sum(axes)


class RandomLayer(nnx.Module):
    """A layer that is random in training, and returns its first input in evaluation.

    Args:
      op: the operation.
      rngs: random keys; the stream ``dropout`` is used.

    Attributes:
      deterministic: True in evaluation mode.
      sampling: True if a `Sample` layer draws in evaluation mode, too.
    """

    def __init__(self, op: Random, rngs: nnx.Rngs) -> None:
        self.op = nnx.static(op)
        self.deterministic = self.sampling = False
        self.rngs = rngs.dropout.fork()

    @property
    def active(self) -> bool:
        """True if the layer currently draws random values."""
        sampled = self.sampling and isinstance(self.op, Sample)
        return self.op.draws and (sampled or not self.deterministic)

    def __call__(self, *inputs: jax.Array) -> jax.Array:
        """Applies the layer to images or vectors, (n, ...); the output has the same shape."""
        if not self.active:
            return inputs[0]
        return apply_noise(self.op, self.draw(inputs[0].shape), *inputs)

    def draw(self, shape: Shape, numbers: jax.Array | None = None) -> jax.Array:
        """Draws the next random values.

        Args:
          shape: output shape, (n, ...).
          numbers: as in `draw`; default: indices in the batch.
        """
        numbers = jnp.arange(shape[0]) if numbers is None else numbers
        return draw(self.op, self.rngs(), numbers, shape[1:])
