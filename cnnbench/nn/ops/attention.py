"""Multi-head self-attention over sequences."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp


def attention(x: jax.Array, weights: Mapping[str, jax.Array], heads: int) -> jax.Array:
    """Scaled dot-product attention with projections of inputs and outputs.

    The softmax is computed in float32 at least, as mixed precision does in other libraries.

    Args:
      x: sequences, (n, tokens, c).
      weights: `kernel` (c, 3c), `out_kernel` (c, c), and optionally `bias` and `out_bias`.
      heads: number of heads; each has contiguous channels.

    Returns:
      (n, tokens, c).
    """
    projected = x @ weights["kernel"] + weights.get("bias", 0)
    q, k, v = (part.reshape(*x.shape[:2], heads, -1) for part in jnp.split(projected, 3, axis=-1))
    wide = jnp.promote_types(x.dtype, jnp.float32)
    scores = jnp.einsum("nqhd,nkhd->nhqk", q * q.shape[-1] ** -0.5, k, preferred_element_type=wide)
    shares = jax.nn.softmax(scores).astype(x.dtype)
    mixed = jnp.einsum("nhqk,nkhd->nqhd", shares, v).reshape(x.shape)
    return mixed @ weights["out_kernel"] + weights.get("out_bias", 0)
