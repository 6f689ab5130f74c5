"""Convolutions with 3x3 kernels by Winograd's algorithm in C, on images (n, h, w, c) in float32."""

import ctypes
import math
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cnnbench.nn.native.compiler import load_compiled, obstacle
from cnnbench.nn.native.correlation import PASSES, Correlation, Pass, differentiable
from cnnbench.system.arrays import Pair

TARGET = "cnnbench_winograd"  # of XLA's custom calls
# Where oneDNN is faster: few channels do not fill vectors, the weights of many do not fit into
# caches, and tiles compute outputs outside of small images.
LEAST_CHANNELS, MOST_WEIGHTS, MOST_OUTSIDE = 8, 2**16, 1.5
_TILE = 4  # outputs along an axis
_SOURCE = Path(__file__).with_name("winograd.c")
_KERNEL, _ONE = (3, 3), (1, 1)


def lacking() -> str | None:
    """What is missing to use it; None if nothing is."""
    return obstacle(_SOURCE)


def pays(of: Correlation) -> bool:
    """True if a convolution can be computed, and about as fast as by oneDNN or faster."""
    if of.kernel != _KERNEL or of.groups > 1 or not of.stride == of.dilation == _ONE:
        return False
    few, many = sorted((of.channels, of.filters))
    if few < LEAST_CHANNELS or few * many > MOST_WEIGHTS:
        return False
    return all(_TILE**2 * tiles(s) <= MOST_OUTSIDE * math.prod(s) for s in (of.size, of.places))


def tiles(size: Pair) -> int:
    """Number of tiles of an image.

    >>> tiles((28, 30))
    56
    """
    return math.ceil(size[0] / _TILE) * math.ceil(size[1] / _TILE)


def _call(which: Pass, first: jax.Array, second: jax.Array, of: Correlation) -> jax.Array:
    sizes = _sizes(which, of, len(first))
    library = _registered()
    workspace = library.workspace_bytes(sizes.ctypes.data_as(ctypes.c_void_p))
    results = of.result(which, len(first)), jax.ShapeDtypeStruct((workspace,), jnp.uint8)
    call = jax.ffi.ffi_call(TARGET, results, vmap_method="sequential")
    computed: jax.Array = call(first, second, sizes=sizes)[0]
    return computed


def _sizes(which: Pass, of: Correlation, images: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """``Sizes`` of ``winograd.c``.

    The gradient of the images is the convolution of the errors with the rotated kernel.
    """
    before = of.pads[0][0], of.pads[1][0]
    sizes = [*of.size, *before, *of.places, of.channels, of.filters]
    if which == "input_gradient":
        around = (taps - 1 - pad for taps, pad in zip(of.kernel, before, strict=True))
        sizes = [*of.places, *around, *of.size, of.filters, of.channels]
    return np.array([PASSES.index(which), images, *sizes], np.int64)


@cache
def _registered() -> ctypes.CDLL:
    """The compiled library, whose handler XLA knows."""
    library = load_compiled(_SOURCE)
    library.workspace_bytes.restype = ctypes.c_int64
    capsule = jax.ffi.pycapsule(ctypes.cast(library.handle, ctypes.c_void_p))
    jax.ffi.register_ffi_target(TARGET, capsule, platform="cpu")
    return library


conv = differentiable(_call, transposed=False)
conv_transpose = differentiable(_call, transposed=True)
