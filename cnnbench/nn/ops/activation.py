"""Activations that JAX computes slowly, or whose derivatives lose digits or differ at a kink."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


def relu6(x: jax.Array) -> jax.Array:
    """min(max(x, 0), 6), with derivative 0 at both ends, as in PyTorch; JAX has 0.5 at 0."""
    return jnp.where(x >= 6, 6, jax.nn.relu(x))  # keeps NaN


class Relu(NamedTuple):
    """An activation with slope 1 between 0 and a limit, and 0 elsewhere and at both.

    Args:
      apply: the activation.
      limit: its largest value.
    """

    apply: Callable[[jax.Array], jax.Array]
    limit: float

    def errors(self, dy: jax.Array, x: jax.Array) -> jax.Array:
        """Errors before the activation, of `x`."""
        return jnp.where((x > 0) & (x < self.limit), dy, 0)


RELUS: Mapping[str, Relu] = {"relu": Relu(jax.nn.relu, math.inf), "relu6": Relu(relu6, 6.0)}


def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU by the error function, as in PyTorch (Hendrycks & Gimpel 2016, 1606.08415).

    JAX computes it by the complementary error function, which takes three times as long on a CPU.

    >>> gelu(jnp.array([0.0, 2.0]))
    Array([0.       , 1.9544997], dtype=float32)
    """
    return 0.5 * x * (1 + lax.erf(x * math.sqrt(0.5)))


@jax.custom_jvp
def softplus(x: jax.Array) -> jax.Array:
    """log(1 + exp(x)), whose derivative is a sigmoid.

    JAX computes exp(x - softplus(x)), which cancels for large x.
    """
    return jax.nn.softplus(x)


@softplus.defjvp
def _softplus_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x,), (change,) = primals, tangents
    return softplus(x), jax.nn.sigmoid(x) * change
