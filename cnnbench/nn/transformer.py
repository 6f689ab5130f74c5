"""Layers of transformers on images in the layout (n, h, w, c), and self-attention."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from cnnbench.layers import Attention, ClassToken, PositionEmbedding
from cnnbench.layers.attention import sincos2d


def project(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Multiplies sequences, (n, tokens, c), by a kernel, (c, units), and adds a bias."""
    return x @ kernel + (0 if bias is None else bias)


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


@dataclass(frozen=True, slots=True)
class Steps:
    """How attention is computed.

    Args:
      project: as `project`.
      attend: as `attend`.
    """

    project: Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]
    attend: Callable[[jax.Array, int], jax.Array]


BY_XLA = Steps(project, attend)


def of_images(
    op: Attention | PositionEmbedding | ClassToken,
    images: jax.Array,
    weights: Mapping[str, jax.Array],
    steps: Steps = BY_XLA,
) -> jax.Array:
    """Computes a layer of a transformer.

    Args:
      op: the layer.
      images: sequences of pixels, (n, h, w, c).
      weights: its parameters, by name.
      steps: how attention is computed.
    """
    n, *shape, channels = images.shape
    match op:
        case Attention():
            sequences = images.reshape(n, -1, channels)
            return attention(sequences, weights, op.heads, steps).reshape(images.shape)
        case PositionEmbedding():
            fixed = op.kind == "sincos2d"
            added = sincos2d((*shape, channels)) if fixed else weights["embedding"]
            return images + jnp.asarray(added, images.dtype)
        case ClassToken():
            first = jnp.broadcast_to(weights["token"].astype(images.dtype), (n, 1, 1, channels))
            return jnp.concatenate([first, images.reshape(n, -1, 1, channels)], axis=1)


def attention(
    x: jax.Array, weights: Mapping[str, jax.Array], heads: int, steps: Steps = BY_XLA
) -> jax.Array:
    """Scaled dot-product attention with projections of inputs and outputs.

    Args:
      x: sequences, (n, tokens, c).
      weights: `kernel` (c, 3c), `out_kernel` (c, c), and optionally `bias` and `out_bias`.
      heads: number of heads; each has contiguous channels.
      steps: how it is computed.

    Returns:
      (n, tokens, c).
    """
    projected = steps.project(x, weights["kernel"], weights.get("bias"))
    mixed = steps.attend(projected, heads)
    return steps.project(mixed, weights["out_kernel"], weights.get("out_bias"))
