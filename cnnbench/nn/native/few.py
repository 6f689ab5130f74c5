"""Gradients of images with few channels in C, on images (n, h, w, c) in float32."""

import jax
import numpy as np

from cnnbench.nn.native.compiler import call_with_workspace
from cnnbench.nn.native.correlation import Correlation, Pass, differentiable
from cnnbench.nn.native.winograd import LEAST_CHANNELS
from cnnbench.nn.ops import whole

TARGET = "cnnbench_few"  # of XLA's custom calls
MOST_CHANNELS = LEAST_CHANNELS - 1


def pays(of: Correlation) -> bool:
    """True for few channels without stride, dilation and groups, where it is faster than oneDNN."""
    return of.channels <= MOST_CHANNELS and of.groups == 1 and of.stride == of.dilation == (1, 1)


def input_gradient(dy: jax.Array, kernel: jax.Array, of: Correlation) -> jax.Array:
    """Gradient of the images, (n, *size, c).

    Args:
      dy: errors of the outputs, (n, *places, filters).
      kernel: (kh, kw, c, filters).
      of: sizes of a convolution without stride, dilation and groups.
    """
    images, before = len(dy), (of.pads[0][0], of.pads[1][0])
    shape = images, *of.size, of.channels, of.filters, *before, *of.kernel, *of.places
    sizes, result = np.array(shape, np.int64), of.result("input_gradient", images)
    return call_with_workspace("few.c", TARGET, (dy, kernel), sizes, result)[0]


def _call(which: Pass, first: jax.Array, second: jax.Array, of: Correlation) -> jax.Array:
    """Leaves other products to XLA."""
    if which == "input_gradient":
        return input_gradient(first, second, of)
    if which == "kernel_gradient":
        return whole.kernel_gradient(first, second, of)
    outputs: jax.Array = whole.conv(first, second, of)
    return outputs


conv = differentiable(_call, transposed=False)
conv_transpose = differentiable(_call, transposed=True)
