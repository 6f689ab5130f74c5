"""Gradients of depthwise kernels in C, on images (n, h, w, c) in float32."""

import ctypes
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cnnbench.nn.native.compiler import load_compiled
from cnnbench.nn.native.correlation import Correlation

TARGET = "cnnbench_depthwise"  # of XLA's custom calls
_SOURCE = Path(__file__).with_name("depthwise.c")
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
    library, images = _registered(), len(x)
    before = of.pads[0][0], of.pads[1][0]
    shape = *of.size, of.channels, *before, *of.kernel, *of.stride, *of.places
    sizes = np.array([images, *shape], np.int64)
    workspace = library.workspace_bytes(sizes.ctypes.data_as(ctypes.c_void_p))
    results = of.result("kernel_gradient", images), jax.ShapeDtypeStruct((workspace,), jnp.uint8)
    call = jax.ffi.ffi_call(TARGET, results, vmap_method="sequential")
    computed: jax.Array = call(x, dy, sizes=sizes)[0]
    return computed


@cache
def _registered() -> ctypes.CDLL:
    """The compiled library, whose handler XLA knows."""
    library = load_compiled(_SOURCE)
    library.workspace_bytes.restype = ctypes.c_int64
    capsule = jax.ffi.pycapsule(ctypes.cast(library.handle, ctypes.c_void_p))
    jax.ffi.register_ffi_target(TARGET, capsule, platform="cpu")
    return library
