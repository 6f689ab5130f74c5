"""Depthwise convolution by shifted products, against XLA's and in Flax."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import cnnbench

NUMBERS = ("NHWC", "HWIO", "NHWC")


def draw(shape: tuple[int, ...], seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("padding", ["SAME", "VALID", [(2, 0), (1, 3)]])
@pytest.mark.parametrize(
    ("kernel", "strides", "dilation", "multiplier"),
    [
        ((3, 3), (1, 1), (1, 1), 1),
        ((3, 3), (2, 2), (1, 1), 2),
        ((2, 5), (3, 1), (1, 1), 1),
        ((3, 2), (1, 2), (2, 3), 3),
        ((7, 9), (1, 1), (1, 1), 1),
    ],
)
def test_values_and_gradients_are_those_of_xla(
    padding: Any,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int],
    multiplier: int,
) -> None:
    images, weights = draw((2, 9, 11, 4), 0), draw((*kernel, 1, 4 * multiplier), 1)
    options: dict[str, Any] = {
        "rhs_dilation": dilation,
        "dimension_numbers": NUMBERS,
        "feature_group_count": 4,
    }
    found, want = (
        jax.jit(lambda x, k, f=f: f(x, k, strides, padding, **options))
        for f in (cnnbench.depthwise, lax.conv_general_dilated)
    )
    np.testing.assert_allclose(found(images, weights), want(images, weights), rtol=1e-5, atol=1e-5)
    target = draw(want(images, weights).shape, 2)
    gradients, expected = (
        jax.grad(lambda x, k, f=f: jnp.vdot(f(x, k), target), (0, 1))(images, weights)
        for f in (found, want)
    )
    for own, other in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "groups", "numbers"),
    [
        ((2, 6, 6, 4), 1, NUMBERS),
        ((2, 6, 6, 4), 2, NUMBERS),
        ((2, 4, 6, 6), 4, ("NCHW", "HWIO", "NCHW")),
    ],
)
def test_other_convolutions_are_left_to_xla(
    shape: tuple[int, ...], groups: int, numbers: tuple[str, str, str]
) -> None:
    images, weights = draw(shape, 0), draw((3, 3, 4 // groups, 4), 1)
    options: dict[str, Any] = {"dimension_numbers": numbers, "feature_group_count": groups}
    found = cnnbench.depthwise(images, weights, (1, 1), "SAME", **options)
    want = lax.conv_general_dilated(images, weights, (1, 1), "SAME", **options)
    np.testing.assert_array_equal(found, want)


def test_flax_takes_it() -> None:
    images = draw((2, 7, 7, 3), 0)
    make: Any = partial(nnx.Conv, 3, 6, (3, 3), strides=2, feature_group_count=3)
    own = make(rngs=nnx.Rngs(0), conv_general_dilated=cnnbench.depthwise)
    usual = make(rngs=nnx.Rngs(0))
    np.testing.assert_allclose(own(images), usual(images), rtol=1e-5, atol=1e-6)
    assert "conv_general_dilated" not in str(jax.make_jaxpr(own)(images))
    alone = images[0]
    np.testing.assert_allclose(own(alone), usual(alone), rtol=1e-5, atol=1e-6)


def test_bfloat16_rounds_once_as_in_xla() -> None:
    """Against NumPy in float64; bfloat16 has 8 bits of precision."""
    images, kernel = (
        draw(shape, seed).astype(jnp.bfloat16)
        for seed, shape in enumerate([(2, 9, 9, 4), (5, 5, 1, 4)])
    )
    options: Any = {"dimension_numbers": NUMBERS, "feature_group_count": 4}

    def total(images: jax.Array, kernel: jax.Array) -> Any:
        found = cnnbench.depthwise(images, kernel, (1, 1), "VALID", **options)
        return found.astype(jnp.float32).sum(), found

    (_, found), slopes = jax.value_and_grad(total, (0, 1), has_aux=True)(images, kernel)
    x, w = (np.asarray(value, np.float64) for value in (images, kernel))
    windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), (1, 2))  # n, oh, ow, c, kh, kw
    want = np.einsum("nyxcij,ijc->nyxc", windows, w[:, :, 0])
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float64), want, rtol=2**-8, atol=1e-5)
    want = windows.sum((0, 1, 2)).transpose(1, 2, 0)  # of a sum, by the kernel
    np.testing.assert_allclose(np.asarray(slopes[1], np.float64)[:, :, 0], want, rtol=2**-8)


@pytest.mark.parametrize(("platform", "loops"), [("cpu", True), ("cuda", False)])
def test_accelerators_compute_it_without_loops_and_conditions(platform: str, loops: bool) -> None:
    def total(images: jax.Array, kernel: jax.Array) -> jax.Array:
        options: Any = {"dimension_numbers": NUMBERS, "feature_group_count": 4}
        return cnnbench.depthwise(images, kernel, (1, 1), "SAME", **options).sum()

    arguments = draw((2, 9, 11, 4), 0), draw((3, 3, 1, 4), 1)
    exported = jax.export.export(jax.jit(jax.grad(total, (0, 1))), platforms=[platform])
    program = str(exported(*arguments).mlir_module())
    assert ("stablehlo.while" in program) == ("stablehlo.compare" in program) == loops
