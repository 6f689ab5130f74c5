"""Fast convolution and transposed convolution on CPUs, with an algorithm selected by shape.

Images are (h, w, n, c), kernels (h, w, in, out). Convolutions, transposed convolutions and their
gradients, with any stride and padding and after an upscale, are computed with the same three
products of a valid correlation of stride one:

- output from input and kernel (`forward`);
- input from output and kernel (`backward`): the post's step 4, a full convolution with the
  kernel rotated by 180 degrees;
- kernel from input and output (`gradient`): the post's step 5, the correlation of the input with
  the error ("Convolutional Neural Networks backpropagation: from intuition to derivation").

Strides are converted to channels (space to depth), padding is applied before, and an upscale
before a transposed convolution becomes a stride. See `im2col` and `winograd` for the algorithms.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnbench.nn.ops import layout
from cnnbench.nn.ops.im2col import Col2im, Im2col, RowIm2col
from cnnbench.nn.ops.winograd import Winograd, apply_separable, tilings
from cnnbench.system.arrays import Array, Pair
from cnnbench.system.compile_cache import traced_once

EngineName = Literal["plain", "whole", "onednn", "winograd", "direct", "fast"]
Two = tuple[jax.Array, jax.Array]
Algorithm = Im2col | Col2im | RowIm2col | Winograd

FEW_CHANNELS = 4  # with fewer, matrix products over channels are not vectorized


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution of known shape, with its adjoint and gradients.

    Args:
      size: height and width of the input.
      kernel: height and width of the kernel.
      stride: vertical and horizontal stride.
      low: zeros before rows and columns; negative to crop.
      out: height and width of the output.
      algorithm: algorithm for the correlation of stride one.
      exact_zeros: True if outputs must be exactly zero where all inputs of a window are zero. With
        Winograd's algorithm, sums would cancel only up to rounding if other values of the tile are
        not zero.
    """

    size: Pair
    kernel: Pair
    stride: Pair
    low: Pair
    out: Pair
    algorithm: Algorithm
    exact_zeros: bool = True

    def prepare(self, kernel: jax.Array) -> jax.Array:
        """Transforms a kernel, (kh, kw, in, out); the result can be shared by many calls."""
        return self.algorithm.prepare(self.split(kernel))

    def split(self, kernel: jax.Array) -> jax.Array:
        """Converts phases to channels, (kh, kw, in, out) to (*core, phases * in, out)."""
        (kh, kw), (taken_h, taken_w), (ph, pw) = self.core, self.kernel, self.phases
        filled = jnp.pad(kernel, ((0, kh * ph - taken_h), (0, kw * pw - taken_w), (0, 0), (0, 0)))
        split = filled.reshape(kh, ph, kw, pw, *kernel.shape[2:]).transpose(0, 2, 1, 3, 4, 5)
        return split.reshape(kh, kw, -1, kernel.shape[-1])

    @traced_once(0)
    def conv(self, x: jax.Array, prepared: jax.Array) -> jax.Array:
        """Convolution, (*size, n, in) to (*out, n, out)."""
        y = _correlate(_gather(self, x), prepared, self.algorithm)
        return _blanked(y, self.window_sums(_sizes(x))) if self._needs_zeros else y

    @traced_once(0)
    def conv_transpose(self, y: jax.Array, prepared: jax.Array) -> jax.Array:
        """Transposed convolution, (*out, n, out) to (*size, n, in)."""
        x = self.scatter(_adjoint(y, prepared, self.algorithm))
        return _blanked(x, self.window_sums_t(_sizes(y))) if self._needs_zeros else x

    @property
    def _needs_zeros(self) -> bool:
        return self.exact_zeros and isinstance(self.algorithm, Winograd)

    def window_sums(self, sizes: jax.Array) -> jax.Array:
        """Sums over the window of each output, (*size, n) to (*out, n)."""
        return apply_separable(*self._windows, sizes)

    def window_sums_t(self, sizes: jax.Array) -> jax.Array:
        """The transpose of `window_sums`, (*out, n) to (*size, n)."""
        rows, columns = self._windows
        return apply_separable(rows.T, columns.T, sizes)

    @property
    def _windows(self) -> tuple[Array, Array]:
        """Masks of the inputs in the window of each output, by rows and columns, (out, size)."""
        found = []
        for axis, taps in enumerate(self.kernel):
            starts = self.stride[axis] * np.arange(self.out[axis]) - self.low[axis]
            places = np.arange(self.size[axis]) - starts[:, None]
            found.append((places >= 0) & (places < taps))
        return found[0], found[1]

    @property
    def phases(self) -> Pair:
        """Phases of the stride that the kernel covers, by rows and columns."""
        return _phases(self.kernel, self.stride)

    @property
    def core(self) -> Pair:
        """Kernel size after converting phases to channels."""
        return _core(self.kernel, self.phases)

    def gather(self, x: jax.Array) -> jax.Array:
        """Pads and converts phases to channels, (h, w, n, c) to (h / s, w / s, n, p * p * c)."""
        (sh, sw), (ph, pw) = self.stride, self.phases
        h, w = (self.out[i] + self.core[i] - 1 for i in (0, 1))
        edges = [
            (self.low[i], n * s - self.low[i] - self.size[i], 0)
            for i, n, s in ((0, h, sh), (1, w, sw))
        ]
        x = _padded(x, edges)
        if self.stride == (1, 1):
            return x
        rows, columns = range(ph), range(pw)
        return jnp.concatenate([x[i::sh, j::sw] for i in rows for j in columns], axis=-1)

    def scatter(self, x: jax.Array) -> jax.Array:
        """The transpose of `gather`."""
        (sh, sw), (ph, pw), (h, w, n, _) = self.stride, self.phases, x.shape
        if self.stride != (1, 1):
            split = x.reshape(h, w, n, ph, pw, -1).transpose(0, 3, 1, 4, 2, 5)
            split = jnp.pad(split, ((0, 0), (0, sh - ph), (0, 0), (0, sw - pw), (0, 0), (0, 0)))
            x = split.reshape(h * sh, w * sw, n, -1)
        edges = [(-self.low[i], self.low[i] + self.size[i] - x.shape[i], 0) for i in (0, 1)]
        return _padded(x, edges)


def _sizes(x: jax.Array) -> jax.Array:
    """Sum of absolute values over channels, (h, w, n, c) to (h, w, n).

    As a matrix product: XLA does not vectorize sums over the last axis on CPUs.
    """
    ones = jnp.ones((x.shape[-1], 1), x.dtype)
    sizes = layout.elementwise(jnp.abs, x).reshape(-1, x.shape[-1]) @ ones
    return sizes.reshape(x.shape[:-1])


@jax.custom_vjp
def _blanked(y: jax.Array, sums: jax.Array) -> jax.Array:
    """Zeros images, (h, w, n, c), where the window sums, (h, w, n), are zero.

    After the first step few windows are blank, and images without any are not copied.
    """
    blank = sums == 0
    result: jax.Array = lax.cond(
        blank.any(), lambda y: jnp.where(blank[..., None], 0, y), lambda y: y, y
    )
    return result


# Only rounding errors are set to zero, so the gradient is that of the convolution.
_blanked.defvjp(lambda y, sums: (_blanked(y, sums), None), lambda _, dy: (dy, None))


def _padded(x: jax.Array, edges: list[tuple[int, int, int]]) -> jax.Array:
    """Pads or crops rows and columns."""
    wide = lax.pad(layout.fold_channels(x), jnp.zeros((), x.dtype), [*edges, (0, 0, 0)])
    return layout.unfold_channels(wide, x.shape[2:])


def _phases(kernel: Pair, stride: Pair) -> Pair:
    return min(kernel[0], stride[0]), min(kernel[1], stride[1])


def _core(kernel: Pair, phases: Pair) -> Pair:
    return math.ceil(kernel[0] / phases[0]), math.ceil(kernel[1] / phases[1])


def convolution(
    size: Pair, kernel: tuple[int, ...], stride: Pair, low: Pair, out: Pair, form: EngineName
) -> Convolution:
    """Creates a convolution with the best algorithm for its shape.

    Args:
      size: height and width of the input.
      kernel: shape of the kernel, (kh, kw, in, out).
      stride: vertical and horizontal stride.
      low: zeros before rows and columns.
      out: height and width of the output.
      form: ``fast`` allows Winograd's algorithm, ``direct`` does not.
    """
    taps = (kernel[0], kernel[1])
    phases = _phases(taps, stride)
    core = _core(taps, phases)
    channels = math.prod(phases) * kernel[2]
    algorithm = pick_algorithm(core, out, channels, kernel[3], form)
    return Convolution(size, taps, stride, low, out, algorithm)


def pick_algorithm(
    kernel: Pair, out: Pair, channels: int, filters: int, form: EngineName
) -> Algorithm:
    """Selects the algorithm with the lowest estimated cost for a valid correlation of stride one.

    Args:
      kernel: height and width.
      out: height and width of the output.
      channels: number of input channels.
      filters: number of output channels.
      form: as in `convolution`.

    >>> pick_algorithm((5, 5), (8, 8), 32, 32, "fast").tile
    (4, 4)
    """
    if channels < FEW_CHANNELS:
        return Im2col(kernel, out)
    if filters < FEW_CHANNELS:
        return Col2im(kernel, out)
    if kernel == (1, 1):
        return RowIm2col(kernel, out)
    found: list[Algorithm] = [RowIm2col(kernel, out), Im2col(kernel, out), Col2im(kernel, out)]
    found += tilings(kernel, out) if form == "fast" else []
    return min(found, key=lambda algorithm: algorithm.cost(channels, filters))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather(conv: Convolution, x: jax.Array) -> jax.Array:
    return conv.gather(x)


# JAX's own gradient would add a zero-padded image per phase of the stride.
_gather.defvjp(lambda conv, x: (conv.gather(x), None), lambda conv, _, dy: (conv.scatter(dy),))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _correlate(x: jax.Array, kernel: jax.Array, algorithm: Algorithm) -> jax.Array:
    return _correlate_forward(x, kernel, algorithm)[0]


def _correlate_forward(x: jax.Array, kernel: jax.Array, by: Algorithm) -> tuple[jax.Array, Two]:
    transformed = by.input_transform(x)
    return by.output_transform(by.forward(transformed, kernel)), (transformed, kernel)


def _correlate_backward(by: Algorithm, saved: Two, dy: jax.Array) -> Two:
    transformed, kernel = saved
    products = by.output_transform_t(dy)
    return by.input_transform_t(by.backward(products, kernel)), by.gradient(transformed, products)


_correlate.defvjp(_correlate_forward, _correlate_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _adjoint(y: jax.Array, kernel: jax.Array, algorithm: Algorithm) -> jax.Array:
    return _adjoint_forward(y, kernel, algorithm)[0]


def _adjoint_forward(y: jax.Array, kernel: jax.Array, by: Algorithm) -> tuple[jax.Array, Two]:
    products = by.output_transform_t(y)
    return by.input_transform_t(by.backward(products, kernel)), (products, kernel)


def _adjoint_backward(by: Algorithm, saved: Two, dx: jax.Array) -> Two:
    products, kernel = saved
    transformed = by.input_transform(dx)
    return by.output_transform(by.forward(transformed, kernel)), by.gradient(transformed, products)


_adjoint.defvjp(_adjoint_forward, _adjoint_backward)
