"""Layers of transformers on images in the layout (n, h, w, c)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from cnnbench.layers import Attention, ClassToken, PositionEmbedding
from cnnbench.layers.attention import sincos2d
from cnnbench.nn.ops.attention import attention


def of_images(
    op: Attention | PositionEmbedding | ClassToken,
    images: jax.Array,
    weights: Mapping[str, jax.Array],
) -> jax.Array:
    """Computes a layer of a transformer.

    Args:
      op: the layer.
      images: sequences of pixels, (n, h, w, c).
      weights: its parameters, by name.
    """
    n, *shape, channels = images.shape
    match op:
        case Attention():
            sequences = images.reshape(n, -1, channels)
            return attention(sequences, weights, op.heads).reshape(images.shape)
        case PositionEmbedding():
            fixed = op.kind == "sincos2d"
            added = sincos2d((*shape, channels)) if fixed else weights["embedding"]
            return images + jnp.asarray(added, images.dtype)
        case ClassToken():
            first = jnp.broadcast_to(weights["token"].astype(images.dtype), (n, 1, 1, channels))
            return jnp.concatenate([first, images.reshape(n, -1, 1, channels)], axis=1)
