"""Depthwise convolutions in C, on images (n, h, w, c) in float32."""

import jax
import numpy as np

from cnnbench.nn.native.compiler import call_with_workspace
from cnnbench.nn.native.correlation import PASSES, Correlation, Pass, differentiable

TARGET = "cnnbench_depthwise"  # of XLA's custom calls


def pays(of: Correlation) -> bool:
    """True for depthwise convolutions, of which oneDNN does not read memory in its order."""
    return 1 < of.groups == of.channels == of.filters and of.dilation == (1, 1)


def _call(which: Pass, first: jax.Array, second: jax.Array, of: Correlation) -> jax.Array:
    images, before = len(first), (of.pads[0][0], of.pads[1][0])
    shape = *of.size, of.channels, *before, *of.kernel, *of.stride, *of.places
    sizes = np.array([PASSES.index(which), images, *shape], np.int64)
    result = of.result(which, images)
    return call_with_workspace("depthwise.c", TARGET, (first, second), sizes, result)[0]


conv = differentiable(_call, transposed=False)
conv_transpose = differentiable(_call, transposed=True)
