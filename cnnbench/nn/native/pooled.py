"""Convolutions of few channels together with a max pool, in C, on images (n, h, w, c) in float32.

Outputs that are not the largest of their window are not stored, and add nothing to the gradient of
the kernel.
"""

import math
from functools import partial

import jax
import numpy as np

from cnnbench.nn.native import pool
from cnnbench.nn.native.compiler import call_with_workspace
from cnnbench.nn.native.correlation import Convolve, Correlation
from cnnbench.nn.native.few import MOST_CHANNELS
from cnnbench.nn.ops.convolution import Two
from cnnbench.system.arrays import Array, Pair

_SOURCE, _TARGET = "pooled.c", "cnnbench_pooled"  # the latter of XLA's custom calls
# Nanoseconds on one core, per product of the convolution, and per row of the kernel and maximum.
_PRODUCT, _ROW = 0.024, 0.7
_Saved = tuple[jax.Array, jax.Array, jax.Array]


def supports(of: Correlation, size: Pair, stride: Pair) -> bool:
    """True for a convolution of few channels, and windows without overlap.

    Args:
      of: sizes of the convolution.
      size: height and width of a window.
      stride: vertical and horizontal stride of windows.
    """
    few = of.channels <= MOST_CHANNELS and min(of.pads[0][0], of.pads[1][0]) >= 0
    plain = of.groups == 1 and of.dilation == (1, 1)
    return few and plain and size == stride and pool.supports(size)


def pair_ns(of: Correlation, window: Pair) -> float:
    """Estimated nanoseconds of maxima and gradient of the kernel per image, on one core."""
    maxima = math.prod(_windows(of, window)) * of.filters
    products = math.prod((*window, *of.kernel, of.channels))
    return maxima * (_PRODUCT * products + _ROW * of.kernel[0])


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def conv(
    x: jax.Array, kernel: jax.Array, of: Correlation, window: Pair, alone: Convolve
) -> jax.Array:
    """The largest outputs of windows, (n, oh, ow, filters).

    Args:
      x: images, (n, *of.size, channels).
      kernel: (kh, kw, channels, filters).
      of: sizes of the convolution.
      window: height and width of windows; incomplete ones are dropped.
      alone: the convolution without the max pool, from which the gradient of the images is taken.
    """
    return _forward(x, kernel, of, window, alone)[0]


def _forward(
    x: jax.Array, kernel: jax.Array, of: Correlation, window: Pair, _alone: Convolve
) -> tuple[jax.Array, _Saved]:
    (down, across), sizes = _windows(of, window), _sizes(of, window, len(x), gradient=False)
    results = pool.maxima((len(x), down, across, of.filters))
    y, cells = call_with_workspace(_SOURCE, _TARGET, (x, kernel), sizes, *results)
    return y, (x, kernel, cells)


def _backward(of: Correlation, window: Pair, alone: Convolve, saved: _Saved, dy: jax.Array) -> Two:
    x, kernel, cells = saved
    sizes, result = _sizes(of, window, len(x), gradient=True), of.result("kernel_gradient", len(x))
    (dkernel,) = call_with_workspace(_SOURCE, _TARGET, (x, dy, cells), sizes, result)
    errors = pool.errors(dy, cells, of.places, window, window)
    (dx,) = jax.vjp(lambda x: alone(x, kernel, of), x)[1](errors)
    return dx, dkernel


conv.defvjp(_forward, _backward)


def _windows(of: Correlation, window: Pair) -> Pair:
    rows, columns = (of.places[i] // window[i] for i in (0, 1))
    return rows, columns


def _sizes(of: Correlation, window: Pair, images: int, *, gradient: bool) -> Array:
    """``Sizes`` of ``pooled.c``."""
    before = of.pads[0][0], of.pads[1][0]
    shape = images, *of.size, of.channels, of.filters, *before, *of.kernel, *of.stride
    return np.array([gradient, *shape, *window, *window, *_windows(of, window)], np.int64)
