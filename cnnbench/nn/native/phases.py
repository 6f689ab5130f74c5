"""Transposed convolutions with a stride as ones without, whose channels are phases of the stride.

On images (n, h, w, c).
"""

import jax
import jax.numpy as jnp
from jax import lax

from cnnbench.nn.native.correlation import Correlation
from cnnbench.nn.ops.convolution import Convolution

_ONE, _NO_PADS = (1, 1), ((0, 0), (0, 0))


def correlation(of: Convolution, channels: int, filters: int) -> Correlation:
    """Sizes of the convolution without stride.

    Args:
      of: a convolution with a stride of at most the size of the kernel.
      channels: its input channels.
      filters: its output channels.
    """
    rows, columns = (of.out[i] + of.core[i] - 1 for i in (0, 1))
    inputs = of.stride[0] * of.stride[1] * channels
    return Correlation((rows, columns), of.core, _ONE, _ONE, _NO_PADS, of.out, inputs, filters)


def joined(x: jax.Array, of: Convolution) -> jax.Array:
    """The images, (n, *size, channels), of phases as channels, (n, rows, columns, phases)."""
    (down, across), (n, rows, columns, values) = of.stride, x.shape
    split = x.reshape(n, rows, columns, down, values // down).transpose(0, 1, 3, 2, 4)
    x = split.reshape(n, rows * down, columns * across, values // (down * across))
    edges = [(-of.low[i], of.low[i] + of.size[i] - x.shape[1 + i], 0) for i in (0, 1)]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
