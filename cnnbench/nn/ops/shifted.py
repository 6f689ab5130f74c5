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

from cnnbench.nn.ops.layout import materialized
from cnnbench.system.arrays import Pair

SCOPE = "cnnbench_shifted"  # JAX name scope; products in it count as multiply-adds
MOST_TAPS = 121  # 11x11; the gain is small with 13x13, which takes longer to compile
_ROWS = 8  # maximum rows of errors at a time in the gradient of a kernel
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
    def places(self) -> Pair:
        """Height and width of the result."""
        rows, columns = (
            (size + sum(pads) - (k - 1) * dilation - 1) // stride + 1
            for size, k, stride, pads, dilation in zip(*self, strict=True)
        )
        return rows, columns


def _convolved(images: jax.Array, taps: jax.Array, of: _Sizes) -> jax.Array:
    """(n, h, w, c) and (kh, kw, c) to (n, oh, ow, c)."""
    return _sum(_padded(images, of.pads), taps, of.places, of.stride, of.dilation)


# With gradients that XLA computes fast.
_conv = jax.custom_vjp(_convolved, nondiff_argnums=(2,))


def _conv_forward(
    images: jax.Array, taps: jax.Array, of: _Sizes
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _conv(images, taps, of), (images, taps)


def _conv_backward(
    of: _Sizes, saved: tuple[jax.Array, jax.Array], errors: jax.Array
) -> tuple[jax.Array, jax.Array]:
    images, taps = saved
    in_loops, at_once = partial(_kernel_gradient, of=of), partial(_derived_gradient, of=of)
    kernel = lax.platform_dependent(images, errors, taps, cpu=in_loops, default=at_once)
    return _image_gradient(errors, taps, of), kernel


_conv.defvjp(_conv_forward, _conv_backward)


def _padded(images: jax.Array, pads: Sequence[Pair], stride: Pair = (1, 1)) -> jax.Array:
    """Zero-pads images around them, and between their pixels for a stride; negative pads crop."""
    zero = jnp.zeros((), images.dtype)
    edges = [(*ends, apart - 1) for ends, apart in zip(pads, stride, strict=True)]
    return _kept(lax.pad(images, zero, [(0, 0, 0), *edges, (0, 0, 0)]))


def _kept(x: jax.Array) -> jax.Array:
    """`materialized` on CPUs; on accelerators, the host would wait for the condition."""
    result: jax.Array = lax.platform_dependent(x, cpu=materialized, default=lambda x: x)
    return result


def _sum(
    padded: jax.Array, taps: jax.Array, places: Pair, stride: Pair, dilation: Pair
) -> jax.Array:
    """Sum over the taps of a kernel, from padded images to (n, *places, c).

    Materialized, since XLA would compute the sum again wherever it is used.
    """
    result = jnp.zeros((), padded.dtype)
    ends = [(length - 1) * step + 1 for length, step in zip(places, stride, strict=True)]
    for i, j in product(*map(range, taps.shape[:2])):
        y, x = i * dilation[0], j * dilation[1]
        limits = (len(padded), y + ends[0], x + ends[1], padded.shape[3])
        shifted = lax.slice(padded, (0, y, x, 0), limits, (1, *stride, 1))
        with jax.named_scope(SCOPE):
            result += shifted * taps[i, j]
    return _kept(result)


def _image_gradient(errors: jax.Array, taps: jax.Array, of: _Sizes) -> jax.Array:
    """The adjoint: a convolution with the rotated kernel, with zeros between errors for strides."""
    pads = [
        ((kernel - 1) * dilation - low, size + low - (length - 1) * stride - 1)
        for kernel, dilation, (low, _), size, length, stride in zip(
            of.kernel, of.dilation, of.pads, of.size, of.places, of.stride, strict=True
        )
    ]
    padded = _padded(errors, pads, of.stride)
    return _sum(padded, taps[::-1, ::-1], of.size, (1, 1), of.dilation)


def _derived_gradient(
    images: jax.Array, errors: jax.Array, taps: jax.Array, of: _Sizes
) -> jax.Array:
    """Gradient of the taps, (kh, kw, c), derived by JAX."""
    found: jax.Array = jax.vjp(lambda taps: _convolved(images, taps, of), taps)[1](errors)[0]
    return found


def _kernel_gradient(
    images: jax.Array, errors: jax.Array, _taps: jax.Array, of: _Sizes
) -> jax.Array:
    """The same on CPUs.

    Computed for one row of the kernel and a few rows of an image at a time, which stay in the
    cache; XLA does not vectorize a sum over images and pixels.
    """
    (height, width), (down, across), channels = of.places, of.stride, images.shape[3]
    blocks = -(-height // _ROWS)
    rows = -(-height // blocks)
    missing = blocks * rows - height
    errors = _padded(errors, ((0, missing), (0, 0)))
    (top, bottom), sides = of.pads
    padded = _padded(images, ((top, bottom + missing * down), sides))
    lines = (rows - 1) * down + 1, padded.shape[2], channels

    def row_of_taps(i: jax.Array) -> jax.Array:
        def add(at: int, sums: list[jax.Array]) -> list[jax.Array]:
            image, first = at // blocks, at % blocks * rows
            start = image, first * down + i * of.dilation[0], 0, 0
            x = materialized(lax.dynamic_slice(padded, start, (1, *lines)))[0]
            dy = materialized(
                lax.dynamic_slice(errors, (image, first, 0, 0), (1, rows, width, channels))
            )[0]
            for j, y in product(range(of.kernel[1]), range(rows)):
                left = j * of.dilation[1]
                sums[j] += x[y * down, left : left + (width - 1) * across + 1 : across] * dy[y]
            return sums

        zeros = [jnp.zeros((width, channels), images.dtype)] * of.kernel[1]
        sums = lax.fori_loop(0, len(images) * blocks, add, zeros)
        return jnp.stack(sums).sum(1)

    found: jax.Array = lax.map(row_of_taps, jnp.arange(of.kernel[0]))
    return found


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
