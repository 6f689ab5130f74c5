"""Scaled dot-product self-attention in C, in float32."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from cnnbench.nn import transformer
from cnnbench.nn.native.compiler import call_with_workspace

TARGET = "cnnbench_attention"  # of XLA's custom calls


def attend(projected: jax.Array, heads: int) -> jax.Array:
    """`transformer.attend` of queries, keys and values, (n, tokens, 3c)."""
    in_c = projected.dtype == jnp.float32
    return _attend(projected, heads) if in_c else transformer.attend(projected, heads)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _attend(projected: jax.Array, heads: int) -> jax.Array:
    return _call(heads, projected)


def _forward(projected: jax.Array, heads: int) -> tuple[jax.Array, jax.Array]:
    return _attend(projected, heads), projected


def _backward(heads: int, projected: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    return (_call(heads, projected, dy),)


_attend.defvjp(_forward, _backward)


def _call(heads: int, projected: jax.Array, *dy: jax.Array) -> jax.Array:
    n, tokens, joined = projected.shape
    channels = joined // 3
    result = jax.ShapeDtypeStruct((n, tokens, joined if dy else channels), jnp.float32)
    sizes = np.array([len(dy), n, tokens, heads, channels // heads], np.int64)
    return call_with_workspace("attention.c", TARGET, (projected, *dy), sizes, result)[0]
