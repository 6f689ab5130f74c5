"""Layers of transformers on images in the layout (n, h, w, c), and self-attention."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from cnnbench.layers import Attention, ClassToken, PositionEmbedding
from cnnbench.layers.attention import sincos2d

Attend = Callable[[jax.Array, int], jax.Array]  # of joined queries, keys and values, and heads


def attend(projected: jax.Array, heads: int) -> jax.Array:
    """Scaled dot-product attention, between the projections.

    The softmax is computed in float32 at least, as mixed precision does in other libraries.

    Args:
      projected: queries, keys and values of sequences, (n, tokens, 3c).
      heads: number of heads; each has contiguous channels.

    Returns:
      (n, tokens, c).
    """
    n, tokens, joined = projected.shape
    q, k, v = (part.reshape(n, tokens, heads, -1) for part in jnp.split(projected, 3, axis=-1))
    wide = jnp.promote_types(projected.dtype, jnp.float32)
    scores = jnp.einsum("nqhd,nkhd->nhqk", q * q.shape[-1] ** -0.5, k, preferred_element_type=wide)
    shares = jax.nn.softmax(scores).astype(projected.dtype)
    return jnp.einsum("nhqk,nkhd->nqhd", shares, v).reshape(n, tokens, joined // 3)


def of_images(
    op: Attention | PositionEmbedding | ClassToken,
    images: jax.Array,
    weights: Mapping[str, jax.Array],
    attend: Attend = attend,
) -> jax.Array:
    """Computes a layer of a transformer.

    Args:
      op: the layer.
      images: sequences of pixels, (n, h, w, c).
      weights: its parameters, by name.
      attend: computes what is between the projections of attention, as `attend` does.
    """
    n, *shape, channels = images.shape
    match op:
        case Attention():
            sequences = images.reshape(n, -1, channels)
            return attention(sequences, weights, op.heads, attend).reshape(images.shape)
        case PositionEmbedding():
            fixed = op.kind == "sincos2d"
            added = sincos2d((*shape, channels)) if fixed else weights["embedding"]
            return images + jnp.asarray(added, images.dtype)
        case ClassToken():
            first = jnp.broadcast_to(weights["token"].astype(images.dtype), (n, 1, 1, channels))
            return jnp.concatenate([first, images.reshape(n, -1, 1, channels)], axis=1)


def attention(
    x: jax.Array, weights: Mapping[str, jax.Array], heads: int, attend: Attend = attend
) -> jax.Array:
    """Scaled dot-product attention with projections of inputs and outputs.

    Args:
      x: sequences, (n, tokens, c).
      weights: `kernel` (c, 3c), `out_kernel` (c, c), and optionally `bias` and `out_bias`.
      heads: number of heads; each has contiguous channels.
      attend: computes what is between the projections, as `attend` does.

    Returns:
      (n, tokens, c).
    """
    projected = x @ weights["kernel"] + weights.get("bias", 0)
    return attend(projected, heads) @ weights["out_kernel"] + weights.get("out_bias", 0)
