"""Muon: momentum orthogonalized by Newton-Schulz iterations (Jordan et al. 2024).

The update rule of ``torch.optim.Muon``, in float32. ``optax.contrib.muon`` corrects the bias of
the momentum, so that its Nesterov updates differ.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

COEFFICIENTS = (
    3.4445,
    -4.7750,
    2.0315,
)  # of the quintic; https://kellerjordan.github.io/posts/muon
SMALLEST_NORM = 1e-7


class MuonState(NamedTuple):
    """The momentum of every parameter."""

    momentum: optax.Updates


def scale_by_muon(momentum: float, steps: int, *, nesterov: bool) -> optax.GradientTransformation:
    """Replaces gradients by orthogonalized momentum; the learning rate is applied afterwards.

    Args:
      momentum: decay rate of the momentum.
      steps: Newton-Schulz iterations.
      nesterov: use Nesterov momentum.
    """

    def moved(old: jax.Array, new: jax.Array) -> jax.Array:
        return momentum * old + (1 - momentum) * new

    def init(params: optax.Params) -> MuonState:
        return MuonState(jax.tree.map(jnp.zeros_like, params))

    def update(
        gradient: optax.Updates, state: MuonState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, MuonState]:
        del params
        average = jax.tree.map(moved, state.momentum, gradient)
        ahead = jax.tree.map(moved, average, gradient) if nesterov else average
        return jax.tree.map(lambda k: muon_direction(k, steps), ahead), MuonState(average)

    return optax.GradientTransformation(init, update)


def muon_direction(kernel: jax.Array, steps: int) -> jax.Array:
    """Orthogonalizes a kernel as a matrix of outputs by inputs, (out, in * height * width).

    Args:
      kernel: (..., out); of a transposed convolution, (height, width, out, in).
      steps: Newton-Schulz iterations.

    Returns:
      The orthogonalized kernel times ``sqrt(max(1, rows / columns))`` of that matrix.
    """
    matrix = kernel.reshape(-1, kernel.shape[-1]).T
    rows, columns = matrix.shape
    scaled = orthogonalized(matrix, steps) * max(1.0, rows / columns) ** 0.5
    direction: jax.Array = scaled.T.reshape(kernel.shape)
    return direction


def orthogonalized(matrix: jax.Array, steps: int) -> jax.Array:
    """Moves all singular values toward one: roughly ``U V^T`` of ``U S V^T``.

    Args:
      matrix: (rows, columns), of any scale; zero remains zero.
      steps: Newton-Schulz iterations. After 5, most singular values lie between 0.7 and 1.2.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if tall else matrix

    def iterate(_: int, x: jax.Array) -> jax.Array:
        gram = x @ x.T
        return a * x + (b * gram + c * gram @ gram) @ x

    start = wide / jnp.maximum(jnp.linalg.norm(wide), SMALLEST_NORM)
    result: jax.Array = lax.fori_loop(0, steps, iterate, start)
    return result.T if tall else result
