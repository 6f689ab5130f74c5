"""Layer norms in C, as PyTorch computes them in float64."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnbench.nn.lowering import unavailable
from cnnbench.nn.native.norm import TARGET, layer_norm
from cnnbench.nn.ops import norm
from tests.nn.native.test_activation import check_gradients

torch: Any = pytest.importorskip("torch", reason="needs the peers extra")
pytestmark = pytest.mark.skipif(
    unavailable("winograd") is not None, reason=str(unavailable("winograd"))
)

SHAPES = [(5, 7, 3, 48), (40, 5, 1, 17), (33, 200), (3, 4), (1, 1, 1, 16)]
EPSILON = 1e-3


def check(shape: Sequence[int], mean: float = 0.5) -> None:
    rng, channels = np.random.default_rng(0), shape[-1]
    sizes = (mean, shape), (1, channels), (0, channels)
    values = [rng.normal(middle, 1, size).astype(np.float32) for middle, size in sizes]
    check_gradients(
        lambda x, scale, bias: layer_norm(x, {"scale": scale, "bias": bias}, EPSILON),
        lambda x, scale, bias: torch.nn.functional.layer_norm(x, (channels,), scale, bias, EPSILON),
        *values,
    )


def check_all() -> None:
    for shape in SHAPES:
        check(shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradients(shape: Sequence[int]) -> None:
    check(shape)


def test_large_means_do_not_cancel() -> None:
    check((20, 40), mean=1000)


def test_equal_values_become_the_bias() -> None:
    x, bias = jnp.full((4, 21), 0.1), jnp.arange(21.0)
    y, pull = jax.vjp(lambda x: layer_norm(x, {"bias": bias}, EPSILON), x)
    np.testing.assert_array_equal(y, np.tile(bias, (4, 1)))
    assert np.isfinite(pull(jnp.ones(y.shape))[0]).all()


def test_nan_stays_in_its_row() -> None:
    x = np.random.default_rng(0).normal(size=(3, 18)).astype(np.float32)
    x[1, 17] = np.nan
    y, pull = jax.vjp(lambda x: layer_norm(x, {}, EPSILON), jnp.asarray(x))
    for values in (y, pull(jnp.ones(y.shape))[0]):
        np.testing.assert_array_equal(np.isnan(values), [[False] * 18, [True] * 18, [False] * 18])


def test_other_precisions_are_left_to_xla() -> None:
    x = jnp.ones((2, 3), jnp.bfloat16)
    program = jax.jit(lambda x: layer_norm(x, {}, EPSILON))
    assert TARGET not in program.lower(x).as_text()
    assert TARGET in program.lower(x.astype(jnp.float32)).as_text()


def test_seeds_in_parallel_equal_each_alone() -> None:
    rng = np.random.default_rng(0)
    x, scale = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 5, 9), (2, 9)))
    gradient = jax.grad(lambda x, s: (layer_norm(x, {"scale": s}, EPSILON) ** 3).sum(), (0, 1))
    got = jax.jit(jax.vmap(gradient))(x, scale)
    for i in range(2):
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_array_equal(a[i], b),
            got,
            jax.jit(gradient)(x[i], scale[i]),
        )


@pytest.mark.parametrize("keys", [{"scale"}, {"bias"}, set()])
def test_missing_parameters_with_64_bits(keys: set[str]) -> None:
    """They are float32, as the others."""
    x = np.random.default_rng(0).normal(size=(3, 18)).astype(np.float32)
    weights = {name: jnp.linspace(0, 2, 18, dtype=jnp.float32) for name in keys}
    want = norm.layer_norm(jnp.asarray(x), weights, EPSILON)
    with jax.enable_x64(True):
        np.testing.assert_allclose(layer_norm(jnp.asarray(x), weights, EPSILON), want, atol=1e-6)


def test_huge_values() -> None:
    """Unused lanes of a vector have no part in sums."""
    x = jnp.full((2, 18), 2e36)
    dx = jax.grad(lambda x: layer_norm(x, {}, 1e-5).sum())(x)
    assert np.isfinite(dx).all()
