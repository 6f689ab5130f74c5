"""Pooling and upscaling for CPUs, on images (h, w, n, c).

Uses slices instead of `reduce_window`, whose gradient by XLA on a CPU takes several times as long
as the pooling itself.
"""

import functools
import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from cnnbench.nn.ops.layout import fold_channels, materialized, unfold_channels
from cnnbench.system.arrays import Pair

MANY_CELLS = 36  # per window

PooledAndPlaces = tuple[jax.Array, jax.Array]


def max_pool(x: jax.Array, size: Pair, stride: Pair) -> jax.Array:
    """Maximum over windows; in ties, the first one gets the gradient.

    Args:
      x: images, (h, w, n, c).
      size: height and width of a window.
      stride: vertical and horizontal stride.

    Returns:
      (oh, ow, n, c) with oh = (h - size) // stride + 1, and ow by the same formula: a border of
      incomplete windows is dropped.
    """
    y = _max_pool(fold_channels(x), size, stride, (x.shape[0], x.shape[1]))
    return unfold_channels(y, x.shape[2:])


def avg_pool(x: jax.Array, size: Pair, stride: Pair) -> jax.Array:
    """Mean over windows, with shapes as in `max_pool`."""
    mean = _tiled_mean if size == stride else _mean
    return unfold_channels(
        mean(fold_channels(x), size, stride, (x.shape[0], x.shape[1])), x.shape[2:]
    )


def upscale(x: jax.Array, size: Pair) -> jax.Array:
    """Repeats each row and column: (h, w, n, c) to (h * size, w * size, n, c)."""
    return unfold_channels(_repeated(fold_channels(x), size), x.shape[2:])


def _repeated(x: jax.Array, size: Pair) -> jax.Array:
    h, w, c = x.shape
    tiled = jnp.broadcast_to(x[:, None, :, None], (h, size[0], w, size[1], c))
    return tiled.reshape(h * size[0], w * size[1], c)


def _views(x: jax.Array, size: Pair, stride: Pair) -> list[jax.Array]:
    """Values of all windows by position in the window, (oh, ow, n, c) each."""
    rows, columns = (_last(x.shape[i], size[i], stride[i]) for i in (0, 1))
    return [
        x[i : i + rows : stride[0], j : j + columns : stride[1]]
        for i in range(size[0])
        for j in range(size[1])
    ]


def _last(length: int, size: int, stride: int) -> int:
    """End of the slice with the first position of every window."""
    return (length - size) // stride * stride + 1


def _mean(x: jax.Array, size: Pair, stride: Pair, _image: Pair) -> jax.Array:
    return functools.reduce(jnp.add, _views(x, size, stride)) / math.prod(size)


# Without overlap, the gradient is distributed to all cells of the window.
_tiled_mean = jax.custom_vjp(_mean, nondiff_argnums=(1, 2, 3))


def _mean_forward(x: jax.Array, size: Pair, stride: Pair, image: Pair) -> tuple[jax.Array, None]:
    return _mean(x, size, stride, image), None


def _mean_backward(
    size: Pair, _stride: Pair, image: Pair, _saved: None, dy: jax.Array
) -> tuple[jax.Array]:
    return (_bordered(_repeated(dy / math.prod(size), size), image),)


_tiled_mean.defvjp(_mean_forward, _mean_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: jax.Array, size: Pair, stride: Pair, _image: Pair) -> jax.Array:
    return _largest_and_places(x, size, stride)[0]


def _max_pool_forward(x: jax.Array, size: Pair, stride: Pair, _image: Pair) -> PooledAndPlaces:
    largest, places = _largest_and_places(x, size, stride)
    # XLA would repeat the comparisons in the gradient, and miscompile them after a smooth
    # activation (docs/explanation/performance.md, "A buffer in two shapes").
    return largest, materialized(places)


def _largest_and_places(x: jax.Array, size: Pair, stride: Pair) -> PooledAndPlaces:
    """Maximum of each window, and its position, row by row."""
    kind = jnp.int8 if math.prod(size) <= 127 else jnp.int16
    places = jnp.zeros(x.shape, kind)
    if math.prod(size) <= MANY_CELLS:
        return _largest(x, places, size, stride)
    # XLA takes minutes to compile the maximum of a hundred slices, so rows are pooled first.
    line = _largest(x, places, (1, size[1]), (1, stride[1]))
    largest, places = lax.optimization_barrier(line)
    return _largest(largest, places, (size[0], 1), (stride[0], 1), size[1])


def _largest(
    x: jax.Array, places: jax.Array, size: Pair, stride: Pair, step: int = 1
) -> PooledAndPlaces:
    """Maximum of each window, and its position: that in `places` plus `step` per cell."""
    found = zip(_views(x, size, stride), _views(places, size, stride), strict=True)
    largest, winner = next(found)
    for cell, (view, place) in enumerate(found, start=1):
        winner = jnp.where(view > largest, place + places.dtype.type(cell * step), winner)
        largest = jnp.maximum(largest, view)
    return largest, winner


def _max_pool_backward(
    size: Pair, stride: Pair, image: Pair, winner: jax.Array, dy: jax.Array
) -> tuple[jax.Array]:
    if size == stride:
        return (_tiled(winner, dy, size, image),)
    places = [(i, j) for i in range(size[0]) for j in range(size[1])]
    shares = [jnp.where(winner == k, dy, 0) for k in range(len(places))]
    placed = [_dilate(s, stride, at, image) for s, at in zip(shares, places, strict=True)]
    return (functools.reduce(jnp.add, placed),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _tiled(winner: jax.Array, dy: jax.Array, size: Pair, image: Pair) -> jax.Array:
    """Gradient of non-overlapping windows: each cell gets the error if it was the maximum.

    Stacked by position, because XLA does not vectorize a comparison of broadcast arrays.
    """
    rows, columns = dy.shape[:2]

    if math.prod(size) > MANY_CELLS:
        places = jnp.arange(math.prod(size)).reshape(size[0], 1, size[1], 1)
        cells = jnp.where(winner[:, None, :, None] == places, dy[:, None, :, None], 0)
        return _bordered(cells.reshape(rows * size[0], columns * size[1], -1), image)

    def line(i: int) -> jax.Array:
        cells = [jnp.where(winner == i * size[1] + j, dy, 0) for j in range(size[1])]
        return jnp.stack(cells, axis=2).reshape(rows, columns * size[1], *dy.shape[2:])

    lines = jnp.stack([line(i) for i in range(size[0])], axis=1)
    cells = lines.reshape(rows * size[0], columns * size[1], *dy.shape[2:])
    return _bordered(cells, image)


def _bordered(cells: jax.Array, image: Pair) -> jax.Array:
    """Pads with zeros for rows and columns of incomplete windows."""
    border = [(0, image[i] - cells.shape[i]) for i in (0, 1)]
    return jnp.pad(cells, (*border, (0, 0)))


def _dilate(y: jax.Array, stride: Pair, low: Pair, size: Pair) -> jax.Array:
    """Dilates `y` with stride - 1 zeros between entries, and pads it to `size`."""
    spread = [(y.shape[i] - 1) * stride[i] + 1 for i in (0, 1)]
    edges = [(low[i], size[i] - low[i] - spread[i], stride[i] - 1) for i in (0, 1)]
    return lax.pad(y, jnp.zeros((), y.dtype), [*edges, (0, 0, 0)])
