"""Convolution as matrix products over patches (im2col), exact to rounding.

Images are (h, w, n, c) and a correlation is valid and of stride one: `convolution`
brings every other one into that form. Slices of rows are then contiguous, and
the last axis of an image is the last axis of a matrix.
"""

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from cnnbench.nn.ops.layout import fold_channels, unfold_channels
from cnnbench.system.arrays import Pair

# XLA's product of a tall matrix taken by columns is 2 to 4 times slower above this.
MANY_TAPS = 40


@dataclass(frozen=True, slots=True)
class Im2col:
    """For few input channels: patches as (kh * kw * c, h * w * n).

    Patches are gathered by columns and then by rows: there are kh + kw long
    copies instead of kh * kw, and the images, not the channels, lie side by side.

    Args:
      kernel: height and width.
      out: height and width of the result.
    """

    kernel: Pair
    out: Pair

    def cost(self, channels: int, filters: int) -> float:
        """Nanoseconds of one core for an image, forward and backward.

        Sums of numbers that are multiplied and of numbers that are moved, with factors
        that were fitted to 372 measured times of 59 shapes (docs/explanation/performance.md).
        """
        patches = math.prod(self.out) * math.prod(self.kernel) * channels
        return patches * (0.07 * filters + 1.6)

    def prepare(self, kernel: jax.Array) -> jax.Array:
        """(kh, kw, in, out) to (kh * kw * in, out)."""
        return kernel.reshape(-1, kernel.shape[-1])

    def input_transform(self, x: jax.Array) -> jax.Array:
        """Patches: (h, w, n, c) to (kh * kw * c, oh * ow * n)."""
        (kh, kw), (oh, ow) = self.kernel, self.out
        h, _, n, c = x.shape
        planes = jnp.moveaxis(x, -1, 0).reshape(c, h, -1)  # columns and images as one axis
        wide = jnp.stack([planes[:, :, j * n : (j + ow) * n] for j in range(kw)])
        tall = jnp.stack([wide[:, :, i : i + oh] for i in range(kh)])
        return tall.reshape(kh * kw * x.shape[-1], -1)

    def input_transform_t(self, patches: jax.Array) -> jax.Array:
        """The transpose of `input_transform`: each tap is added where it came from (col2im)."""
        (kh, kw), (oh, ow) = self.kernel, self.out
        n = patches.shape[1] // (oh * ow)
        taps = patches.reshape(kh, kw, -1, oh, ow * n)
        wide = _sum([_moved(taps[i], 2, i, kh - 1) for i in range(kh)])
        planes = _sum([_moved(wide[j], 2, j * n, (kw - 1) * n) for j in range(kw)])
        return jnp.moveaxis(planes.reshape(*planes.shape[:2], -1, n), 0, -1)

    def output_transform(self, products: jax.Array) -> jax.Array:
        """(oh * ow * n, f) to (oh, ow, n, f)."""
        return products.reshape(*self.out, -1, products.shape[-1])

    def output_transform_t(self, y: jax.Array) -> jax.Array:
        """The transpose of `output_transform`."""
        return y.reshape(-1, y.shape[-1])

    def forward(self, patches: jax.Array, kernel: jax.Array) -> jax.Array:
        """The products: (k, rows) and (k, f) to (rows, f)."""
        if len(kernel) > MANY_TAPS:
            turned: jax.Array = lax.optimization_barrier(kernel.T @ patches)
            return turned.T
        return jnp.einsum("kr,kf->rf", patches, kernel)

    def backward(self, products: jax.Array, kernel: jax.Array) -> jax.Array:
        """`forward` transposed in its first argument."""
        return jnp.einsum("rf,kf->kr", products, kernel)

    def gradient(self, patches: jax.Array, products: jax.Array) -> jax.Array:
        """`forward` transposed in its second argument."""
        return patches @ products


class Whole:
    """An algorithm that works on images as they are; see `Im2col` for what the maps mean."""

    __slots__ = ()

    def prepare(self, kernel: jax.Array) -> jax.Array:
        """Kernels are used as they are."""
        return kernel

    def input_transform(self, x: jax.Array) -> jax.Array:
        """Nothing."""
        return x

    input_transform_t = output_transform = output_transform_t = input_transform


@dataclass(frozen=True, slots=True)
class RowIm2col(Whole):
    """For many channels: patches of columns only, and a product for each row of the kernel.

    A quarter or a fifth of the copies of whole patches; each product reads a
    block of rows.

    Args:
      kernel: height and width.
      out: height and width of the result.
    """

    kernel: Pair
    out: Pair

    def cost(self, channels: int, filters: int) -> float:
        """Nanoseconds, as `Im2col.cost`."""
        taps, small, large = map(math.prod, (self.kernel, self.out, _full(self)))
        products = (2 * small + large) * taps * channels * filters
        added = self.kernel[0] * (small * filters + large * channels)
        copied = taps * (small * channels + large * filters)
        return 0.013 * products + 0.6 * added + copied

    def forward(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """(h, w, n, in) and (kh, kw, in, out) to (oh, ow, n, out)."""
        wide, rows = self._wide(x), kernel.reshape(self.kernel[0], -1, kernel.shape[-1])
        return _sum([wide[i : i + self.out[0]] @ rows[i] for i in range(self.kernel[0])])

    def backward(self, y: jax.Array, kernel: jax.Array) -> jax.Array:
        """(oh, ow, n, out) and the kernel to (h, w, n, in): a full convolution."""
        return RowIm2col(self.kernel, _full(self)).forward(_around(y, self.kernel), rotated(kernel))

    def gradient(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """The kernel's: every tap's input times the error, summed over the images."""
        wide, axes = self._wide(x), ((0, 1, 2), (0, 1, 2))
        rows = [jnp.tensordot(wide[i : i + self.out[0]], y, axes) for i in range(self.kernel[0])]
        return jnp.stack(rows).reshape(*self.kernel, x.shape[-1], y.shape[-1])

    def _wide(self, x: jax.Array) -> jax.Array:
        """Columns that a row of the kernel meets: (h, ow, n, kw * c)."""
        columns = [x[:, j : j + self.out[1]] for j in range(self.kernel[1])]
        return jnp.concatenate(columns, axis=-1)


@dataclass(frozen=True, slots=True)
class Col2im(Whole):
    """For few filters: a full convolution is the adjoint of one with few channels.

    So `Im2col` does it, with the kernel rotated, and zeros around the other image.

    Args:
      kernel: height and width.
      out: height and width of the result.
    """

    kernel: Pair
    out: Pair

    def cost(self, channels: int, filters: int) -> float:
        """Nanoseconds, as `Im2col.cost`."""
        patches = math.prod(_full(self)) * math.prod(self.kernel) * filters
        return patches * (0.05 * channels + 1.85)

    def forward(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """(h, w, n, in) and (kh, kw, in, out) to (oh, ow, n, out)."""
        taps = self._im2col()
        products = taps.backward(taps.output_transform_t(x), taps.prepare(rotated(kernel)))
        (kh, kw), (oh, ow) = self.kernel, self.out
        full = taps.input_transform_t(products)
        return unfold_channels(
            fold_channels(full)[kh - 1 : kh - 1 + oh, kw - 1 : kw - 1 + ow], full.shape[2:]
        )

    def backward(self, y: jax.Array, kernel: jax.Array) -> jax.Array:
        """(oh, ow, n, out) and the kernel to (h, w, n, in)."""
        taps = self._im2col()
        patches = taps.input_transform(_around(y, self.kernel))
        return taps.output_transform(taps.forward(patches, taps.prepare(rotated(kernel))))

    def gradient(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """The kernel's: every tap's input times the error, summed over the images."""
        taps = self._im2col()
        turned = taps.gradient(
            taps.input_transform(_around(y, self.kernel)), taps.output_transform_t(x)
        )
        return rotated(turned.reshape(*self.kernel, y.shape[-1], x.shape[-1]))

    def _im2col(self) -> Im2col:
        return Im2col(self.kernel, _full(self))


def _full(valid: RowIm2col | Col2im) -> Pair:
    """Height and width of a full convolution's result."""
    return valid.out[0] + valid.kernel[0] - 1, valid.out[1] + valid.kernel[1] - 1


def _around(y: jax.Array, kernel: Pair) -> jax.Array:
    """Zeros around an image, so that a valid convolution becomes a full one."""
    rows, columns = kernel[0] - 1, kernel[1] - 1
    return unfold_channels(
        jnp.pad(fold_channels(y), ((rows, rows), (columns, columns), (0, 0))), y.shape[2:]
    )


def rotated(kernel: jax.Array) -> jax.Array:
    """The post's ROT180(w), with in and out exchanged."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _sum(parts: list[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, parts)


def _moved(x: jax.Array, axis: int, low: int, total: int) -> jax.Array:
    """`x` with `low` zeros before an axis and `total` around it."""
    edges = [(0, 0)] * x.ndim
    edges[axis] = (low, total - low)
    return jnp.pad(x, edges)
