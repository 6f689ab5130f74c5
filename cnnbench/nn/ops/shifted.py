"""Depthwise convolution as a sum of shifted products, for Python models on CPUs.

XLA does not use matrix products for convolutions with one group per channel, and is much slower
than the arithmetic requires. As a sum of shifted images, each multiplied by one weight per
channel, it takes a few passes over memory, and so does its gradient.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

SCOPE = "cnnbench_shifted"  # JAX name scope; products in it count as multiply-adds
MOST_TAPS = 25  # with 7x7 kernels there is no speedup, and compilation takes longer
NHWC, HWIO = (0, 3, 1, 2), (3, 2, 0, 1)  # axis numbers of images and kernels in JAX


def depthwise(
    images: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """Replacement for `lax.conv_general_dilated` with faster depthwise convolutions on CPUs.

    To be passed to Flax: ``nnx.Conv(..., feature_group_count=channels,
    conv_general_dilated=cnnbench.depthwise)``. Other convolutions are left to XLA.

    Args:
      images: (n, h, w, channels).
      kernel: (kh, kw, 1, channels * multiplier).
      strides: vertical and horizontal stride.
      padding: ``SAME``, ``VALID``, or zeros before and after height and width.
      **options: other options of `lax.conv_general_dilated`.

    Returns:
      (n, oh, ow, channels * multiplier).
    """
    if not _is_depthwise(images, kernel, options):
        return lax.conv_general_dilated(images, kernel, strides, padding, **options)
    dilation = tuple(options.get("rhs_dilation") or (1, 1))
    sizes = [(k - 1) * d + 1 for k, d in zip(kernel.shape[:2], dilation, strict=True)]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(images.shape[1:3], sizes, strides, padding)
    # Accumulate bfloat16 in float32, as in XLA; gradients too.
    digits = jnp.promote_types(images.dtype, jnp.float32)
    wide, taps = images.astype(digits), kernel.astype(digits)
    padded = jnp.pad(wide, ((0, 0), *padding, (0, 0)))
    repeated = jnp.repeat(padded, kernel.shape[3] // images.shape[3], axis=3)
    count, *extent, channels = repeated.shape
    ends = [
        (length - size) // stride * stride + 1
        for length, size, stride in zip(extent, sizes, strides, strict=True)
    ]
    result = jnp.zeros((), digits)
    for i, j in product(*map(range, kernel.shape[:2])):
        y, x = i * dilation[0], j * dilation[1]
        limits = (count, y + ends[0], x + ends[1], channels)
        shifted = lax.slice(repeated, (0, y, x, 0), limits, (1, *strides, 1))
        with jax.named_scope(SCOPE):
            result += shifted * taps[i, j, 0]
    return result.astype(images.dtype)


def _is_depthwise(images: Any, kernel: Any, options: Mapping[str, Any]) -> bool:
    """Returns True for a depthwise convolution without unsupported options."""
    numbers = options.get("dimension_numbers")
    if images.ndim != 4 or numbers is None:
        return False
    numbers = lax.conv_dimension_numbers(images.shape, kernel.shape, numbers)
    return (
        (tuple(numbers.lhs_spec), tuple(numbers.rhs_spec)) == (NHWC, HWIO)
        and tuple(numbers.out_spec) == NHWC
        and options.get("feature_group_count", 1) == images.shape[3]
        and options.get("batch_group_count", 1) == 1
        and set(options.get("lhs_dilation") or (1,)) == {1}
        and options.get("preferred_element_type") in (None, images.dtype)
        and options.get("out_sharding") is None
    )


def is_slow(equation: Any) -> bool:
    """Returns True if `depthwise` would be faster on a CPU than a convolution in a jaxpr.

    This is the case for few taps, since each is a pass over memory, and more than one channel.
    """
    if equation.primitive.name != "conv_general_dilated":
        return False
    images, kernel = (var.aval for var in equation.invars)
    taps = math.prod(kernel.shape[:2]) if kernel.ndim == 4 else 0
    return pays(images.shape[-1], taps) and _is_depthwise(images, kernel, equation.params)


def pays(channels: int, taps: int) -> bool:
    """Returns True if `depthwise` is faster on a CPU than XLA, for a depthwise convolution.

    Each tap is a pass over memory; with one channel, XLA multiplies matrices.
    """
    return channels > 1 and 1 < taps <= MOST_TAPS
