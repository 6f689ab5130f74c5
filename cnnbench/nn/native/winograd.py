"""Convolutions by Winograd's algorithm in C, on images (n, h, w, c) in float32."""

import math

import jax
import numpy as np

from cnnbench.nn.native.compiler import call_with_workspace
from cnnbench.nn.native.correlation import PASSES, Correlation, Pass, differentiable

TARGET = "cnnbench_winograd"  # of XLA's custom calls
SIDES = 6, 8  # pixels of a tile of inputs along an axis
LEAST_TAPS, MOST_TAPS = 2, 7  # along an axis
LEAST_CHANNELS = 8  # fewer do not fill vectors
MOST_WEIGHTS = 5 * 2**19  # of all points; more do not fit into caches
# Nanoseconds on one core: per product of a tile, per transformed value with each side, and per
# product of a direct convolution by oneDNN.
_PRODUCT, _TRANSFORM, _DIRECT = 0.018, (0.19, 0.25), 0.016
CLEAR = 1.1  # estimated speedup required over a direct convolution
ACCURATE = 1.15  # and of large tiles, which round more, over small ones
_SOURCE = "winograd.c"
_ONE = (1, 1)


def supports(of: Correlation) -> bool:
    """True for kernels of 2 to 7 taps along each axis without stride, dilation and groups."""
    taps = all(LEAST_TAPS <= number <= MOST_TAPS for number in of.kernel)
    return taps and of.groups == 1 and of.stride == of.dilation == _ONE


def pays(of: Correlation) -> bool:
    """True if a convolution can be computed, and is estimated to be faster than by oneDNN."""
    if not supports(of) or min(of.channels, of.filters) < LEAST_CHANNELS:
        return False
    direct = math.prod((*of.places, *of.kernel, of.channels, of.filters)) * _DIRECT
    estimates = _estimates(of).values()
    return CLEAR * min(estimates, default=math.inf) < direct


def pass_ns(of: Correlation) -> float:
    """Estimated nanoseconds of a pass per image, on one core."""
    return _estimates(of)[side(of)]


def side(of: Correlation) -> int:
    """The side of the tiles of inputs: the one that is estimated to be clearly faster."""
    small, large = SIDES
    estimates = {large: math.inf} | _estimates(of)
    return small if estimates.get(small, math.inf) < ACCURATE * estimates[large] else large


def _estimates(of: Correlation) -> dict[int, float]:
    """Estimated nanoseconds of a pass by the side of tiles."""
    found = {}
    for length, transform in zip(SIDES, _TRANSFORM, strict=True):
        outputs = [length + 1 - taps for taps in of.kernel]
        products = of.channels * of.filters
        if min(outputs) > 1 and length**2 * products <= MOST_WEIGHTS:
            tiles = math.prod(math.ceil(of.places[i] / outputs[i]) for i in (0, 1))
            per_point = _PRODUCT * products + transform * (of.channels + of.filters)
            found[length] = length**2 * tiles * per_point
    return found


def _call(which: Pass, first: jax.Array, second: jax.Array, of: Correlation) -> jax.Array:
    images, before = len(first), (of.pads[0][0], of.pads[1][0])
    shape = *of.size, *before, *of.places, of.channels, of.filters
    sizes = np.array([PASSES.index(which), side(of), *of.kernel, images, *shape], np.int64)
    result = of.result(which, images)
    return call_with_workspace(_SOURCE, TARGET, (first, second), sizes, result)[0]


conv = differentiable(_call, transposed=False)
conv_transpose = differentiable(_call, transposed=True)
