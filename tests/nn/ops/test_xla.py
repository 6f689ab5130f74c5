"""XLA's convolutions: pointwise ones are matrix products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnnbench.nn.ops import xla

NO_PADS = ((0, 0), (0, 0))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_pointwise_convolution_is_a_product_of_channels(channels: int) -> None:
    """Outputs and both gradients equal XLA's convolution, without a convolution."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(4, 5, 6, channels)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(1, 1, channels, 7)), jnp.float32)

    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return xla.conv(x, kernel, (1, 1), NO_PADS)

    def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x, kernel, (1, 1), NO_PADS, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    found, pull = jax.vjp(product, x, kernel)
    want, pull_back = jax.vjp(convolution, x, kernel)
    error = jnp.asarray(rng.normal(size=want.shape), jnp.float32)
    for ours, theirs in zip((found, *pull(error)), (want, *pull_back(error)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert "conv_general_dilated" not in str(jax.make_jaxpr(product)(x, kernel))


@pytest.mark.parametrize(
    ("stride", "pads", "groups"),
    [((2, 1), NO_PADS, 1), ((1, 1), ((0, 1), (0, 0)), 1), ((1, 1), NO_PADS, 2)],
)
def test_other_kernels_of_one_pixel_are_convolutions(stride, pads, groups) -> None:
    x = jnp.arange(2 * 3 * 4 * 2, dtype=jnp.float32).reshape(2, 3, 4, 2)
    kernel = jnp.arange(2 * 6 // groups, dtype=jnp.float32).reshape(1, 1, 2 // groups, 6)
    want = lax.conv_general_dilated(
        x,
        kernel,
        stride,
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    np.testing.assert_array_equal(xla.conv(x, kernel, stride, pads, groups=groups), want)
