"""Convolution, its adjoint and pooling by XLA: the readable reference.

Images are (n, h, w, c), kernels (h, w, in, out). These are fast on accelerators; for CPUs, see
`convolution`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from cnnbench.system.arrays import Pair

_NHWC = ("NHWC", "HWIO", "NHWC")


def conv(
    x: jax.Array,
    kernel: jax.Array,
    stride: Pair,
    pads: tuple[Pair, Pair],
    *,
    groups: int = 1,
    dilation: Pair = (1, 1),
    general: Callable[..., jax.Array] = lax.conv_general_dilated,
) -> jax.Array:
    """Convolution without kernel flip (cross-correlation), as in JAX, PyTorch and Keras.

    Args:
      x: images, (n, h, w, in).
      kernel: (kh, kw, in / groups, out).
      stride: vertical and horizontal stride.
      pads: zeros before and after rows and columns.
      groups: number of groups of channels.
      dilation: distance between kernel taps.
      general: JAX's convolution, or a replacement.

    Returns:
      (n, oh, ow, out) with oh = (h + pads - kh) // stride + 1 for a dilated kernel of height kh,
      and ow by the same formula.
    """
    if kernel.shape[:2] == stride == (1, 1) and groups == 1 and pads == ((0, 0), (0, 0)):
        # cuDNN's gradient of such a kernel took half of the time of a vision transformer.
        return x @ kernel[0, 0]
    return general(
        x,
        kernel,
        stride,
        pads,
        rhs_dilation=dilation,
        dimension_numbers=_NHWC,
        feature_group_count=groups,
    )


def conv_transpose(
    y: jax.Array, kernel: jax.Array, stride: Pair, pads: tuple[Pair, Pair], size: Pair
) -> jax.Array:
    """The adjoint of a convolution: <conv(x), y> = <x, adjoint(y)>.

    Args:
      y: images, (n, oh, ow, out), as `conv` returns them.
      kernel: the convolution's kernel, (kh, kw, in, out).
      stride: the convolution's stride.
      pads: the convolution's padding.
      size: height and width of the convolution's input.

    Returns:
      (n, *size, in).
    """
    zeros = jnp.zeros((y.shape[0], *size, kernel.shape[2]), y.dtype)
    transposed = jax.linear_transpose(lambda x: conv(x, kernel, stride, pads), zeros)
    result: jax.Array = transposed(y)[0]
    return result


def max_pool(x: jax.Array, size: Pair, stride: Pair) -> jax.Array:
    """Maximum over windows; a border of incomplete windows is dropped.

    Args:
      x: images, (n, h, w, c).
      size: height and width of a window.
      stride: vertical and horizontal stride.

    Returns:
      (n, oh, ow, c) with oh = (h - size) // stride + 1, and ow by the same formula.
    """
    window, steps = (1, *size, 1), (1, *stride, 1)
    pooled: jax.Array = lax.reduce_window(x, -jnp.inf, lax.max, window, steps, "VALID")
    return pooled


def avg_pool(x: jax.Array, size: Pair, stride: Pair) -> jax.Array:
    """Mean over windows, with shapes as in `max_pool`."""
    window, steps = (1, *size, 1), (1, *stride, 1)
    sums: jax.Array = lax.reduce_window(x, 0.0, lax.add, window, steps, "VALID")
    return sums / (size[0] * size[1])


def upscale(x: jax.Array, size: Pair) -> jax.Array:
    """Repeats each row and column: (n, h, w, c) to (n, h * size, w * size, c)."""
    return x.repeat(size[0], axis=1).repeat(size[1], axis=2)
