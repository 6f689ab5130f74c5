"""Gradients of depthwise kernels in C, on images (n, h, w, c) in float32."""

import jax
import numpy as np

from cnnbench.nn.native.compiler import call_with_workspace
from cnnbench.nn.native.correlation import Correlation

TARGET = "cnnbench_depthwise"  # of XLA's custom calls
_FAST = 3  # taps along an axis up to which oneDNN is fast


def pays(of: Correlation) -> bool:
    """True for depthwise kernels that are larger than 3x3, or than the image.

    oneDNN is slow to compute their gradients.
    """
    large = any(n > min(_FAST, length) for n, length in zip(of.kernel, of.size, strict=True))
    return large and 1 < of.groups == of.channels == of.filters and of.dilation == (1, 1)


def kernel_gradient(x: jax.Array, dy: jax.Array, of: Correlation) -> jax.Array:
    """Gradient of the kernel of a depthwise convolution, (kh, kw, 1, c).

    Args:
      x: images, (n, *size, c).
      dy: errors of the outputs, (n, *places, c).
      of: sizes of the convolution.
    """
    images, before = len(x), (of.pads[0][0], of.pads[1][0])
    shape = *of.size, of.channels, *before, *of.kernel, *of.stride, *of.places
    sizes, result = np.array([images, *shape], np.int64), of.result("kernel_gradient", images)
    return call_with_workspace("depthwise.c", TARGET, (x, dy), sizes, result)[0]
