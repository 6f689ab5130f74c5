"""Max pools in C, by NumPy's definition."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnbench.nn.lowering import lower, unavailable
from cnnbench.nn.native import pool
from cnnbench.system.arrays import Pair
from tests.nn.ops.test_pooling import (
    WINDOWS,
    numpy_max_gradient,
    numpy_pool,
    with_gradient,
)
from tests.support.oracles import make_plan

pytestmark = pytest.mark.skipif(
    unavailable("winograd") is not None, reason=str(unavailable("winograd"))
)

FITTING = [each for each in WINDOWS if pool.supports(each[1])]
ALL = [(*each, channels) for each in FITTING for channels in (1, 16, 21)]


def check(size: Pair, window: Pair, stride: Pair, channels: int, *, tied: bool = False) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, *size, channels)).astype(np.float32)
    x = np.round(x) if tied else x
    want = numpy_pool(x, window, stride, np.max)
    dy = rng.normal(size=want.shape).astype(np.float32)
    y, dx = with_gradient(lambda x: pool.max_pool(x, window, stride), x, dy)
    np.testing.assert_array_equal(y, want)
    wanted = numpy_max_gradient(x, dy, window, stride)
    overlaps = any(step < cells for step, cells in zip(stride, window, strict=True))
    np.testing.assert_allclose(dx, wanted, rtol=0, atol=1e-5 if overlaps else 0)


def check_all() -> None:
    for each in ALL:
        check(*each)


@pytest.mark.parametrize(("size", "window", "stride", "channels"), ALL)
@pytest.mark.parametrize("tied", [False, True])
def test_maxima_and_gradients(
    size: Pair, window: Pair, stride: Pair, channels: int, tied: bool
) -> None:
    check(size, window, stride, channels, tied=tied)


@pytest.mark.parametrize("place", [0, 1, 8])
def test_nan_stays_visible(place: int) -> None:
    """Wherever it is in its window."""
    x = np.random.default_rng(0).normal(size=(1, 6, 3, 17)).astype(np.float32)
    x[0, place // 3, place % 3, 16] = np.nan
    y = np.asarray(pool.max_pool(jnp.asarray(x), (3, 3), (3, 3)))
    want = np.zeros(y.shape, bool)
    want[0, 0, 0, 16] = True
    np.testing.assert_array_equal(np.isnan(y), want)


def test_seeds_in_parallel_equal_each_alone() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 6, 6, 5)), jnp.float32)

    def loss(x: jax.Array) -> jax.Array:
        return (pool.max_pool(x, (2, 2), (2, 2)) ** 2).sum()

    got = jax.jit(jax.vmap(jax.grad(loss)))(x)
    np.testing.assert_array_equal(got, jnp.stack([jax.grad(loss)(each) for each in x]))


@pytest.mark.parametrize(
    ("window", "dtype", "expected"),
    [((2, 2), jnp.float32, 1), ((12, 12), jnp.float32, 0), ((2, 2), jnp.bfloat16, 0)],
)
def test_layers_call_it_for_small_windows_in_float32(
    window: Pair, dtype: Any, expected: int
) -> None:
    plan = make_plan(
        {"pool": {"op": "max_pool", "size": window}},
        (24, 24, 3),
        (24 // window[0], 24 // window[1], 3),
    )
    lowering, (node,) = lower(plan, "winograd"), plan.nodes
    call = jax.jit(lambda x: lowering.max_pool(node, x))
    text = call.lower(jnp.ones((2, 24, 24, 3), dtype)).as_text()
    assert text.count("@cnnbench_pool") == expected
