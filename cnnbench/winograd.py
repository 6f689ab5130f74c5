"""Winograd's convolution as matrix products (Winograd 1980; Lavin & Gray 2015).

A correlation of one axis, m outputs from m + r - 1 inputs with r taps, is
``A^T [(G k) * (B^T x)]``: as many products as inputs, instead of m * r. In two
dimensions the saving is squared: 64 products instead of 400 for 4 x 4 outputs
of a 5 x 5 kernel. The matrices are those of Toom and Cook, made from exact
rationals; more points mean larger entries and less exactness, so tiles of
more than `LARGEST_TILE` inputs are not used.
"""

import functools
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LARGEST_TILE = 8  # inputs along an axis
_POINTS = tuple(map(Fraction, ("0", "1", "-1", "2", "-2", "1/2", "-1/2")))  # and infinity

Pair = tuple[int, int]
_Rows = list[list[Fraction]]


class Matrices(NamedTuple):
    """The maps of one axis: into products (inputs, kernel) and out of them.

    Args:
      inputs: B^T, (t, t).
      kernel: G, (t, r).
      outputs: A^T, (m, t).
    """

    inputs: np.ndarray[Any, Any]
    kernel: np.ndarray[Any, Any]
    outputs: np.ndarray[Any, Any]


@functools.cache
def matrices(outputs: int, taps: int) -> Matrices:
    """The maps of m outputs of a kernel of r taps; t = m + r - 1.

    A polynomial product is known from its values at t points; the correlation
    is its transpose. Each row of B^T is balanced with its row of G by a power
    of two, which rounds nothing.

    >>> maps = matrices(2, 3)
    >>> x, k = np.array([1.0, 2, 3, 4]), np.array([1.0, 0, -1])
    >>> bool(np.allclose(maps.outputs @ ((maps.kernel @ k) * (maps.inputs @ x)), [-2, -2]))
    True
    """
    tile = outputs + taps - 1
    kernel = _values(tile, taps)
    inputs = np.array(_inverse(_values(tile, tile)), dtype=float).T
    kernels = np.array(kernel, dtype=float)
    norms = np.linalg.norm(inputs, axis=1) / np.linalg.norm(kernels, axis=1)
    scale = np.exp2(np.round(np.log2(norms) / 2))[:, None]
    ends = np.array(_values(tile, outputs), dtype=float).T
    return Matrices(inputs / scale, kernels * scale, ends)


def _values(points: int, coefficients: int) -> _Rows:
    """What turns coefficients into the values at all points; infinity is the leading one."""
    finite = [[p**j for j in range(coefficients)] for p in _POINTS[: points - 1]]
    return [*finite, [Fraction(0)] * (coefficients - 1) + [Fraction(1)]]


def _inverse(matrix: _Rows) -> _Rows:
    """Gauss and Jordan, exactly."""
    size = len(matrix)
    rows = [[*row, *(Fraction(i == j) for j in range(size))] for i, row in enumerate(matrix)]
    for column in range(size):
        pivot = next(i for i in range(column, size) if rows[i][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        head = [value / rows[column][column] for value in rows[column]]
        rows = [[a - row[column] * b for a, b in zip(row, head, strict=True)] for row in rows]
        rows[column] = head
    return [row[size:] for row in rows]


@dataclass(frozen=True, slots=True)
class Winograd:
    """A valid correlation of stride one through products of tiles.

    Images are (h, w, n, c). A lifted image is (tile, tile, tiles * n, c): the
    products are one batched matrix product over its first two axes.

    Args:
      kernel: height and width.
      out: height and width of the result.
      tile: outputs of a tile, by rows and columns.
    """

    kernel: Pair
    out: Pair
    tile: Pair

    @property
    def _num(self) -> Pair:
        """Tiles by rows and columns."""
        return math.ceil(self.out[0] / self.tile[0]), math.ceil(self.out[1] / self.tile[1])

    @property
    def _maps(self) -> tuple[Matrices, Matrices]:
        return matrices(self.tile[0], self.kernel[0]), matrices(self.tile[1], self.kernel[1])

    @property
    def _inputs(self) -> Pair:
        """Inputs of a tile."""
        return self.tile[0] + self.kernel[0] - 1, self.tile[1] + self.kernel[1] - 1

    def prepare(self, kernel: jax.Array) -> jax.Array:
        """G k G^T: (kh, kw, in, out) to (th, tw, in, out)."""
        rows, columns = self._maps
        return _both(rows.kernel, columns.kernel, kernel)

    def lift(self, x: jax.Array) -> jax.Array:
        """B^T x B of every tile: (h, w, n, c) to (th, tw, tiles * n, c)."""
        (rows, columns), (down, across), (th, tw) = self._maps, self._num, self._inputs
        x = _end(
            x,
            (down * self.tile[0] + self.kernel[0] - 1, across * self.tile[1] + self.kernel[1] - 1),
        )
        starts = range(0, down * self.tile[0], self.tile[0])
        tall = jnp.concatenate([x[i : i + th] for i in starts], axis=2)
        starts = range(0, across * self.tile[1], self.tile[1])
        tiles = jnp.concatenate([tall[:, j : j + tw] for j in starts], axis=2)
        return _both(rows.inputs, columns.inputs, tiles)

    def lift_t(self, lifted: jax.Array) -> jax.Array:
        """The transpose of `lift`: tiles that overlap are added."""
        (rows, columns), (down, across), (th, tw) = self._maps, self._num, self._inputs
        tiles = _both(rows.inputs.T, columns.inputs.T, lifted)
        tiles = tiles.reshape(th, tw, across, -1, tiles.shape[-1])
        tall = _overlap([tiles[:, :, j] for j in range(across)], self.tile[1], axis=1)
        tall = tall.reshape(*tall.shape[:2], down, -1, tall.shape[-1])
        whole = _overlap([tall[:, :, i] for i in range(down)], self.tile[0], axis=0)
        return _end(whole, (self.out[0] + self.kernel[0] - 1, self.out[1] + self.kernel[1] - 1))

    def lower(self, products: jax.Array) -> jax.Array:
        """A^T z A of every tile: (th, tw, tiles * n, f) to (h, w, n, f)."""
        (rows, columns), (down, across) = self._maps, self._num
        tiles = _both(rows.outputs, columns.outputs, products)
        tall = jnp.concatenate(jnp.split(tiles, across, axis=2), axis=1)
        return _end(jnp.concatenate(jnp.split(tall, down, axis=2), axis=0), self.out)

    def lower_t(self, y: jax.Array) -> jax.Array:
        """The transpose of `lower`."""
        (rows, columns), (down, across), (mh, mw) = self._maps, self._num, self.tile
        y = _end(y, (down * mh, across * mw))
        tall = jnp.concatenate(jnp.split(y, down, axis=0), axis=2)
        tiles = jnp.concatenate(jnp.split(tall, across, axis=1), axis=2)
        return _both(rows.outputs.T, columns.outputs.T, tiles)

    def forward(self, lifted: jax.Array, kernel: jax.Array) -> jax.Array:
        """The products: (th, tw, rows, in) and (th, tw, in, out) to (th, tw, rows, out)."""
        return jnp.einsum("abrc,abcf->abrf", lifted, kernel)

    def backward(self, products: jax.Array, kernel: jax.Array) -> jax.Array:
        """`forward` transposed in its first argument."""
        return jnp.einsum("abrf,abcf->abrc", products, kernel)

    def gradient(self, lifted: jax.Array, products: jax.Array) -> jax.Array:
        """`forward` transposed in its second argument."""
        return jnp.einsum("abrc,abrf->abcf", lifted, products)


def _both(rows: np.ndarray[Any, Any], columns: np.ndarray[Any, Any], x: jax.Array) -> jax.Array:
    """Two small matrices on the first two axes: (a, h) and (b, w), (h, w, ...) to (a, b, ...).

    The first as one long matrix product. The second as sums of slices, which for it
    are twice as fast: a product would be a batch of short ones, and copies.
    """
    tall = jnp.asarray(rows, x.dtype) @ x.reshape(x.shape[0], -1)
    tall = tall.reshape(len(rows), *x.shape[1:])
    return jnp.stack([_weighted(row, tall) for row in columns], axis=1)


def _weighted(weights: np.ndarray[Any, Any], x: jax.Array) -> jax.Array:
    """The sum of slices of the second axis times their weights."""
    terms = [float(weight) * x[:, i] for i, weight in enumerate(weights) if weight]
    return functools.reduce(jnp.add, terms)


def _end(x: jax.Array, size: Pair) -> jax.Array:
    """Zeros added to the ends of rows and columns, or the ends cut off, up to `size`."""
    edges = [(0, size[i] - x.shape[i], 0) for i in (0, 1)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [*edges, (0, 0, 0), (0, 0, 0)])


def _overlap(parts: list[jax.Array], step: int, axis: int) -> jax.Array:
    """The sum of the parts, each `step` further along the axis."""
    total = (len(parts) - 1) * step
    placed = []
    for i, part in enumerate(parts):
        edges = [(0, 0)] * part.ndim
        edges[axis] = (i * step, total - i * step)
        placed.append(jnp.pad(part, edges))
    return functools.reduce(jnp.add, placed)
