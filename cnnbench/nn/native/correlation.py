"""Sizes of convolutions, and differentiable convolutions from calls that compute a pass each."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp

from cnnbench.nn.ops.convolution import Two
from cnnbench.system.arrays import Pair

Pass = Literal["forward", "input_gradient", "kernel_gradient"]
PASSES: tuple[Pass, ...] = ("forward", "input_gradient", "kernel_gradient")


@dataclass(frozen=True, slots=True)
class Correlation:
    """Sizes of a convolution.

    Args:
      size: height and width of the input.
      kernel: height and width of the kernel, without dilation.
      stride: vertical and horizontal stride.
      dilation: distance between kernel taps.
      pads: zeros before and after the rows and columns of the input.
      places: height and width of the output.
      channels: channels of the input.
      filters: channels of the output.
      groups: number of groups of channels.
    """

    size: Pair
    kernel: Pair
    stride: Pair
    dilation: Pair
    pads: tuple[Pair, Pair]
    places: Pair
    channels: int
    filters: int
    groups: int = 1

    @property
    def remainder(self) -> Pair:
        """Rows and columns at the end of the padded input that the kernel does not reach."""
        last = [(n - 1) * s for n, s in zip(self.places, self.stride, strict=True)]
        extent = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        rows, columns = (self.size[i] + sum(self.pads[i]) - last[i] - extent[i] for i in (0, 1))
        return rows, columns

    def result(self, which: Pass, images: int) -> jax.ShapeDtypeStruct:
        """Outputs, gradient of the images, or gradient of the kernel, in float32."""
        shapes = {
            "forward": (images, *self.places, self.filters),
            "input_gradient": (images, *self.size, self.channels),
            "kernel_gradient": (*self.kernel, self.channels // self.groups, self.filters),
        }
        return jax.ShapeDtypeStruct(shapes[which], jnp.float32)


Convolve: TypeAlias = Callable[[jax.Array, jax.Array, Correlation], jax.Array]


def differentiable(
    call: Callable[[Pass, jax.Array, jax.Array, Correlation], jax.Array], *, transposed: bool
) -> Convolve:
    """A convolution or its adjoint, with gradients that are calls, too.

    Args:
      call: computes a pass from its operands: images and kernel (``forward``), errors and kernel
        (``input_gradient``), or images and errors (``kernel_gradient``).
      transposed: True for the adjoint, (n, *places, out) to (n, *size, in); False for the
        convolution, (n, *size, in) to (n, *places, out). Kernels are (kh, kw, in / groups, out).
    """
    there, back = PASSES[transposed], PASSES[not transposed]

    @partial(jax.custom_vjp, nondiff_argnums=(2,))
    def convolve(x: jax.Array, kernel: jax.Array, of: Correlation) -> jax.Array:
        return call(there, x, kernel, of)

    def backward(of: Correlation, saved: Two, dy: jax.Array) -> Two:
        x, kernel = saved
        images, errors = (dy, x) if transposed else (x, dy)
        return call(back, dy, kernel, of), call("kernel_gradient", images, errors, of)

    convolve.defvjp(lambda x, kernel, of: (call(there, x, kernel, of), (x, kernel)), backward)
    return convolve
