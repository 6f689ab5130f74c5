"""Convolution, its adjoint and pooling, in two forms, each with its gradient.

Images are (n, h, w, c), kernels (h, w, in, out). ``plain`` is XLA's own
convolution and reduce_window, for accelerators and as the readable reference.
``direct`` is for CPUs, where XLA has a fast path for few of the convolutions that
training needs: every product is one matrix product over patches, and the
backward pass is written out as the post derives it ("Convolutional Neural
Networks backpropagation: from intuition to derivation"):

- the error is carried back by a full convolution with the kernel rotated by 180
  degrees (step 4), which is also what a transposed convolution computes;
- the kernel's gradient is the input correlated with the error (step 5).
"""

import functools
import math
import operator
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from cnnbench.shapes import Pads

Form = Literal["plain", "direct"]
Pair = tuple[int, int]
Two = tuple[jax.Array, jax.Array]

_NHWC = ("NHWC", "HWIO", "NHWC")


def conv(x: jax.Array, kernel: jax.Array, stride: Pair, pads: Pads, form: Form) -> jax.Array:
    """Convolution without kernel flip (cross-correlation), as in every framework.

    Args:
      x: images, (n, h, w, in).
      kernel: (kh, kw, in, out).
      stride: rows and columns between two outputs.
      pads: zeros before and after rows and columns.
      form: which algorithm.

    Returns:
      (n, (h + pads - kh) // stride + 1, likewise for w, out).
    """
    if form == "plain":
        return lax.conv_general_dilated(x, kernel, stride, pads, dimension_numbers=_NHWC)
    return _valid_conv(jnp.pad(x, ((0, 0), *pads, (0, 0))), kernel, stride)


def conv_transpose(
    y: jax.Array, kernel: jax.Array, stride: Pair, pads: Pads, size: Pair, form: Form
) -> jax.Array:
    """The adjoint of a convolution: <conv(x), y> = <x, adjoint(y)>.

    Args:
      y: images, (n, oh, ow, out), as `conv` returns them.
      kernel: the convolution's kernel, (kh, kw, in, out).
      stride: the convolution's stride.
      pads: the convolution's padding.
      size: height and width of the convolution's input.
      form: which algorithm.

    Returns:
      (n, *size, in).
    """
    if form == "plain":
        zeros = jnp.zeros((y.shape[0], *size, kernel.shape[2]), y.dtype)
        transposed = jax.linear_transpose(lambda x: conv(x, kernel, stride, pads, form), zeros)
        result: jax.Array = transposed(y)[0]
        return result
    (top, bottom), (left, right) = pads
    padded = (size[0] + top + bottom, size[1] + left + right)
    full = _full_conv(y, kernel, stride, padded)
    return full[:, top : top + size[0], left : left + size[1]]


def _window(x: jax.Array, offset: Pair, stride: Pair, out: Pair) -> jax.Array:
    """The values that one kernel tap meets: (n, *out, c)."""
    (i, j), (si, sj), (oh, ow) = offset, stride, out
    end = (x.shape[0], i + (oh - 1) * si + 1, j + (ow - 1) * sj + 1, x.shape[3])
    return lax.slice(x, (0, i, j, 0), end, (1, si, sj, 1))


def _taps(size: Pair) -> list[Pair]:
    return [(i, j) for i in range(size[0]) for j in range(size[1])]


def _patches(x: jax.Array, kernel: Pair, stride: Pair, out: Pair) -> jax.Array:
    """Each output's receptive field as a row: (n, *out, kh * kw * in) (im2col).

    With few channels it is gathered by columns and then by rows: the copies
    move longer runs of values, and there are kh + kw of them instead of kh * kw.
    """
    (kh, kw), (si, sj) = kernel, stride
    if x.shape[3] >= 8:
        return jnp.concatenate([_window(x, tap, stride, out) for tap in _taps(kernel)], axis=-1)
    tall = (x.shape[1], out[1])
    wide = jnp.concatenate([_window(x, (0, j), (1, sj), tall) for j in range(kw)], axis=-1)
    return jnp.concatenate([_window(wide, (i, 0), (si, 1), out) for i in range(kh)], axis=-1)


def _correlate(x: jax.Array, kernel: jax.Array, stride: Pair) -> jax.Array:
    kh, kw, _, filters = kernel.shape
    out = ((x.shape[1] - kh) // stride[0] + 1, (x.shape[2] - kw) // stride[1] + 1)
    return _patches(x, (kh, kw), stride, out) @ kernel.reshape(-1, filters)


def _dilate(y: jax.Array, stride: Pair, low: Pair, size: Pair) -> jax.Array:
    """Zeros between the entries of `y` (stride - 1) and around them, up to `size`."""
    spread = [(n - 1) * s + 1 for n, s in zip(y.shape[1:3], stride, strict=True)]
    edges = [
        (before, total - before - n, s - 1)
        for before, total, n, s in zip(low, size, spread, stride, strict=True)
    ]
    return lax.pad(y, jnp.zeros((), y.dtype), [(0, 0, 0), *edges, (0, 0, 0)])


def _adjoint(y: jax.Array, kernel: jax.Array, stride: Pair, size: Pair) -> jax.Array:
    kh, kw, channels, filters = kernel.shape
    if 4 * channels <= filters:
        # Few outputs: multiply first, then add each tap's stamp where it belongs (col2im).
        stamps = y @ kernel.transpose(3, 0, 1, 2).reshape(filters, -1)
        parts = jnp.split(stamps, kh * kw, axis=-1)
        placed = [
            _dilate(part, stride, tap, size)
            for part, tap in zip(parts, _taps((kh, kw)), strict=True)
        ]
        return _sum(placed)
    rotated = kernel[::-1, ::-1].transpose(0, 1, 3, 2)  # ROT180(w), in and out exchanged
    around = (size[0] + kh - 1, size[1] + kw - 1)
    return _correlate(_dilate(y, stride, (kh - 1, kw - 1), around), rotated, (1, 1))


def _sum(parts: list[jax.Array]) -> jax.Array:
    return functools.reduce(operator.add, parts)


def _kernel_gradient(
    x: jax.Array, dz: jax.Array, kernel_shape: tuple[int, ...], stride: Pair
) -> jax.Array:
    size, out = (kernel_shape[0], kernel_shape[1]), (dz.shape[1], dz.shape[2])
    patches = _patches(x, size, stride, out)
    return jnp.tensordot(patches, dz, ((0, 1, 2), (0, 1, 2))).reshape(kernel_shape)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _valid_conv(x: jax.Array, kernel: jax.Array, stride: Pair) -> jax.Array:
    return _correlate(x, kernel, stride)


def _valid_conv_forward(x: jax.Array, kernel: jax.Array, stride: Pair) -> tuple[jax.Array, Two]:
    return _correlate(x, kernel, stride), (x, kernel)


def _valid_conv_backward(stride: Pair, saved: Two, dz: jax.Array) -> Two:
    x, kernel = saved
    dx = _adjoint(dz, kernel, stride, (x.shape[1], x.shape[2]))
    return dx, _kernel_gradient(x, dz, kernel.shape, stride)


_valid_conv.defvjp(_valid_conv_forward, _valid_conv_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _full_conv(y: jax.Array, kernel: jax.Array, stride: Pair, size: Pair) -> jax.Array:
    return _adjoint(y, kernel, stride, size)


def _full_conv_forward(
    y: jax.Array, kernel: jax.Array, stride: Pair, size: Pair
) -> tuple[jax.Array, Two]:
    return _adjoint(y, kernel, stride, size), (y, kernel)


def _full_conv_backward(stride: Pair, _size: Pair, saved: Two, dx: jax.Array) -> Two:
    y, kernel = saved
    return _correlate(dx, kernel, stride), _kernel_gradient(dx, y, kernel.shape, stride)


_full_conv.defvjp(_full_conv_forward, _full_conv_backward)


def max_pool(x: jax.Array, size: Pair, stride: Pair, form: Form) -> jax.Array:
    """Largest value of each window; the gradient goes to the first of equals.

    Args:
      x: images, (n, h, w, c).
      size: height and width of a window.
      stride: rows and columns between two windows.
      form: which algorithm.

    Returns:
      (n, (h - size) // stride + 1, likewise for w, c): a border that fills no window is dropped.
    """
    if form == "plain":
        window, steps = (1, *size, 1), (1, *stride, 1)
        pooled: jax.Array = lax.reduce_window(x, -jnp.inf, lax.max, window, steps, "VALID")
        return pooled
    return _max_pool(x, size, stride, (x.shape[1], x.shape[2]))


def _pooled(x: jax.Array, size: Pair, stride: Pair) -> Pair:
    return (x.shape[1] - size[0]) // stride[0] + 1, (x.shape[2] - size[1]) // stride[1] + 1


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: jax.Array, size: Pair, stride: Pair, image: Pair) -> jax.Array:
    return _max_pool_forward(x, size, stride, image)[0]


def _max_pool_forward(x: jax.Array, size: Pair, stride: Pair, _image: Pair) -> Two:
    out = _pooled(x, size, stride)
    first, *others = (_window(x, tap, stride, out) for tap in _taps(size))
    largest, winner = first, jnp.zeros(first.shape, jnp.int16)
    for tap, view in enumerate(others, start=1):
        winner = jnp.where(view > largest, jnp.int16(tap), winner)
        largest = jnp.maximum(largest, view)
    return largest, winner


def _max_pool_backward(
    size: Pair, stride: Pair, image: Pair, winner: jax.Array, dy: jax.Array
) -> tuple[jax.Array]:
    # Without the barrier XLA computes the comparisons again for every cell of the window.
    winner, dy = lax.optimization_barrier((winner, dy))
    shares = [jnp.where(winner == tap, dy, 0) for tap in range(math.prod(size))]
    return (_spread(shares, size, stride, image),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _spread(shares: list[jax.Array], size: Pair, stride: Pair, image: Pair) -> jax.Array:
    """Puts each tap's share back where its window took it from: (n, *image, c)."""
    if size != stride:
        placed = [
            _dilate(s, stride, tap, image) for s, tap in zip(shares, _taps(size), strict=True)
        ]
        return _sum(placed)
    n, rows, columns, channels = shares[0].shape
    by_row = [jnp.stack(shares[i * size[1] : (i + 1) * size[1]], axis=3) for i in range(size[0])]
    tiled = jnp.stack(by_row, axis=2)  # n, rows, size, columns, size, channels
    tiled = tiled.reshape(n, rows * size[0], columns * size[1], channels)
    border = [(0, image[i] - tiled.shape[1 + i]) for i in (0, 1)]
    return jnp.pad(tiled, ((0, 0), *border, (0, 0)))


def avg_pool(x: jax.Array, size: Pair, stride: Pair) -> jax.Array:
    """Mean of each window, shaped as in `max_pool`."""
    views = [_window(x, tap, stride, _pooled(x, size, stride)) for tap in _taps(size)]
    return _sum(views) / len(views)


def upscale(x: jax.Array, size: Pair) -> jax.Array:
    """Repeats each row and column: (n, h, w, c) to (n, h * size, w * size, c)."""
    n, h, w, c = x.shape
    tiled = jnp.broadcast_to(x[:, :, None, :, None], (n, h, size[0], w, size[1], c))
    return tiled.reshape(n, h * size[0], w * size[1], c)
