"""Winograd's algorithm in C: convolutions and gradients, as PyTorch computes them in float64."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnbench.nn.lowering import lower, unavailable, winograd_layers
from cnnbench.nn.native import winograd
from cnnbench.nn.native.correlation import Correlation
from cnnbench.nn.native.winograd import SIDES, TARGET, pays, supports
from tests.nn.native.test_calls import ONE, both_directions, correlation
from tests.nn.ops.test_convolution import Case, sample, torch_products
from tests.support.oracles import make_plan

pytestmark = pytest.mark.skipif(
    unavailable("winograd") is not None, reason=str(unavailable("winograd"))
)

CASES = (
    Case((8, 8), (3, 3, 16, 16), (1, 1), ONE),
    Case((1, 1), (3, 3, 1, 1), (1, 1), ONE),
    Case((9, 14), (3, 3, 17, 40), (1, 1), ONE),  # no multiples of tiles or vectors
    Case((5, 6), (3, 3, 3, 4)),
    Case((7, 4), (3, 3, 70, 8), (1, 1), ((2, 0), (0, 2))),
    Case((4, 9), (3, 3, 8, 33), (1, 1), ((5, 1), (3, 4))),  # outputs that read no pixel
    Case((40, 24), (3, 3, 16, 48), (1, 1), ONE),  # several blocks of tiles
    Case((12, 10), (5, 5, 8, 20)),
    Case((11, 13), (7, 5, 9, 8), (1, 1), ((3, 3), (2, 2))),
    Case((10, 9), (2, 6, 16, 3), (1, 1), ((0, 1), (2, 3))),
    Case((8, 15), (4, 7, 5, 17), (1, 1), ((1, 2), (3, 3))),
    Case((9, 9), (6, 2, 8, 8), (1, 1), ((3, 2), (0, 1))),
)


def check(number: int, side: int) -> None:
    """Compares a case with PyTorch; its algorithm rounds about ten times as much."""
    data = sample(CASES[number], number)
    want = torch_products(CASES[number], data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "side", lambda _of: side)
        products = both_directions(winograd, correlation(CASES[number]), data)
    for got in products:
        for one, other in zip(got, want, strict=True):
            assert one.shape == other.shape
            assert one.dtype == np.float32
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


def check_all() -> None:
    for number, side in ALL:
        check(number, side)


# Tiles of each side that have at least two outputs along each axis.
ALL = [(i, side) for i, of in enumerate(CASES) for side in SIDES if max(of.kernel[:2]) < side]


@pytest.mark.parametrize(("number", "side"), ALL)
def test_conv_and_its_adjoint_equal_pytorch(number: int, side: int) -> None:
    check(number, side)


@pytest.mark.parametrize(("taps", "most"), [(3, 4e-6), (5, 8e-6), (7, 2e-5)])
def test_rounding_errors_are_small(taps: int, most: float) -> None:
    """Relative to the root mean square, over all three products of a wide layer."""
    case = Case((16, 16), (taps, taps, 64, 64), (1, 1), ((taps // 2, taps // 2),) * 2)
    data = sample(case)
    for one, other in zip(
        both_directions(winograd, correlation(case), data)[0],
        torch_products(case, data),
        strict=True,
    ):
        error = np.sqrt(np.mean((one - other) ** 2) / np.mean(other**2))
        assert 1e-8 < error < most


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("high", "wide"), [(3, 3), (5, 3), (3, 7)])
def test_outputs_of_blank_windows_are_zero(transposed: bool, high: int, wide: int) -> None:
    """And not only up to rounding, or a relu after them would have random gradients."""
    pads = ((high // 2, high // 2), (wide // 2, wide // 2))
    case = Case((17, 22), (high, wide, 20, 17), (1, 1), pads)
    data, of = sample(case, 5, np.float32), correlation(case)
    images = data.y if transposed else data.x
    images[:, 3:13, 3:18] = 0
    images[0, 6, 7, -1] = 1e-3  # a single value
    images[1, 6, 7, 0] = -0.0
    call = winograd.conv_transpose if transposed else winograd.conv
    got = np.asarray(call(jnp.asarray(images), jnp.asarray(data.kernel), of) == 0)
    used = np.pad((images != 0).any(axis=-1), ((0, 0), *pads))
    windows = np.lib.stride_tricks.sliding_window_view(used, (high, wide), axis=(1, 2))
    want = ~windows.any(axis=(-1, -2))
    assert 0 < want.sum() < want.size
    np.testing.assert_array_equal(got.any(-1), want)
    np.testing.assert_array_equal(got.all(-1), want)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_stays_visible(value: float) -> None:
    case = CASES[0]
    data = sample(case, 0, np.float32)
    data.x[1, 3, 3, 5] = value
    x, kernel = map(jnp.asarray, data[:2])
    got = np.asarray(winograd.conv(x, kernel, correlation(case)))
    assert np.isfinite(got[[0, 2]]).all()
    assert not np.isfinite(got[1, 2:5, 2:5]).any()


LAYER = Correlation((28, 28), (3, 3), (1, 1), (1, 1), ONE, (28, 28), 16, 16)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, True),
        ({"kernel": (2, 7)}, True),
        ({"kernel": (1, 3)}, False),
        ({"kernel": (3, 8)}, False),
        ({"stride": (2, 2)}, False),
        ({"dilation": (1, 2)}, False),
        ({"groups": 2}, False),
    ],
)
def test_the_kernels_that_it_supports(keys: dict[str, Any], expected: bool) -> None:
    assert supports(replace(LAYER, **keys)) == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, True),
        ({"kernel": (5, 5)}, True),
        ({"kernel": (1, 1)}, False),
        ({"filters": 8}, True),
        ({"channels": 7}, False),
        ({"filters": 7}, False),
        ({"channels": 256, "filters": 256}, True),
        ({"channels": 512, "filters": 512}, False),
        ({"size": (7, 7), "places": (7, 7)}, True),
        ({"size": (2, 2), "places": (2, 2)}, False),
        ({"size": (30, 4), "places": (28, 2), "pads": ((0, 0), (0, 0))}, False),
    ],
)
def test_it_is_used_where_it_is_fast(keys: dict[str, Any], expected: bool) -> None:
    assert pays(replace(LAYER, **keys)) == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, 6),
        ({"kernel": (5, 5)}, 8),
        ({"kernel": (2, 6)}, 8),
        ({"size": (18, 18), "places": (18, 18)}, 8),  # 9 tiles of 6x6 outputs instead of 25
        ({"size": (18, 18), "places": (18, 18), "channels": 256, "filters": 256}, 6),
    ],
)
def test_small_tiles_are_used_unless_large_ones_are_clearly_faster(
    keys: dict[str, Any], expected: int
) -> None:
    assert winograd.side(replace(LAYER, **keys)) == expected


CONV = {"op": "conv", "filters": 16, "kernel": 3, "padding": "same"}


@pytest.mark.parametrize(
    ("layer", "number"),
    [
        (CONV, 1),
        (CONV | {"op": "conv_transpose"}, 1),
        (CONV | {"kernel": 5}, 1),
        (CONV | {"kernel": 1}, 0),
        (CONV | {"filters": 4}, 0),
        (CONV | {"groups": 2}, 0),
    ],
)
def test_layers_call_it_in_float32_only(layer: dict[str, Any], number: int) -> None:
    """And leave others to another engine."""
    plan = make_plan({"layer": layer}, (8, 8, 16), (8, 8, layer["filters"]))
    (node,), lowering = plan.nodes, lower(plan, "winograd")
    assert winograd_layers(plan) == ({"layer"} if number else set())

    @jax.jit
    def layer_of(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lowering.convolve(node, x, kernel)

    def calls(dtype: Any) -> int:
        x, kernel = jnp.ones((2, 8, 8, 16), dtype), jnp.ones(node.layout.params["kernel"], dtype)
        return str(layer_of.lower(x, kernel).as_text()).count(f"@{TARGET}")

    assert calls(jnp.float32) == number
    with jax.enable_x64(True):
        assert calls(jnp.float64) == 0
