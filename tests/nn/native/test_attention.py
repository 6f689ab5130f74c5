"""Attention in C, as PyTorch computes it in float64."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnbench.nn import transformer
from cnnbench.nn.lowering import unavailable
from cnnbench.nn.native.attention import attend
from tests.support.oracles import Array

pytestmark = pytest.mark.skipif(
    unavailable("winograd") is not None, reason=str(unavailable("winograd"))
)


class Case(NamedTuple):
    n: int
    tokens: int
    heads: int
    size: int


CASES = (
    Case(2, 1, 1, 1),
    Case(3, 7, 2, 5),
    Case(2, 50, 3, 64),
    Case(1, 64, 2, 33),
    Case(2, 65, 1, 16),  # two blocks of queries
    Case(2, 130, 2, 5),
    Case(1, 130, 1, 80),
)


def sample(case: Case, scale: float = 1) -> tuple[Array, Array]:
    """Queries, keys and values, and errors of the outputs."""
    rng, channels = np.random.default_rng(0), case.heads * case.size
    shape = case.n, case.tokens, channels
    projected = scale * rng.normal(size=(*shape[:2], 3 * channels))
    return projected.astype(np.float32), rng.normal(size=shape).astype(np.float32)


def with_gradient(case: Case, projected: Array, dy: Array) -> tuple[Array, Array]:
    y, pull = jax.vjp(jax.jit(lambda x: attend(x, case.heads)), jnp.asarray(projected))
    return np.asarray(y), np.asarray(pull(jnp.asarray(dy))[0])


def torch_with_gradient(case: Case, projected: Array, dy: Array) -> tuple[Array, Array]:
    torch = pytest.importorskip("torch")
    x = torch.tensor(projected, dtype=torch.float64, requires_grad=True)
    split = x.reshape(case.n, case.tokens, 3, case.heads, case.size).permute(2, 0, 3, 1, 4)
    y = torch.nn.functional.scaled_dot_product_attention(*split)
    y = y.transpose(1, 2).reshape(dy.shape)
    y.backward(torch.tensor(dy, dtype=torch.float64))
    return y.detach().numpy(), x.grad.numpy()


def check(case: Case, scale: float = 1, tolerance: float = 2e-6) -> None:
    data = sample(case, scale)
    results = with_gradient(case, *data), torch_with_gradient(case, *data)
    for got, want in zip(*results, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def check_all() -> None:
    for case in CASES:
        check(case)


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_pytorch(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", CASES)
def test_large_scores_do_not_overflow(case: Case) -> None:
    """Thousands, whose rounding errors are relative errors of the weights."""
    check(case, scale=30, tolerance=1e-3)


@pytest.mark.parametrize("channel", [0, 33, 66])  # of queries, keys and values
@pytest.mark.parametrize("token", [0, 49, 64])
def test_nan_stays_visible(token: int, channel: int) -> None:
    """Where XLA's have it: in the outputs of a query, or of all."""
    case = Case(2, 65, 1, 33)
    projected, dy = sample(case)
    projected[1, token, channel] = np.nan
    want, pull = jax.vjp(lambda x: transformer.attend(x, case.heads), jnp.asarray(projected))
    got = with_gradient(case, projected, dy)
    for one, other in zip(got, (want, *pull(jnp.asarray(dy))), strict=True):
        assert np.isnan(other).any()
        np.testing.assert_array_equal(np.isnan(one), np.isnan(other))


def test_seeds_in_parallel_equal_each_alone() -> None:
    x = jnp.stack([jnp.asarray(sample(Case(2, 7, 2, 5), scale)[0]) for scale in (1, 2)])

    def loss(x: jax.Array) -> jax.Array:
        return (attend(x, 2) ** 2).sum()

    got = jax.jit(jax.vmap(jax.grad(loss)))(x)
    np.testing.assert_array_equal(got, jnp.stack([jax.jit(jax.grad(loss))(each) for each in x]))
