"""Convolutions of whole batches by XLA on CPUs, with gradients that it computes fast.

XLA calls YNNPACK (https://github.com/google/XNNPACK/tree/master/ynnpack) for most convolutions,
which reaches 60 to 80% of the speed of the processor. The gradients that JAX derives are slower:
those of kernels are convolutions with kernels as large as an image, and those of images read the
kernel in reverse, or insert zeros between pixels.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from cnnbench.nn.ops import pooling, xla
from cnnbench.nn.ops.convolution import Two
from cnnbench.nn.ops.im2col import rotated
from cnnbench.nn.ops.layout import materialized, within
from cnnbench.nn.ops.products import over_rows
from cnnbench.system.arrays import Pair

# Limits of a block: pixels summed in float32 before blocks are added, and values of its images or
# errors (256 KiB).
_MOST_PIXELS, _MOST_VALUES = 2048, 2**16
# Maximum filters of a widened kernel, for few input channels and for very few.
_FILTERS, _FILTERS_OF_FEW = 32, 64
_MANY, _FEW = 24, 4  # channels
# Copying single channels takes about this many times as long per value as copying whole pixels.
_COPY = 3


class Geometry(Protocol):
    """Sizes of a convolution; a `layers.correlation.ConvGeometry`, which needs no JAX."""

    @property
    def size(self) -> Pair:
        """Height and width of the input."""

    @property
    def kernel(self) -> Pair:
        """Height and width of the kernel."""

    @property
    def stride(self) -> Pair:
        """Vertical and horizontal stride."""

    @property
    def pads(self) -> tuple[Pair, Pair]:
        """Zeros before and after the rows and columns of the input."""

    @property
    def places(self) -> Pair:
        """Height and width of the output."""

    @property
    def remainder(self) -> Pair:
        """Rows and columns at the end of the padded input that the kernel does not reach."""


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(x: jax.Array, kernel: jax.Array, of: Geometry) -> jax.Array:
    """Convolution, (n, *size, in) and (kh, kw, in, out) to (n, oh, ow, out)."""
    at_once = _num_columns(of.places[1], kernel.shape[1:], of.stride[1])
    if at_once == 1:
        return xla.conv(x, kernel, of.stride, of.pads)
    wide = materialized(_in_columns(kernel, at_once, of.stride[1]))
    y = xla.conv(x, wide, (of.stride[0], at_once * of.stride[1]), of.pads)
    return y.reshape(len(x), *of.places, -1)


def _conv_forward(x: jax.Array, kernel: jax.Array, of: Geometry) -> tuple[jax.Array, Two]:
    if _is_pointwise(of):
        x = materialized(x)  # for `_pointwise`, too, which reads it in blocks
    return conv(x, kernel, of), (x, kernel)


def _conv_backward(of: Geometry, saved: Two, dy: jax.Array) -> Two:
    x, kernel = saved
    if _is_pointwise(of):
        dy = materialized(dy)
    return _adjoint(dy, kernel, of), kernel_gradient(x, dy, of)


conv.defvjp(_conv_forward, _conv_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_transpose(y: jax.Array, kernel: jax.Array, of: Geometry) -> jax.Array:
    """The adjoint of a convolution, (n, oh, ow, out) to (n, *size, in)."""
    return _adjoint(y, kernel, of)


def _transpose_forward(y: jax.Array, kernel: jax.Array, of: Geometry) -> tuple[jax.Array, Two]:
    return _adjoint(y, kernel, of), (y, kernel)


def _transpose_backward(of: Geometry, saved: Two, dx: jax.Array) -> Two:
    y, kernel = saved
    return conv(dx, kernel, of), kernel_gradient(dx, y, of)


conv_transpose.defvjp(_transpose_forward, _transpose_backward)


def _adjoint(y: jax.Array, kernel: jax.Array, of: Geometry) -> jax.Array:
    """The adjoint, as a convolution with the rotated kernel.

    For a vertical stride, zeros are inserted between rows. For a horizontal one, as many columns
    are computed at once, each from the taps that would not meet a zero.
    """
    (height, width), stride, turned = of.size, of.stride[1], rotated(kernel)
    at_once = stride * _num_columns(width // stride, turned.shape[1:], 1, stride)
    low, high = (of.kernel[0] - 1 - pad for pad in of.pads[0])
    first = of.kernel[1] - 1 - of.pads[1][0]
    wide = materialized(_in_columns(turned, at_once, 1)[:, first % stride :: stride])
    groups, start = -(-width // at_once), first // stride
    end = at_once // stride * (groups - 1) + wide.shape[1] - start - y.shape[2]
    if of.stride[0] > 1:
        between = [(0, 0, 0), (0, 0, of.stride[0] - 1), (0, 0, 0), (0, 0, 0)]
        y = materialized(lax.pad(y, jnp.zeros((), y.dtype), between))
    pads = (low, high + of.remainder[0]), (start, end)
    x = xla.conv(y, wide, (1, at_once // stride), pads)
    return x.reshape(len(y), height, at_once * groups, -1)[:, :, :width]


def _num_columns(columns: int, kernel: tuple[int, ...], stride: int, least: int = 1) -> int:
    """Number of output columns to compute at once, as filters of a wider kernel.

    XLA does not call YNNPACK if there are few channels and few filters. The wider kernel is partly
    zero, so it takes more multiplications.

    Args:
      columns: number of output columns, or of groups of columns.
      kernel: (kw, in, out).
      stride: horizontal stride.
      least: columns in a group.

    >>> _num_columns(32, (3, 16, 16), 1), _num_columns(32, (3, 3, 16), 1)
    (2, 4)
    >>> _num_columns(32, (3, 32, 16), 1), _num_columns(31, (3, 16, 16), 1)
    (1, 1)
    """
    width, channels, filters = kernel
    if channels >= _MANY or width == 1:
        return 1
    most = _FILTERS_OF_FEW if channels < _FEW else _FILTERS
    fitting = (
        number
        for number in (4, 2)
        if columns % number == 0
        and number * least * filters <= most
        and stride * (number - 1) <= width
    )
    return next(fitting, 1)


def _in_columns(kernel: jax.Array, columns: int, stride: int) -> jax.Array:
    """Kernel of several output columns at once, (kh, wider, in, columns * out).

    Args:
      kernel: (kh, kw, in, out).
      columns: number of columns.
      stride: horizontal distance of their windows.

    >>> _in_columns(jnp.ones((3, 3, 8, 16)), 2, 1).shape
    (3, 4, 8, 32)
    """
    ends = [(stride * i, stride * (columns - 1 - i)) for i in range(columns)]
    moved = [jnp.pad(kernel, ((0, 0), end, (0, 0), (0, 0))) for end in ends]
    return jnp.concatenate(moved, axis=-1)


def kernel_gradient(x: jax.Array, dy: jax.Array, of: Geometry) -> jax.Array:
    """Gradient of a kernel, summed over blocks of images that fit into the cache.

    Args:
      x: images, (n, *size, in).
      dy: errors of the outputs, (n, oh, ow, out).
      of: sizes of the convolution.

    Returns:
      (kh, kw, in, out).
    """
    if _is_pointwise(of):
        return _pointwise(x, dy)
    if _COPY * of.kernel[1] * x.shape[3] < dy.shape[3]:
        return _few_channels(x, dy, of)
    few = of.stride[1] == 1 and of.kernel[0] * dy.shape[3] < x.shape[3]
    return (_few_filters if few else _many_filters)(x, dy, of)


def _is_pointwise(of: Geometry) -> bool:
    """True if outputs are products of pixels."""
    return of.kernel == of.stride == (1, 1) and of.size == of.places


def _pointwise(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Products of blocks of images, which need no copies."""
    blocks = _num_blocks(len(x), math.prod(x.shape[:3]), 0)
    split = (values.reshape(blocks, -1, values.shape[-1]) for values in (x, dy))
    return over_rows(*split).sum(0)[None, None]


def _few_channels(x: jax.Array, dy: jax.Array, of: Geometry) -> jax.Array:
    """Images are shifted by rows and columns; errors, which are larger, are not copied."""
    (n, oh, ow, f), channels = dy.shape, x.shape[3]
    blocks = _num_blocks(n, n * oh * ow, max(x.size, dy.size))
    around = ((0, 0), (0, 0), *of.pads)
    planes = jnp.pad(jnp.moveaxis(x, 3, 1), around).reshape(blocks, n // blocks, channels, -1)
    width = of.size[1] + sum(of.pads[1])
    last = [(count - 1) * step + 1 for count, step in zip((oh, ow), of.stride, strict=True)]

    def add(total: jax.Array, block: Two) -> tuple[jax.Array, None]:
        image = block[0].reshape(n // blocks, channels, -1, width)
        taps = [
            image[:, channel, i : i + last[0] : of.stride[0], j : j + last[1] : of.stride[1]]
            for i in range(of.kernel[0])
            for j in range(of.kernel[1])
            for channel in range(channels)
        ]
        patches = jnp.stack(taps).reshape(len(taps), -1)
        return total + patches @ block[1].reshape(-1, f), None

    zeros = jnp.zeros((math.prod(of.kernel) * channels, f), x.dtype)
    total: jax.Array = lax.scan(add, zeros, (planes, dy.reshape(blocks, -1, f)))[0]
    return total.reshape(*of.kernel, channels, f)


def _many_filters(x: jax.Array, dy: jax.Array, of: Geometry) -> jax.Array:
    """Images are shifted by columns, and errors by rows."""
    (n, h, _, c), (ow, f) = x.shape, dy.shape[2:]
    blocks = _num_blocks(n, n * h * ow, max(x.size, dy.size))

    def factors(buffers: Two, block: Two) -> tuple[Two, Two]:
        columns = block[0].reshape(-1, h, of.size[1] * c)
        images = within(buffers[0], columns, (0, of.pads[1][0] * c))
        start = of.kernel[0] - 1 - of.pads[0][0], 0
        errors = within(buffers[1], _spread(block[1], of), start)
        return (_wide(images, c, of), _tall(errors, f, of, (0,))), (images, errors)

    width = (ow - 1) * of.stride[1] + of.kernel[1]
    zeros = (n // blocks, h, width * c), (n // blocks, h + of.kernel[0] - 1, ow * f)
    total = _summed(factors, (of.kernel[1] * c, of.kernel[0] * f), zeros, (x, dy), blocks)
    return total.reshape(of.kernel[1], c, of.kernel[0], f).transpose(2, 0, 1, 3)


def _few_filters(x: jax.Array, dy: jax.Array, of: Geometry) -> jax.Array:
    """Errors are shifted by rows and columns: fewer copies than of images with many channels."""
    (n, h, w, c), f = x.shape, dy.shape[3]
    blocks = _num_blocks(n, n * h * w, max(x.size, dy.size))
    start = of.kernel[0] - 1 - of.pads[0][0], (of.kernel[1] - 1 - of.pads[1][0]) * f

    def factors(buffers: tuple[jax.Array], block: Two) -> tuple[Two, tuple[jax.Array]]:
        errors = within(buffers[0], _spread(block[1], of), start)
        tall = _tall(errors, f, of, range(of.kernel[1] - 1, -1, -1))
        return (block[0], tall), (errors,)

    around = h + of.kernel[0] - 1, (w + of.kernel[1] - 1) * f
    sizes = c, math.prod(of.kernel) * f
    total = _summed(factors, sizes, [(n // blocks, *around)], (x, dy), blocks)
    return total.reshape(c, *of.kernel, f).transpose(1, 2, 0, 3)


def _summed(
    factors: Callable[..., tuple[Two, Any]],
    sizes: Pair,
    shapes: Sequence[tuple[int, ...]],
    images: Two,
    blocks: int,
) -> jax.Array:
    """The sum of the products x^T y of two factors, (..., m) and (..., n), of blocks of images.

    Images of a block share an axis with their rows: XLA would copy them if an axis had size one.

    Args:
      factors: returns the factors and the buffers of a block, from the buffers of the one before.
      sizes: m and n.
      shapes: shapes of the buffers, which start as zeros.
      images: inputs and errors.
      blocks: number of blocks.

    Returns:
      (m, n).
    """
    swapped = sizes[0] > sizes[1]  # as in `over_rows`, but only the sum is transposed

    def add(carry: tuple[jax.Array, Any], block: Any) -> tuple[tuple[jax.Array, Any], None]:
        (x, y), buffers = factors(carry[1], block)
        left, right = (y, x) if swapped else (x, y)
        product = left.reshape(-1, left.shape[-1]).T @ right.reshape(-1, right.shape[-1])
        return (carry[0] + product, buffers), None

    split = tuple(v.reshape(blocks, -1, *v.shape[2:]) for v in images)
    start = sizes[::-1] if swapped else sizes, *shapes
    zeros, *buffers = (jnp.zeros(shape, images[0].dtype) for shape in start)
    total: jax.Array = lax.scan(add, (zeros, tuple(buffers)), split)[0][0]
    return total.T if swapped else total


def _spread(dy: jax.Array, of: Geometry) -> jax.Array:
    """Errors (m * oh, ow, out) in rows, (m, rows, ow * out), with zeros between for a stride."""
    rows = dy.reshape(-1, of.places[0], math.prod(dy.shape[-2:]))
    between = [(0, 0, 0), (0, 0, of.stride[0] - 1), (0, 0, 0)]
    return lax.pad(rows, jnp.zeros((), dy.dtype), between)


def _wide(x: jax.Array, channels: int, of: Geometry) -> jax.Array:
    """Columns of a kernel row for each output column, (m, h, ow, kw * in)."""
    columns, last = x.reshape(*x.shape[:2], -1, channels), (of.places[1] - 1) * of.stride[1]
    shifted = [columns[:, :, j : j + last + 1 : of.stride[1]] for j in range(of.kernel[1])]
    return jnp.concatenate(shifted, axis=-1)


def _tall(dy: jax.Array, filters: int, of: Geometry, columns: Iterable[int]) -> jax.Array:
    """Errors of the outputs that read each pixel, (m, h, ow, kh * columns * out).

    Args:
      dy: errors in rows, with zeros around them.
      filters: errors per output.
      of: sizes of the convolution.
      columns: first columns.
    """
    taps, height = of.kernel[0], of.size[0]
    starts = list(columns)
    width = dy.shape[2] - max(starts) * filters
    shifted = [
        dy[:, taps - 1 - i : taps - 1 - i + height, first * filters : first * filters + width]
        for i in range(taps)
        for first in starts
    ]
    split = [rows.reshape(*rows.shape[:2], -1, filters) for rows in shifted]
    return jnp.concatenate(split, axis=-1)


def _num_blocks(images: int, pixels: int, values: int) -> int:
    """Number of equal blocks of images of limited size, or of one image each.

    >>> _num_blocks(64, 2**16, 2**20), _num_blocks(50, 50, 2**20), _num_blocks(3, 3, 2**20)
    (32, 25, 3)
    """
    least = max(math.ceil(pixels / _MOST_PIXELS), math.ceil(values / _MOST_VALUES))
    return next((number for number in range(least, images) if images % number == 0), images)


def max_pool(x: jax.Array, size: Pair, stride: Pair) -> jax.Array:
    """`pooling.max_pool` of images (n, h, w, c), in about an eighth of XLA's time."""
    return _of_each(pooling.max_pool, x, size, stride)


def avg_pool(x: jax.Array, size: Pair, stride: Pair) -> jax.Array:
    """`pooling.avg_pool` of images (n, h, w, c); errors are computed once, not for each pixel."""
    return kept(_of_each(pooling.avg_pool, x, size, stride))


def _of_each(pool: Callable[..., jax.Array], x: jax.Array, size: Pair, stride: Pair) -> jax.Array:
    """Pools each image as a batch of one, (n, h, w, c) to (n, oh, ow, c)."""
    return jax.vmap(lambda image: pool(image[:, :, None], size, stride)[:, :, 0])(x)


@jax.custom_vjp
def kept(x: jax.Array) -> jax.Array:
    """Materializes values and their gradient.

    Otherwise, XLA recomputes all earlier residual blocks wherever the last one is used, and all
    later layers of a dense block in the gradient of each.
    """
    return materialized(x)


kept.defvjp(lambda x: (materialized(x), None), lambda _, dx: (materialized(dx),))
