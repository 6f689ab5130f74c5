"""Activations with exponentials in C, together with the bias before them, in float32."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np

from cnnbench.nn.native.compiler import call_with_workspace
from cnnbench.nn.native.sums import NATIVE_SUMS
from cnnbench.nn.ops.convolution import Two

TARGET = "cnnbench_activation"  # of XLA's custom calls
_NUMBERS = {"silu": 0, "gelu": 1, "gelu_exact": 2}  # in activation.c


def activate(z: jax.Array, bias: jax.Array, name: str) -> jax.Array:
    """An activation of ``z + bias``.

    Args:
      z: values, (..., c).
      bias: (c,).
      name: the activation, one of `IN_C`.
    """
    return _activate(z, bias, name)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _activate(z: jax.Array, bias: jax.Array, name: str) -> jax.Array:
    return _call((z, bias), name, z)[0]


def _forward(z: jax.Array, bias: jax.Array, name: str) -> tuple[jax.Array, Two]:
    return _activate(z, bias, name), (z, bias)


def _backward(name: str, saved: Two, dy: jax.Array) -> Two:
    z, bias = saved
    dz, shift = _call((z, bias, dy), name, z, bias)
    return dz, shift


_activate.defvjp(_forward, _backward)


def _call(operands: tuple[jax.Array, ...], name: str, *like: jax.Array) -> list[jax.Array]:
    z, bias = operands[:2]
    backward, rows = len(operands) > 2, z.size // max(1, bias.size)
    sizes = np.array([backward, _NUMBERS[name], rows, bias.size], np.int64)
    results = [jax.ShapeDtypeStruct(each.shape, jnp.float32) for each in like]
    return call_with_workspace("activation.c", TARGET, operands, sizes, *results)


@jax.custom_vjp
def shifted(z: jax.Array, bias: jax.Array) -> jax.Array:
    """Values, (..., c), plus a bias, (c,), whose gradient is summed in C."""
    return z + bias


shifted.defvjp(
    lambda z, bias: (shifted(z, bias), None),
    lambda _, dy: (dy, NATIVE_SUMS.of_values(dy)[0].astype(dy.dtype)),
)

Biased = Callable[[jax.Array, jax.Array], jax.Array]

IN_C: Mapping[str, Biased] = MappingProxyType(
    {"linear": shifted, **{name: partial(activate, name=name) for name in _NUMBERS}}
)
