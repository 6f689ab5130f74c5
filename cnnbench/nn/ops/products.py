"""Matrix products in the order that is fastest on a CPU."""

import jax
import jax.numpy as jnp
from jax import lax


def over_rows(x: jax.Array, y: jax.Array) -> jax.Array:
    """The product x^T y, as in the gradient of a matrix, with the larger matrix on the right.

    With the larger one on the left, XLA's product takes up to six times as long on a CPU
    (docs/explanation/performance.md).

    Args:
      x: (..., rows, m).
      y: (..., rows, n).

    Returns:
      (..., m, n).

    >>> over_rows(jnp.ones((5, 3)), jnp.ones((5, 2))).shape
    (3, 2)
    """
    if x.shape[-1] <= y.shape[-1]:
        return jnp.einsum("...rm,...rn->...mn", x, y)
    # Without the barrier, XLA would swap the factors again instead of transposing the product.
    swapped: jax.Array = lax.optimization_barrier(jnp.einsum("...rn,...rm->...nm", y, x))
    return swapped.swapaxes(-1, -2)
