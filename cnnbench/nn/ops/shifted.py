"""Depthwise convolution as a sum of shifted products, for CPUs.

XLA does not use matrix products for convolutions with one group per channel, and is much slower
than the arithmetic requires. As a sum of shifted images, each multiplied by one weight per
channel, it takes about a tenth of the time, and so do its gradients.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cnnbench.nn.ops.convolution import Two
from cnnbench.nn.ops.layout import largest_divisor, materialized, within
from cnnbench.system.arrays import Pair

SCOPE = "cnnbench_shifted"  # JAX name scope; products in it count as multiply-adds
MOST_TAPS = 121  # 11x11; the gain is small with 13x13, which takes longer to compile
_ROWS = 8  # maximum rows of errors at a time in the gradient of a kernel
_MOST_VALUES = 2**17  # of images at a time (512 KiB)
_Three = tuple[jax.Array, jax.Array, jax.Array]
NHWC, HWIO = (0, 3, 1, 2), (3, 2, 0, 1)  # axis numbers of images and kernels in JAX


def depthwise(
    images: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """Replacement for `lax.conv_general_dilated` with faster depthwise convolutions on CPUs.

    To be passed to Flax: ``nnx.Conv(..., feature_group_count=channels,
    conv_general_dilated=cnnbench.depthwise)``. Other convolutions are left to XLA.

    Args:
      images: (n, h, w, channels).
      kernel: (kh, kw, 1, channels * multiplier).
      strides: vertical and horizontal stride.
      padding: ``SAME``, ``VALID``, or zeros before and after height and width.
      **options: other options of `lax.conv_general_dilated`.

    Returns:
      (n, oh, ow, channels * multiplier).
    """
    if not _is_depthwise(images, kernel, options):
        return lax.conv_general_dilated(images, kernel, strides, padding, **options)
    dilation = _pair(options.get("rhs_dilation") or (1, 1))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel.shape[:2], dilation, strict=True)]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(images.shape[1:3], reach, strides, padding)
    # Accumulate bfloat16 in float32, as in XLA; gradients too.
    digits = jnp.promote_types(images.dtype, jnp.float32)
    wide = jnp.repeat(images.astype(digits), kernel.shape[3] // images.shape[3], axis=3)
    pads = _pair(padding[0]), _pair(padding[1])
    of = _Sizes(_pair(images.shape[1:3]), _pair(kernel.shape[:2]), _pair(strides), pads, dilation)
    return _conv(wide, kernel[:, :, 0].astype(digits), of).astype(images.dtype)


def _pair(values: Sequence[int]) -> Pair:
    return int(values[0]), int(values[1])


class _Sizes(NamedTuple):
    """Sizes of a convolution, by height and width.

    Args:
      size: of the images.
      kernel: number of taps.
      stride: vertical and horizontal stride.
      pads: zeros before and after rows and columns.
      dilation: distance between taps.
    """

    size: Pair
    kernel: Pair
    stride: Pair
    pads: tuple[Pair, Pair]
    dilation: Pair

    @property
    def padded(self) -> Pair:
        """Height and width of the images with their border."""
        rows, columns = (size + sum(ends) for size, ends in zip(self.size, self.pads, strict=True))
        return rows, columns

    @property
    def places(self) -> Pair:
        """Height and width of the result."""
        rows, columns = (
            (size - (k - 1) * dilation - 1) // stride + 1
            for size, k, stride, dilation in zip(
                self.padded, self.kernel, self.stride, self.dilation, strict=True
            )
        )
        return rows, columns


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(images: jax.Array, taps: jax.Array, of: _Sizes) -> jax.Array:
    """(n, h, w, c) and (kh, kw, c) to (n, oh, ow, c)."""
    in_blocks, at_once = partial(_in_blocks, of=of), partial(_at_once, of=of)
    result: jax.Array = lax.platform_dependent(images, taps, cpu=in_blocks, default=at_once)
    return result


def _conv_forward(images: jax.Array, taps: jax.Array, of: _Sizes) -> tuple[jax.Array, Two]:
    return _conv(images, taps, of), (images, taps)


def _conv_backward(of: _Sizes, saved: Two, errors: jax.Array) -> Two:
    in_blocks, at_once = partial(_gradients_in_blocks, of=of), partial(_gradients_at_once, of=of)
    found: Two = lax.platform_dependent(*saved, errors, cpu=in_blocks, default=at_once)
    return found


_conv.defvjp(_conv_forward, _conv_backward)


def _at_once(images: jax.Array, taps: jax.Array, of: _Sizes) -> jax.Array:
    return _sum(_padded(images, of.pads), taps, of.places, of.stride, of.dilation)


def _gradients_at_once(images: jax.Array, taps: jax.Array, errors: jax.Array, of: _Sizes) -> Two:
    """Gradients of images and taps; that of taps is derived by JAX.

    The image gradient is a convolution with the rotated kernel, with zeros between errors for a
    stride.
    """
    by_taps = jax.vjp(lambda taps: _at_once(images, taps, of), taps)[1]
    ends = [
        (start, size + (kernel - 1) * dilation - start - (length - 1) * stride - 1)
        for start, size, kernel, dilation, length, stride in zip(
            _starts(of), of.size, of.kernel, of.dilation, of.places, of.stride, strict=True
        )
    ]
    padded, turned = _padded(errors, ends, of.stride), taps[::-1, ::-1]
    return _sum(padded, turned, of.size, (1, 1), of.dilation), by_taps(errors)[0]


def _starts(of: _Sizes) -> Pair:
    """First row and column of the errors in the images that the rotated kernel moves over."""
    rows, columns = (
        (kernel - 1) * dilation - low
        for kernel, dilation, (low, _) in zip(of.kernel, of.dilation, of.pads, strict=True)
    )
    return rows, columns


def _padded(images: jax.Array, pads: Sequence[Pair], stride: Pair = (1, 1)) -> jax.Array:
    """Zero-pads images around them, and between their pixels for a stride; negative pads crop."""
    zero = jnp.zeros((), images.dtype)
    edges = [(*ends, apart - 1) for ends, apart in zip(pads, stride, strict=True)]
    return lax.pad(images, zero, [(0, 0, 0), *edges, (0, 0, 0)])


def _sum(
    padded: jax.Array, taps: jax.Array, places: Pair, stride: Pair, dilation: Pair
) -> jax.Array:
    """Sum over the taps of a kernel, from padded images to (n, *places, c)."""
    result = jnp.zeros((), padded.dtype)
    ends = [(length - 1) * step + 1 for length, step in zip(places, stride, strict=True)]
    for i, j in product(*map(range, taps.shape[:2])):
        y, x = i * dilation[0], j * dilation[1]
        limits = (len(padded), y + ends[0], x + ends[1], padded.shape[3])
        shifted = lax.slice(padded, (0, y, x, 0), limits, (1, *stride, 1))
        with jax.named_scope(SCOPE):
            result += shifted * taps[i, j]
    return result


def _in_blocks(images: jax.Array, taps: jax.Array, of: _Sizes) -> jax.Array:
    """The result on CPUs, for a few images at a time, which stay in the cache with their border."""
    some = _images_at_once(images)

    def convolve(around: jax.Array, block: jax.Array) -> Two:
        around = within(around, _unfolded(block, some), (of.pads[0][0], of.pads[1][0]))
        return around, _folded(_sum(around, taps, of.places, of.stride, of.dilation))

    result = lax.scan(convolve, _zeros(images, some, of.padded), _blocks(images, some))[1]
    # Otherwise, XLA adds the products of a single block again wherever they are used.
    return materialized(result.reshape(len(images), *of.places, -1))


def _gradients_in_blocks(images: jax.Array, taps: jax.Array, errors: jax.Array, of: _Sizes) -> Two:
    """Both gradients on CPUs, for a few images at a time."""
    some, turned = _images_at_once(images), taps[::-1, ::-1]

    def add(carry: _Three, block: Two) -> tuple[_Three, jax.Array]:
        sums, around, spread = carry
        x, dy = (_unfolded(values, some) for values in block)
        around = within(around, x, (of.pads[0][0], of.pads[1][0]))
        spread = within(spread, _padded(dy, ((0, 0), (0, 0)), of.stride), _starts(of))
        dx = _sum(spread, turned, of.size, (1, 1), of.dilation)
        return (_add_products(sums, around, dy, of), around, spread), _folded(dx)

    sums = jnp.zeros((*of.kernel, *errors.shape[2:]), errors.dtype)
    reach = [size + (k - 1) * d for size, k, d in zip(of.size, of.kernel, of.dilation, strict=True)]
    carry = sums, _zeros(images, some, of.padded), _zeros(images, some, reach)
    blocks = _blocks(images, some), _blocks(errors, some)
    (sums, _, _), changes = lax.scan(add, carry, blocks)
    return materialized(changes.reshape(images.shape)), sums.sum(2)


def _add_products(sums: jax.Array, around: jax.Array, dy: jax.Array, of: _Sizes) -> jax.Array:
    """Adds products of shifted images and errors, for a few rows and a row of taps at a time.

    XLA vectorizes additions that are written out, but not a sum over images and pixels.

    Args:
      sums: by tap, column and channel, (kh, kw, ow, c).
      around: images with their border, (m, ..., ..., c).
      dy: errors, (m, oh, ow, c).
      of: sizes of the convolution.
    """
    (height, width), (down, across) = of.places, of.stride
    rows = largest_divisor(height, _ROWS)
    images = largest_divisor(len(dy), max(1, _ROWS // rows))
    parts = height // rows

    def row_of_taps(row: tuple[jax.Array, jax.Array]) -> jax.Array:
        i, sums = row

        def add(part: int, sums: list[jax.Array]) -> list[jax.Array]:
            image, first = part // parts * images, part % parts * rows
            at = image, first * down + i * of.dilation[0], 0, 0
            lines = images, (rows - 1) * down + 1, *around.shape[2:]
            x = materialized(lax.dynamic_slice(around, at, lines))
            some = images, rows, *dy.shape[2:]
            errors = materialized(lax.dynamic_slice(dy, (image, first, 0, 0), some))
            for j, n, y in product(range(of.kernel[1]), range(images), range(rows)):
                left = j * of.dilation[1]
                columns = slice(left, left + (width - 1) * across + 1, across)
                sums[j] += x[n, y * down, columns] * errors[n, y]
            return sums

        return jnp.stack(lax.fori_loop(0, len(dy) // images * parts, add, list(sums)))

    found: jax.Array = lax.map(row_of_taps, (jnp.arange(of.kernel[0]), sums))
    return found


def _images_at_once(images: jax.Array) -> int:
    return largest_divisor(len(images), max(1, _MOST_VALUES * len(images) // images.size))


def _blocks(images: jax.Array, some: int) -> jax.Array:
    """(n, h, w, c) to (n / some, some * h, w, c); XLA would copy them if an axis had size one."""
    return images.reshape(len(images) // some, -1, *images.shape[2:])


def _folded(images: jax.Array) -> jax.Array:
    return images.reshape(-1, *images.shape[2:])


def _unfolded(block: jax.Array, some: int) -> jax.Array:
    return block.reshape(some, -1, *block.shape[1:])


def _zeros(images: jax.Array, some: int, size: Sequence[int]) -> jax.Array:
    return jnp.zeros((some, *size, images.shape[3]), images.dtype)


def _is_depthwise(images: Any, kernel: Any, options: Mapping[str, Any]) -> bool:
    """Returns True for a depthwise convolution without unsupported options."""
    numbers = options.get("dimension_numbers")
    if images.ndim != 4 or numbers is None:
        return False
    numbers = lax.conv_dimension_numbers(images.shape, kernel.shape, numbers)
    return (
        (tuple(numbers.lhs_spec), tuple(numbers.rhs_spec)) == (NHWC, HWIO)
        and tuple(numbers.out_spec) == NHWC
        and options.get("feature_group_count", 1) == images.shape[3]
        and options.get("batch_group_count", 1) == 1
        and set(options.get("lhs_dilation") or (1,)) == {1}
        and options.get("preferred_element_type") in (None, images.dtype)
        and options.get("out_sharding") is None
    )


def is_slow(equation: Any) -> bool:
    """Returns True if `depthwise` would be faster on a CPU than a convolution in a jaxpr."""
    if equation.primitive.name != "conv_general_dilated":
        return False
    images, kernel = (var.aval for var in equation.invars)
    taps = math.prod(kernel.shape[:2]) if kernel.ndim == 4 else 0
    return pays(images.shape[-1], taps) and _is_depthwise(images, kernel, equation.params)


def pays(channels: int, taps: int) -> bool:
    """Returns True if `depthwise` is faster on a CPU than XLA, for a depthwise convolution.

    With one channel, XLA multiplies matrices.
    """
    return channels > 1 and 1 < taps <= MOST_TAPS
