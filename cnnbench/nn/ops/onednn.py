"""Convolution by oneDNN, the library that PyTorch uses on x86 CPUs.

jaxlib for Linux on x86 contains oneDNN (https://uxlfoundation.github.io/oneDNN) behind the custom
call ``__onednn$convolution``, with XLA's ``OneDnnConvolutionConfig`` as its configuration. XLA
replaces no convolution by it unless it is asked to; here, the call is written directly. It reaches
two to three times the speed of im2col with XLA's matrix products.

oneDNN expects (n, h, w, c). Images of the engines are (h, w, n, c), which is a single image of
width w * n: a kernel dilated by n columns only meets pixels of the same image.
"""

import functools
import json
import math
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from cnnbench.nn.ops.im2col import Untransformed, num_blocks, rotated
from cnnbench.system.arrays import Pair

TARGET = "__onednn$convolution"
_VECTOR = 16  # channels of a register of AVX-512
_OF_GRADIENT = 2048  # products that are added in float32 before they are added to other blocks
_Edges = tuple[Pair, Pair]


@functools.cache
def available() -> bool:
    """True if programs for the CPU can call oneDNN, and it computes a small convolution right."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or jax.default_backend() != "cpu":
        return False
    with jax.ensure_compile_time_eval():
        x = jnp.arange(2.0 * 6 * 6 * 4, dtype=jnp.float32).reshape(2, 6, 6, 4) % 7
        kernel = jnp.arange(3.0 * 3 * 4 * 5, dtype=jnp.float32).reshape(3, 3, 4, 5) % 5
        options: Any = ((1, 0), (2, 2)), (1, 2)
        try:
            found = convolve(x, kernel, *options)
        except jax.errors.JaxRuntimeError:  # this jaxlib lacks it, or expects another message
            return False
        return bool((found == _by_xla(x, kernel, *options)).all())  # small integers: exact


def convolve(x: jax.Array, kernel: jax.Array, pads: _Edges, dilation: Pair) -> jax.Array:
    """Correlation of stride one, in float32; XLA computes float64, which oneDNN does not have.

    Args:
      x: images, (n, h, w, in).
      kernel: (kh, kw, in, out).
      pads: zeros before and after rows and columns.
      dilation: distance between kernel taps, by rows and columns.

    Returns:
      (n, oh, ow, out), with oh = h + pads - (kh - 1) * dilation, and ow by the same formula.
    """
    if x.dtype == jnp.float64:
        return _by_xla(x, kernel, pads, dilation)
    single = (each.astype(jnp.float32) for each in (x, kernel))
    found: jax.Array = _convolution.bind(*single, pads=pads, dilation=dilation)
    return found.astype(x.dtype)


def _by_xla(x: jax.Array, kernel: jax.Array, pads: _Edges, dilation: Pair) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (1, 1), pads, rhs_dilation=dilation, dimension_numbers=numbers
    )


def _shape(x: Any, kernel: Any, *, pads: _Edges, dilation: Pair) -> jax.core.ShapedArray:
    sides = (
        x.shape[1 + axis] + sum(pads[axis]) - (kernel.shape[axis] - 1) * dilation[axis]
        for axis in (0, 1)
    )
    return jax.core.ShapedArray((x.shape[0], *sides, kernel.shape[3]), x.dtype)


def config(taps: Pair, pads: _Edges, dilation: Pair) -> str:
    """The call's `OneDnnConvolutionConfig`, for images (n, h, w, c) and kernels (h, w, in, out)."""
    images = {"dims": 4, "data": {"batch_dim": 0, "feature_dim": 3, "spatial_dims": [1, 2]}}
    axes = {"input_feature_dim": 2, "output_feature_dim": 3, "spatial_dims": [0, 1]}
    window = {
        "size": list(taps),
        "pad_left": [low for low, _ in pads],
        "pad_right": [high for _, high in pads],
        "strides": [1, 1],
        "window_dilations": list(dilation),
    }
    own = {"dims": 4, "input": images, "output": images, "window": window, "feature_groups": 1}
    own["kernel"] = {"dims": 4, "filter": axes}
    return json.dumps({"onednn_conv_config": own})


def _lower(
    context: mlir.LoweringRuleContext, x: Any, kernel: Any, *, pads: _Edges, dilation: Pair
) -> Sequence[Any]:
    taps: Any = context.avals_in[1]
    own = config(taps.shape[:2], pads, dilation)
    rule: Any = jax.ffi.ffi_lowering(TARGET, backend_config=own, api_version=2)  # row-major
    return list(rule(context, x, kernel))


def _batched(args: Any, axes: Any, **options: Any) -> tuple[jax.Array, int]:
    """One call after another."""
    size = next(arg.shape[axis] for arg, axis in zip(args, axes, strict=True) if axis is not None)
    x, kernel = (
        batching.bdim_at_front(arg, axis, size) for arg, axis in zip(args, axes, strict=True)
    )
    return lax.map(lambda pair: convolve(*pair, **options), (x, kernel)), 0


_convolution = Primitive("onednn_convolution")
_convolution.def_abstract_eval(_shape)
_convolution.def_impl(jax.jit(_convolution.bind, static_argnames=("pads", "dilation")))
mlir.register_lowering(_convolution, _lower, platform="cpu")
batching.primitive_batchers[_convolution] = _batched


@dataclass(frozen=True, slots=True)
class OneDnn(Untransformed):
    """A valid correlation of stride one by oneDNN; see `im2col.Im2col` for the methods.

    Args:
      kernel: height and width.
      out: height and width of the output.
    """

    kernel: Pair
    out: Pair

    def cost(self, channels: int, filters: int) -> float:
        """Estimated nanoseconds, as `Im2col.cost`."""
        taps, small = map(math.prod, (self.kernel, self.out))
        large = math.prod(n + k - 1 for n, k in zip(self.out, self.kernel, strict=True))
        wide, tall = (-(-size // _VECTOR) * _VECTOR for size in (filters, channels))
        products = taps * (small * channels * wide + large * filters * tall)
        gradient = taps * small * tall * wide
        copied = (1 + self.kernel[1]) * large * channels + small * filters
        return 0.009 * products + 0.008 * gradient + copied

    def forward(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Correlation, (h, w, n, in) and (kh, kw, in, out) to (oh, ow, n, out)."""
        return _over_columns(x, kernel, (0, 0))

    def backward(self, y: jax.Array, kernel: jax.Array) -> jax.Array:
        """Full convolution, (oh, ow, n, out) and the kernel to (h, w, n, in)."""
        return _over_columns(y, rotated(kernel), (self.kernel[0] - 1, self.kernel[1] - 1))

    def gradient(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Gradient of the kernel: the correlation of inputs and errors.

        Pixels of a row of an image are its channels, and channels its columns, so that the errors
        are a kernel of one column.
        """
        (kh, kw), (oh, ow), (n, c) = self.kernel, self.out, x.shape[2:]
        turned = x.reshape(x.shape[0], -1, c).swapaxes(1, 2)  # (h, c, w * n)
        shifted = jnp.stack([turned[:, :, j * n : (j + ow) * n] for j in range(kw)])
        errors = y.reshape(oh, 1, ow * n, -1)
        rows = oh // num_blocks(oh, oh * ow * n, _OF_GRADIENT)
        parts = (
            convolve(shifted[:, i : i + rows + kh - 1], errors[i : i + rows], _NONE, (1, 1))
            for i in range(0, oh, rows)
        )
        return functools.reduce(jnp.add, parts).swapaxes(0, 1)  # from (kw, kh, c, f)


_NONE = ((0, 0), (0, 0))


def _over_columns(x: jax.Array, kernel: jax.Array, edges: Pair) -> jax.Array:
    """Correlation of images (h, w, n, c), with zeros on both sides of rows and columns."""
    h, w, n, c = x.shape
    (rows, columns), (kh, kw) = edges, kernel.shape[:2]
    pads = ((rows, rows), (columns * n, columns * n))
    y = convolve(x.reshape(1, h, w * n, c), kernel, pads, (1, n))
    return y.reshape(h + 2 * rows - kh + 1, w + 2 * columns - kw + 1, n, -1)
