"""Pooling and upscaling on (h, w, n, c) against XLA's on (n, h, w, c) and NumPy's definitions."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnbench.nn.ops import layout, pooling, whole, xla
from tests.support.oracles import Array

Pair = tuple[int, int]
# Size of the images, window, stride.
WINDOWS: tuple[tuple[Pair, Pair, Pair], ...] = (
    ((8, 6), (2, 2), (2, 2)),  # tiles
    ((9, 11), (2, 3), (2, 3)),  # and a border that no window reaches
    ((7, 8), (3, 3), (1, 1)),  # overlapping
    ((9, 8), (3, 2), (2, 1)),
    ((10, 9), (4, 3), (3, 2)),  # overlapping, with a border
    ((9, 10), (2, 1), (3, 4)),  # gaps between the windows
    ((5, 4), (5, 4), (5, 4)),  # one window
    ((5, 6), (1, 1), (1, 1)),
    ((15, 18), (7, 6), (2, 3)),  # many cells, overlapping
    ((24, 24), (12, 12), (12, 12)),  # more cells than an int8 counts
)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def images(size: Pair, tied: bool = False) -> Array:
    x = np.random.default_rng(0).normal(size=(3, *size, 2))
    return np.round(x) if tied else x


def outer(x: Any) -> Any:
    """(n, h, w, c) to (h, w, n, c)."""
    return x.transpose(1, 2, 0, 3)


def windows(size: Pair, window: Pair, stride: Pair) -> list[tuple[Pair, slice, slice]]:
    """The place of each window in the result, its rows and its columns."""
    out = [(size[i] - window[i]) // stride[i] + 1 for i in (0, 1)]
    return [
        (
            (i, j),
            slice(i * stride[0], i * stride[0] + window[0]),
            slice(j * stride[1], j * stride[1] + window[1]),
        )
        for i, j in itertools.product(range(out[0]), range(out[1]))
    ]


def numpy_pool(x: Array, window: Pair, stride: Pair, reduce: Callable[..., Array]) -> Array:
    places = windows(x.shape[1:3], window, stride)
    last = places[-1][0]
    y = np.empty((len(x), last[0] + 1, last[1] + 1, x.shape[3]))
    for (i, j), rows, columns in places:
        y[:, i, j] = reduce(x[:, rows, columns], axis=(1, 2))
    return y


def numpy_max_gradient(x: Array, dy: Array, window: Pair, stride: Pair) -> Array:
    """Each error to the first of the largest, in the order of rows and columns."""
    dx = np.zeros_like(x)
    for (i, j), rows, columns in windows(x.shape[1:3], window, stride):
        for n, c in itertools.product(range(x.shape[0]), range(x.shape[3])):
            cells = x[n, rows, columns, c]
            first = np.unravel_index(np.argmax(cells), cells.shape)
            dx[n, rows, columns, c][first] += dy[n, i, j, c]
    return dx


def numpy_mean_gradient(x: Array, dy: Array, window: Pair, stride: Pair) -> Array:
    dx = np.zeros_like(x)
    for (i, j), rows, columns in windows(x.shape[1:3], window, stride):
        dx[:, rows, columns] += dy[:, i : i + 1, j : j + 1] / (window[0] * window[1])
    return dx


def _same(x: Array) -> Array:
    return x


def with_gradient(function: Callable[..., Any], x: Array, dy: Array) -> tuple[Array, Array]:
    """A function's result and its gradient for an error of the result, in one compilation."""

    @jax.jit
    def run(x: jax.Array, dy: jax.Array) -> Any:
        y, pull = jax.vjp(function, x)
        return y, pull(dy)[0]

    y, dx = run(x, dy)
    return np.asarray(y), np.asarray(dx)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("size", "window", "stride"), WINDOWS)
def test_max_pool(size: Pair, window: Pair, stride: Pair, tied: bool) -> None:
    x = images(size, tied)
    want = numpy_pool(x, window, stride, np.max)
    dy = np.random.default_rng(1).normal(size=want.shape)
    wanted = numpy_max_gradient(x, dy, window, stride)
    for function, turn in (
        (pooling.max_pool, outer),
        (xla.max_pool, _same),
        (whole.max_pool, _same),
    ):
        y, dx = with_gradient(lambda x, pool=function: pool(x, window, stride), turn(x), turn(dy))
        np.testing.assert_array_equal(y, turn(want))
        np.testing.assert_allclose(dx, turn(wanted), atol=1e-12)


@pytest.mark.parametrize(("size", "window", "stride"), WINDOWS)
def test_avg_pool(size: Pair, window: Pair, stride: Pair) -> None:
    x = images(size)
    want = numpy_pool(x, window, stride, np.mean)
    dy = np.random.default_rng(1).normal(size=want.shape)
    wanted = numpy_mean_gradient(x, dy, window, stride)
    for function, turn in (
        (pooling.avg_pool, outer),
        (xla.avg_pool, _same),
        (whole.avg_pool, _same),
    ):
        y, dx = with_gradient(lambda x, pool=function: pool(x, window, stride), turn(x), turn(dy))
        np.testing.assert_allclose(y, turn(want), atol=1e-12)
        np.testing.assert_allclose(dx, turn(wanted), atol=1e-12)


@pytest.mark.parametrize("times", [(1, 1), (2, 2), (2, 3), (1, 4)])
def test_upscale(times: Pair) -> None:
    x = images((3, 4))
    want = x.repeat(times[0], axis=1).repeat(times[1], axis=2)
    dy = np.random.default_rng(1).normal(size=want.shape)
    wanted = dy.reshape(3, 3, times[0], 4, times[1], 2).sum(axis=(2, 4))
    for function, turn in ((pooling.upscale, outer), (xla.upscale, _same)):
        y, dx = with_gradient(lambda x, up=function: up(x, times), turn(x), turn(dy))
        np.testing.assert_array_equal(y, turn(want))
        np.testing.assert_allclose(dx, turn(wanted), atol=1e-12)


@pytest.mark.parametrize(("window", "stride"), [((2, 2), (2, 2)), ((2, 2), (1, 1))])
def test_equal_values_send_the_gradient_to_the_first(window: Pair, stride: Pair) -> None:
    x = jnp.zeros((4, 4, 1, 1))
    dx = jax.grad(lambda x: pooling.max_pool(x, window, stride).sum())(x)
    want = np.zeros((4, 4, 1, 1))
    want[: 4 - window[0] + 1 : stride[0], : 4 - window[1] + 1 : stride[1]] = 1
    np.testing.assert_array_equal(dx, want)


def test_settled_values_are_the_same_values() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4, 2, 3)), jnp.float32)
    x = x.at[0, 0, 0, 1].set(jnp.inf).at[1].set(jnp.nan)
    np.testing.assert_array_equal(jax.jit(layout.materialized)(x), x)
    np.testing.assert_array_equal(jax.jit(layout.materialized)(jnp.full_like(x, jnp.inf)), jnp.inf)
    _, pull = jax.vjp(layout.materialized, x)
    np.testing.assert_array_equal(pull(x)[0], x)


def test_consumers_of_settled_values_wait_for_them() -> None:
    """XLA must not see through it; else an activation is computed where it is read."""
    x = jnp.ones((4, 4, 2, 3))
    compiled = jax.jit(lambda x: jnp.pad(layout.materialized(jnp.tanh(x)), 1)).lower(x).compile()
    assert "conditional" in str(compiled.as_text())
