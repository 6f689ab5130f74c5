"""Activations whose derivatives by JAX lose digits, or differ at a kink from PyTorch's."""

import jax
import jax.numpy as jnp


def relu6(x: jax.Array) -> jax.Array:
    """min(max(x, 0), 6), with derivative 0 at both ends, as in PyTorch; JAX has 0.5 at 0."""
    return jnp.where(x < 6, jax.nn.relu(x), 6)


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
