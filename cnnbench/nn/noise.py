"""Layers that are random in training: dropout, noise, and the sample of a variational code.

Each image draws from a key of its own, made of the layer's key and the image's number. So the
numbers do not depend on the layout of the images, on how a batch is cut into rows, or on the
devices that share it: every engine draws the same ones.
"""

import math
from typing import assert_never

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from cnnbench.layers import Dropout, GaussianNoise, MaskingNoise, Sample
from cnnbench.layers.base import Shape
from cnnbench.nn.ops import layout

Random = Dropout | GaussianNoise | MaskingNoise | Sample


def draw(op: Random, key: jax.Array, numbers: jax.Array, shape: Shape) -> jax.Array:
    """Random values for some images: booleans that say what is kept, or normal values.

    They come from 32 bits a value. The booleans are the same in every dtype, and the normal
    values are those of float64, rounded.

    Args:
      op: the layer.
      key: its key.
      numbers: one for each image, (n,); images of equal numbers get equal values.
      shape: of the layer's result for one image.

    Returns:
      (n, *shape).
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
    # In one axis, since a CPU makes vectors of the last one, and of one channel it has none.
    flat = (math.prod(shape),)
    bits = jax.vmap(lambda own: jax.random.bits(own, flat, jnp.uint32))(keys)
    bits = bits.reshape(-1, *shape)
    match op:
        case Dropout(rate=rate) | MaskingNoise(rate=rate):
            kept: jax.Array = bits < jnp.uint32(min(round((1 - rate) * 2**32), 2**32 - 1))
            return kept
        case GaussianNoise() | Sample():
            # Odd numbers of 24 bits and a sign: exact in float32, symmetric, and never 1.
            odd = 2 * (bits >> 8).astype(jnp.int32) + (1 - 2**24)
            uniform = odd.astype(jnp.result_type(float)) / 2**24
            normal: jax.Array = math.sqrt(2) * lax.erf_inv(uniform)
            return normal
        case _:
            assert_never(op)


def disturb(op: Random, drawn: jax.Array, *inputs: jax.Array) -> jax.Array:
    """What a layer makes of its inputs in training with the numbers that were drawn."""
    x = inputs[0]
    match op:
        case Dropout(rate=rate):
            return layout.each(lambda keep, x: jnp.where(keep, x / (1 - rate), 0), drawn, x)
        case MaskingNoise():
            return layout.each(lambda keep, x: jnp.where(keep, x, 0), drawn, x)
        case GaussianNoise(stddev=stddev):
            return layout.each(lambda noise, x: x + stddev * noise.astype(x.dtype), drawn, x)
        case Sample():
            return layout.each(_reparameterised, drawn, *inputs)
        case _:
            assert_never(op)


def _reparameterised(noise: jax.Array, mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """Kingma & Welling 2014, section 2.4: the gradient goes through mean and deviation."""
    return mean + jnp.exp(log_variance / 2) * noise.astype(mean.dtype)


def divergence(
    mean: jax.Array, log_variance: jax.Array, axes: tuple[int, ...] | None = None
) -> jax.Array:
    """Kullback-Leibler divergence from the standard normal distribution, in nats (n,).

    Kingma & Welling 2014, appendix B: (variance + mean**2 - 1 - log variance) / 2, summed.

    Args:
      mean: of each image's code.
      log_variance: of the same shape.
      axes: all but that of the images; all but the first if None.

    >>> divergence(jnp.array([[0.0, 2.0]]), jnp.zeros((1, 2))).tolist()
    [2.0]
    """
    axes = tuple(range(1, mean.ndim)) if axes is None else axes
    # A sum over a code in bfloat16 would be good to two digits.
    dtype = jnp.promote_types(mean.dtype, jnp.float32)
    mean, log_variance = mean.astype(dtype), log_variance.astype(dtype)
    each = (jnp.expm1(log_variance) - log_variance + mean**2) / 2
    return each.sum(axes)


class RandomLayer(nnx.Module):
    """A layer that draws numbers of its own in training; its first input in evaluation.

    Args:
      op: the operation.
      rngs: ``dropout`` starts its keys.

    Attributes:
      deterministic: whether it draws nothing.
      sampling: whether a `Sample` draws all the same.
    """

    def __init__(self, op: Random, rngs: nnx.Rngs) -> None:
        self.op = nnx.static(op)
        self.deterministic = self.sampling = False
        self.rngs = rngs.dropout.fork()

    @property
    def active(self) -> bool:
        """Tell whether it draws now."""
        sampled = self.sampling and isinstance(self.op, Sample)
        return self.op.draws and (sampled or not self.deterministic)

    def __call__(self, *inputs: jax.Array) -> jax.Array:
        """Images or vectors, (n, ...), to values of their shape."""
        if not self.active:
            return inputs[0]
        return disturb(self.op, self.draw(inputs[0].shape), *inputs)

    def draw(self, shape: Shape, numbers: jax.Array | None = None) -> jax.Array:
        """The next random values.

        Args:
          shape: of the result, (n, ...).
          numbers: as in `draw`; places in the batch if None.
        """
        numbers = jnp.arange(shape[0]) if numbers is None else numbers
        return draw(self.op, self.rngs(), numbers, shape[1:])
