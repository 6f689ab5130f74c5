"""Convolution as matrix products of patches (im2col).

Images are (h, w, n, c), and correlations are valid with stride one: `convolution` converts all
others to this form. Slices of rows are then contiguous, and the last axis of an image is the last
axis of a matrix.
"""

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from cnnbench.nn.ops.layout import fold_channels, unfold_channels
from cnnbench.nn.ops.products import over_rows
from cnnbench.system.arrays import Pair

# Above this, XLA's product with a transposed tall matrix is 2 to 4 times slower.
MANY_TAPS = 40

_FEW_ROWS = 8  # with more, selecting blocks of columns takes longer than their product
# Products that are added in float32 before they are added to those of other blocks.
_OF_FEW, _OF_MANY = 256, 2048


@dataclass(frozen=True, slots=True)
class Im2col:
    """For few input channels: patches as (kh * kw * c, h * w * n).

    Patches are gathered by columns and then by rows: kh + kw long copies instead of kh * kw, and
    contiguous over images instead of channels.

    Args:
      kernel: height and width.
      out: height and width of the output.
    """

    kernel: Pair
    out: Pair

    def cost(self, channels: int, filters: int) -> float:
        """Estimated nanoseconds per image on one core, forward and backward.

        A linear model of multiplications and memory traffic, fitted to 372 measurements of 59
        shapes (docs/explanation/performance.md).
        """
        patches = math.prod(self.out) * math.prod(self.kernel) * channels
        return patches * (0.07 * filters + 1.6)

    def prepare(self, kernel: jax.Array) -> jax.Array:
        """Reshapes a kernel, (kh, kw, in, out) to (kh * kw * in, out)."""
        return kernel.reshape(-1, kernel.shape[-1])

    def input_transform(self, x: jax.Array) -> jax.Array:
        """Extracts patches, (h, w, n, c) to (kh * kw * c, oh * ow * n)."""
        (kh, kw), (oh, ow) = self.kernel, self.out
        h, _, n, c = x.shape
        planes = jnp.moveaxis(x, -1, 0).reshape(c, h, -1)  # merge columns and images
        wide = jnp.stack([planes[:, :, j * n : (j + ow) * n] for j in range(kw)])
        tall = jnp.stack([wide[:, :, i : i + oh] for i in range(kh)])
        return tall.reshape(kh * kw * x.shape[-1], -1)

    def input_transform_t(self, patches: jax.Array) -> jax.Array:
        """The transpose of `input_transform` (col2im)."""
        (kh, kw), (oh, ow) = self.kernel, self.out
        n = patches.shape[1] // (oh * ow)
        taps = patches.reshape(kh, kw, -1, oh, ow * n)
        wide = _sum([_moved(taps[i], 2, i, kh - 1) for i in range(kh)])
        planes = _sum([_moved(wide[j], 2, j * n, (kw - 1) * n) for j in range(kw)])
        return jnp.moveaxis(planes.reshape(*planes.shape[:2], -1, n), 0, -1)

    def output_transform(self, products: jax.Array) -> jax.Array:
        """Reshapes products, (oh * ow * n, f) to (oh, ow, n, f)."""
        return products.reshape(*self.out, -1, products.shape[-1])

    def output_transform_t(self, y: jax.Array) -> jax.Array:
        """The transpose of `output_transform`."""
        return y.reshape(-1, y.shape[-1])

    def forward(self, patches: jax.Array, kernel: jax.Array) -> jax.Array:
        """Matrix product, (k, rows) and (k, f) to (rows, f)."""
        if len(kernel) > MANY_TAPS:
            return over_rows(patches, kernel)
        return jnp.einsum("kr,kf->rf", patches, kernel)

    def backward(self, products: jax.Array, kernel: jax.Array) -> jax.Array:
        """The transpose of `forward` in its first argument."""
        return jnp.einsum("rf,kf->kr", products, kernel)

    def gradient(self, patches: jax.Array, products: jax.Array) -> jax.Array:
        """The transpose of `forward` in its second argument."""
        if len(patches) > _FEW_ROWS:
            return patches @ products
        blocks = _num_blocks(math.prod(self.out), len(products), _OF_FEW)
        split = patches.reshape(len(patches), blocks, -1), _in_blocks(products, blocks)
        return jnp.einsum("kbr,brf->bkf", *split).sum(0)


class Untransformed:
    """Base class of algorithms without transforms; see `Im2col` for the methods."""

    __slots__ = ()

    def prepare(self, kernel: jax.Array) -> jax.Array:
        """Returns the kernel unchanged."""
        return kernel

    def input_transform(self, x: jax.Array) -> jax.Array:
        """Returns the images unchanged."""
        return x

    input_transform_t = output_transform = output_transform_t = input_transform


@dataclass(frozen=True, slots=True)
class RowIm2col(Untransformed):
    """For many channels: patches of columns only, and one matrix product per kernel row.

    Copies a quarter to a fifth as much as full patches; each product reads a block of rows.

    Args:
      kernel: height and width.
      out: height and width of the output.
    """

    kernel: Pair
    out: Pair

    def cost(self, channels: int, filters: int) -> float:
        """Estimated nanoseconds, as `Im2col.cost`."""
        taps, small, large = map(math.prod, (self.kernel, self.out, _full(self)))
        products = (2 * small + large) * taps * channels * filters
        added = self.kernel[0] * (small * filters + large * channels)
        copied = large * (self.kernel[1] * channels + self.kernel[0] * filters)
        return 0.013 * products + 1.2 * (added + copied)

    def forward(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Correlation, (h, w, n, in) and (kh, kw, in, out) to (oh, ow, n, out)."""
        wide, rows = self._wide(x), kernel.reshape(self.kernel[0], -1, kernel.shape[-1])
        return _sum([wide[i : i + self.out[0]] @ rows[i] for i in range(self.kernel[0])])

    def backward(self, y: jax.Array, kernel: jax.Array) -> jax.Array:
        """Full convolution, (oh, ow, n, out) and the kernel to (h, w, n, in)."""
        return RowIm2col(self.kernel, _full(self)).forward(_around(y, self.kernel), rotated(kernel))

    def gradient(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Gradient of the kernel: the product of all taps of inputs and errors, over pixels.

        Columns are shifted in the inputs and rows in the errors, so each is copied once per tap of
        one side of the kernel, and not once per tap.
        """
        wide, tall = self._wide(x), self._tall(y)
        pixels = x.shape[0] * self.out[1]
        blocks = _num_blocks(pixels, pixels * y.shape[2], _OF_MANY)
        split = _in_blocks(wide, blocks), _in_blocks(tall, blocks)
        sums = over_rows(*split).sum(0)
        taps = self.kernel[1], x.shape[-1], self.kernel[0], y.shape[-1]
        return sums.reshape(taps).transpose(2, 0, 1, 3)

    def _tall(self, y: jax.Array) -> jax.Array:
        """Errors of the rows that read each row of the inputs, (h, ow, n, kh * f)."""
        last = self.kernel[0] - 1
        rows = fold_channels(y)
        around = unfold_channels(jnp.pad(rows, ((last, last), (0, 0), (0, 0))), y.shape[2:])
        height = y.shape[0] + last
        shifted = [around[last - i : last - i + height] for i in range(self.kernel[0])]
        return jnp.concatenate(shifted, axis=-1)

    def _wide(self, x: jax.Array) -> jax.Array:
        """Patches of columns for a kernel row, (h, ow, n, kw * c)."""
        columns = [x[:, j : j + self.out[1]] for j in range(self.kernel[1])]
        return jnp.concatenate(columns, axis=-1)


@dataclass(frozen=True, slots=True)
class Col2im(Untransformed):
    """For few filters: the adjoint of a full convolution with few input channels.

    Uses `Im2col` with a rotated kernel and zero padding of the errors.

    Args:
      kernel: height and width.
      out: height and width of the output.
    """

    kernel: Pair
    out: Pair

    def cost(self, channels: int, filters: int) -> float:
        """Estimated nanoseconds, as `Im2col.cost`."""
        patches = math.prod(_full(self)) * math.prod(self.kernel) * filters
        return patches * (0.05 * channels + 1.85)

    def forward(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Correlation, (h, w, n, in) and (kh, kw, in, out) to (oh, ow, n, out)."""
        taps = self._im2col()
        products = taps.backward(taps.output_transform_t(x), taps.prepare(rotated(kernel)))
        (kh, kw), (oh, ow) = self.kernel, self.out
        full = taps.input_transform_t(products)
        return unfold_channels(
            fold_channels(full)[kh - 1 : kh - 1 + oh, kw - 1 : kw - 1 + ow], full.shape[2:]
        )

    def backward(self, y: jax.Array, kernel: jax.Array) -> jax.Array:
        """Full convolution, (oh, ow, n, out) and the kernel to (h, w, n, in)."""
        taps = self._im2col()
        patches = taps.input_transform(_around(y, self.kernel))
        return taps.output_transform(taps.forward(patches, taps.prepare(rotated(kernel))))

    def gradient(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Gradient of the kernel: products of inputs and errors per tap, summed over images."""
        taps = self._im2col()
        turned = taps.gradient(
            taps.input_transform(_around(y, self.kernel)), taps.output_transform_t(x)
        )
        return rotated(turned.reshape(*self.kernel, y.shape[-1], x.shape[-1]))

    def _im2col(self) -> Im2col:
        return Im2col(self.kernel, _full(self))


def _num_blocks(pixels: int, products: int, most: int) -> int:
    """Number of blocks of pixels whose products are added separately.

    Rounding errors of a sum grow with its length: added one after another, the products of all
    pixels would have several times the error of PyTorch's kernel gradient (Higham, "The accuracy
    of floating point summation", SIAM Journal on Scientific Computing 14, 1993).

    Args:
      pixels: pixels of the output.
      products: products per weight, a multiple of `pixels`.
      most: products per block, unless a pixel has more.
    """
    divisors = (blocks for blocks in range(1, pixels + 1) if pixels % blocks == 0)
    return next((n for n in divisors if products // n <= most), pixels)


def _in_blocks(x: jax.Array, blocks: int) -> jax.Array:
    """Splits rows into blocks, (..., c) to (blocks, rows of a block, c)."""
    return x.reshape(blocks, -1, x.shape[-1])


def _full(valid: RowIm2col | Col2im) -> Pair:
    """Output size of a full convolution."""
    return valid.out[0] + valid.kernel[0] - 1, valid.out[1] + valid.kernel[1] - 1


def _around(y: jax.Array, kernel: Pair) -> jax.Array:
    """Pads an image with zeros, so that a valid convolution becomes a full one."""
    rows, columns = kernel[0] - 1, kernel[1] - 1
    return unfold_channels(
        jnp.pad(fold_channels(y), ((rows, rows), (columns, columns), (0, 0))), y.shape[2:]
    )


def rotated(kernel: jax.Array) -> jax.Array:
    """The post's ROT180(w), with input and output channels swapped."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _sum(parts: list[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, parts)


def _moved(x: jax.Array, axis: int, low: int, total: int) -> jax.Array:
    """Pads an axis with `total` zeros, of which `low` before."""
    edges = [(0, 0)] * x.ndim
    edges[axis] = (low, total - low)
    return jnp.pad(x, edges)
