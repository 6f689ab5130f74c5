"""Layer norms in C, in float32."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnbench.nn.native.compiler import call_with_workspace
from cnnbench.nn.ops import norm

TARGET = "cnnbench_norm"  # of XLA's custom calls
_Three = tuple[jax.Array, jax.Array, jax.Array]


def layer_norm(x: jax.Array, weights: Mapping[str, jax.Array], epsilon: float) -> jax.Array:
    """`norm.layer_norm` of values, (..., c)."""
    if x.dtype != jnp.float32:
        return norm.layer_norm(x, weights, epsilon)
    channels = x.shape[-1]
    scale = weights.get("scale", jnp.ones(channels, x.dtype))
    return _layer_norm(x, scale, weights.get("bias", jnp.zeros(channels, x.dtype)), epsilon)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    return _call((x, scale, bias, _array(epsilon)), x.shape)[0]


def _forward(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> Any:
    return _layer_norm(x, scale, bias, epsilon), (x, scale, bias)


def _backward(epsilon: float, saved: _Three, dy: jax.Array) -> _Three:
    operands = (*saved, _array(epsilon), dy)
    dx, both = _call(operands, dy.shape, (2, dy.shape[-1]))
    return dx, both[0], both[1]


_layer_norm.defvjp(_forward, _backward)


def _array(epsilon: float) -> jax.Array:
    return jnp.full(1, epsilon, jnp.float32)


def _call(operands: tuple[jax.Array, ...], *shapes: tuple[int, ...]) -> list[jax.Array]:
    x = operands[0]
    backward, channels = len(operands) > 4, x.shape[-1]
    sizes = np.array([backward, x.size // channels, channels], np.int64)
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return call_with_workspace("norm.c", TARGET, operands, sizes, *results)
