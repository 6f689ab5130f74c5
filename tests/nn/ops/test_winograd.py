"""Winograd's matrices and tiles: exact where they should be, and how exact in float32."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnbench.nn.ops.convolution import Convolution
from cnnbench.nn.ops.winograd import LARGEST_TILE, Winograd, matrices, tilings
from tests.support import oracles
from tests.support.oracles import Array

Pair = tuple[int, int]
EVERY_TILE = [(m, r) for r in range(1, 9) for m in range(1, 9) if m + r - 1 <= LARGEST_TILE]


@pytest.mark.parametrize(("outputs", "taps"), EVERY_TILE)
def test_matrices_correlate_exactly(outputs: int, taps: int) -> None:
    maps, tile = matrices(outputs, taps), outputs + taps - 1
    assert maps.inputs.shape == (tile, tile)
    assert maps.kernel.shape == (tile, taps)
    assert maps.outputs.shape == (outputs, tile)
    rng = np.random.default_rng(8 * outputs + taps)
    for _ in range(5):
        x, kernel = rng.integers(-9, 10, tile), rng.integers(-9, 10, taps)
        got = maps.outputs @ ((maps.kernel @ kernel) * (maps.inputs @ x))
        np.testing.assert_allclose(got, np.correlate(x, kernel, "valid"), rtol=0, atol=1e-9)


def test_number_of_products_per_tile() -> None:
    """One product per input: 64 instead of 400 for 4x4 outputs of a 5x5 kernel."""
    tile = Winograd((5, 5), (4, 4), (4, 4), (5, 5))
    transformed = tile.input_transform(jnp.zeros((8, 8, 1, 1)))
    assert transformed.shape == (8, 8, 1, 1)


@pytest.mark.parametrize(
    ("spread", "transformed", "kernel"),
    [(False, (7, 7, 4, 12), (7, 7, 12, 5)), (True, (7, 7, 9, 3), (7, 7, 3, 20))],
)
def test_blocks_share_their_inputs(spread: bool, transformed: Any, kernel: Any) -> None:
    """2 x 2 tiles of 4 x 4 outputs read 3 x 3 tiles of inputs: 7 x 7 points of each."""
    by = Winograd((7, 8), (8, 8), (4, 4), (4, 4), spread)
    assert by.blocks == (2, 2)
    assert by.input_transform(jnp.zeros((14, 15, 1, 3))).shape == transformed
    assert by.prepare(jnp.zeros((7, 8, 3, 5))).shape == kernel


@pytest.mark.parametrize(
    ("kernel", "out", "ways"),
    [
        ((5, 1), (8, 8), [((4, 1), (5, 1)), ((3, 1), (3, 1)), ((4, 1), (4, 1))]),
        ((3, 1), (12, 8), [((6, 1), (3, 1))]),
        ((3, 1), (4, 8), [((4, 1), (3, 1))]),
        ((3, 1), (8, 8), [((4, 1), (3, 1))]),  # as few products as tiles of 6, and smaller
        ((1, 7), (8, 8), [((1, 2), (1, 7)), ((1, 3), (1, 3)), ((1, 4), (1, 4))]),
        ((9, 1), (8, 8), [((3, 1), (3, 1)), ((4, 1), (4, 1))]),  # no tile holds the kernel
        ((1, 1), (8, 8), []),
    ],
)
def test_tilings(kernel: Pair, out: Pair, ways: list[tuple[Pair, Pair]]) -> None:
    found = tilings(kernel, out)
    assert list(dict.fromkeys((way.tile, way.taps) for way in found)) == ways
    for way in found:
        twin = dataclasses.replace(way, spread=not way.spread)
        assert (twin in found) == (way.blocks != (1, 1))


def conv_of(taps: int, out: int, blocks: bool) -> Convolution:
    """Sizes of square tiles and blocks: the whole kernel, or its largest blocks."""
    kernel, size = (taps, taps), (out + taps - 1, out + taps - 1)
    ways = [way for way in tilings(kernel, (out, out)) if way.tile[0] == way.tile[1]]
    by = ways[-1] if blocks else ways[0]
    assert (by.blocks != (1, 1)) == blocks
    return Convolution(size, kernel, (1, 1), (0, 0), (out, out), by)


def distance(got: Array, want: Array) -> float:
    """Relative, by Frobenius' norm."""
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def bound(taps: int, out: int, product: str) -> float:
    """Largest relative error by norm, with a margin over measured values (4.0e-6 and 5.6e-6)."""
    return 8e-6 if (taps, out, product) == (7, 12, "dkernel") else 5e-6


@pytest.mark.parametrize("out", [8, 12])
@pytest.mark.parametrize(
    ("taps", "blocks"), [*((taps, False) for taps in range(2, 8)), (6, True), (7, True), (9, True)]
)
def test_float32_is_nearly_as_exact_as_float64(taps: int, blocks: bool, out: int) -> None:
    conv, rng = conv_of(taps, out, blocks), np.random.default_rng(taps)
    x = rng.normal(size=(*conv.size, 4, 32)).astype(np.float32)
    kernel = rng.normal(size=(taps, taps, 32, 32)).astype(np.float32)
    y = rng.normal(size=(out, out, 4, 32)).astype(np.float32)

    @jax.jit
    def run(x: jax.Array, kernel: jax.Array, y: jax.Array) -> Any:
        result, pull = jax.vjp(lambda x, kernel: conv.conv(x, conv.prepare(kernel)), x, kernel)
        return result, *pull(y)

    images, errors = (a.transpose(2, 0, 1, 3).astype(float) for a in (x, y))
    exact = kernel.astype(float)
    dkernel = oracles.correlate(images.transpose(3, 1, 2, 0), errors.transpose(1, 2, 0, 3))
    wanted = (
        oracles.correlate(images, exact).transpose(1, 2, 0, 3),
        oracles.full_convolution(errors, exact).transpose(1, 2, 0, 3),
        dkernel.transpose(1, 2, 0, 3),
    )
    names = ("out", "dx", "dkernel")
    for name, got, want in zip(names, run(x, kernel, y), wanted, strict=True):
        assert distance(np.asarray(got), want) < bound(taps, out, name), name
