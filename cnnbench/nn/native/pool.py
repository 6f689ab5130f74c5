"""Max pools in C, on images (n, h, w, c) in float32."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnbench.nn.native.compiler import registered
from cnnbench.system.arrays import Pair

MOST_CELLS = 127  # of a window, whose numbers are int8
_TARGET = "cnnbench_pool"  # of XLA's custom calls


def supports(size: Pair) -> bool:
    """True for windows of at most `MOST_CELLS` cells."""
    return math.prod(size) <= MOST_CELLS


def maxima(shape: Sequence[int]) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of maxima, and of the number of the largest cell of each window."""
    return jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape, jnp.int8)


def max_pool(x: jax.Array, size: Pair, stride: Pair) -> jax.Array:
    """Maximum over windows; in ties, the first one gets the gradient.

    Args:
      x: images, (n, h, w, c).
      size: height and width of a window; see `supports`.
      stride: vertical and horizontal stride.

    Returns:
      (n, oh, ow, c) with oh = (h - size) // stride + 1, and ow by the same formula.
    """
    return _max_pool(x, (x.shape[1], x.shape[2]), size, stride)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: jax.Array, image: Pair, size: Pair, stride: Pair) -> jax.Array:
    return _forward(x, image, size, stride)[0]


def _forward(x: jax.Array, image: Pair, size: Pair, stride: Pair) -> tuple[jax.Array, jax.Array]:
    windows = [(length - size[i]) // stride[i] + 1 for i, length in enumerate(image)]
    results = maxima((len(x), *windows, x.shape[3]))
    y, cells = _call((x,), x.shape, (size, stride, windows), results)
    return y, cells


def _backward(
    image: Pair, size: Pair, stride: Pair, cells: jax.Array, dy: jax.Array
) -> tuple[jax.Array]:
    return (errors(dy, cells, image, size, stride),)


_max_pool.defvjp(_forward, _backward)


def errors(dy: jax.Array, cells: jax.Array, image: Pair, size: Pair, stride: Pair) -> jax.Array:
    """Gradient of the images, (n, *image, c).

    Args:
      dy: errors of the maxima, (n, oh, ow, c).
      cells: numbers of the largest cells, with the same shape.
      image: height and width.
      size: height and width of a window.
      stride: vertical and horizontal stride.
    """
    shape = len(dy), *image, dy.shape[3]
    windows = size, stride, dy.shape[1:3]
    return _call((dy, cells), shape, windows, (jax.ShapeDtypeStruct(shape, jnp.float32),))[0]


def _call(
    operands: Sequence[jax.Array],
    shape: Sequence[int],
    windows: Sequence[Sequence[int]],
    results: Sequence[jax.ShapeDtypeStruct],
) -> Sequence[jax.Array]:
    registered("pool.c", _TARGET)
    sizes = np.array([len(operands) - 1, *shape, *sum(map(tuple, windows), ())], np.int64)
    call: Any = jax.ffi.ffi_call(_TARGET, results, vmap_method="sequential")
    computed: Sequence[jax.Array] = call(*operands, sizes=sizes)
    return computed
