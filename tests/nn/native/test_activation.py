"""Activations and biases in C, as PyTorch computes them in float64."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnbench.nn.lowering import unavailable
from cnnbench.nn.native.activation import IN_C
from tests.support.oracles import Array

torch: Any = pytest.importorskip("torch", reason="needs the peers extra")
functional = torch.nn.functional
pytestmark = pytest.mark.skipif(
    unavailable("winograd") is not None, reason=str(unavailable("winograd"))
)

TORCH: dict[str, Callable[[Any], Any]] = {
    "linear": lambda x: x,
    "silu": functional.silu,
    "gelu": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_exact": functional.gelu,
}
SHAPES = [(5, 7, 3, 48), (40, 5, 1, 17), (3, 1), (70, 8), (1, 1, 1, 33)]


def check_gradients(
    ours: Callable[..., jax.Array], theirs: Callable[..., Any], *values: Array
) -> None:
    """Compares outputs and gradients, with weights in (-1, 1), relative to the largest."""
    y, pull = jax.vjp(jax.jit(ours), *map(jnp.asarray, values))
    dy = np.random.default_rng(1).uniform(-1, 1, y.shape).astype(np.float32)
    given = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]
    want = theirs(*given)
    want.backward(torch.tensor(dy, dtype=torch.float64))
    wanted = [want.detach(), *(v.grad for v in given)]
    for got, each in zip([y, *pull(jnp.asarray(dy))], wanted, strict=True):
        scale = max(1e-30, float(each.abs().max()))
        np.testing.assert_allclose(got, each.numpy(), rtol=0, atol=1e-6 * scale)


def check(name: str, shape: Sequence[int]) -> None:
    rng = np.random.default_rng(0)
    z, bias = rng.normal(0, 3, shape), rng.normal(size=shape[-1])
    values = z.astype(np.float32), bias.astype(np.float32)
    check_gradients(IN_C[name], lambda z, bias: TORCH[name](z + bias), *values)


def check_all() -> None:
    for name in IN_C:
        for shape in SHAPES:
            check(name, shape)


@pytest.mark.parametrize("name", IN_C)
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradients(name: str, shape: Sequence[int]) -> None:
    check(name, shape)


@pytest.mark.parametrize("name", IN_C)
def test_the_ends_of_the_range(name: str) -> None:
    """Where exponentials vanish or would overflow."""
    z = np.array([[-1e9, -200, -89, -87, -30, -10, -0.0, 1e-30, 10, 87, 89, 200, 1e9]], np.float32)
    check_gradients(lambda z: IN_C[name](z, jnp.zeros(z.shape[-1])), TORCH[name], z)
    for value in z[0]:
        one = np.full((1, 1), value, np.float32)
        want = float(TORCH[name](torch.tensor(one, dtype=torch.float64))[0, 0])
        got = float(IN_C[name](jnp.asarray(one), jnp.zeros(1))[0, 0])
        assert got == pytest.approx(want, rel=1e-6, abs=2e-6)


@pytest.mark.parametrize("name", IN_C)
def test_nan_stays_visible(name: str) -> None:
    """In its value, and in its gradient and that of the bias."""
    z = np.zeros((3, 18), np.float32)
    z[1, 17] = np.nan
    y, pull = jax.vjp(IN_C[name], jnp.asarray(z), jnp.zeros(18))
    np.testing.assert_array_equal(np.isnan(y), np.isnan(z))
    if name != "linear":
        dz, dbias = pull(jnp.ones((3, 18)))
        np.testing.assert_array_equal(np.isnan(dz), np.isnan(z))
        np.testing.assert_array_equal(np.isnan(dbias), np.isnan(z[1]))


@pytest.mark.parametrize("name", IN_C)
def test_seeds_in_parallel_equal_each_alone(name: str) -> None:
    rng = np.random.default_rng(0)
    z, bias = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 5, 9), (2, 9)))
    gradient = jax.grad(lambda z, bias: (IN_C[name](z, bias) ** 2).sum(), (0, 1))
    got = jax.jit(jax.vmap(gradient))(z, bias)
    for i in range(2):
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-6),
            got,
            gradient(z[i], bias[i]),
        )
