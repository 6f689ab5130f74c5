"""Gradients of images with few channels in C, on images (n, h, w, c) in float32."""

import jax
import numpy as np

from cnnbench.nn.native.compiler import call_with_workspace
from cnnbench.nn.native.correlation import Correlation

TARGET = "cnnbench_few"  # of XLA's custom calls
MOST_CHANNELS = 7


def pays(of: Correlation) -> bool:
    """True for few channels, without stride, dilation and groups: it is faster than oneDNN."""
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
