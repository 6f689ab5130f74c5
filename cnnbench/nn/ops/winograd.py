"""Winograd convolution as matrix products (Winograd 1980; Lavin & Gray 2015).

A one-dimensional correlation with m outputs, m + r - 1 inputs and r taps is
``A^T [(G k) * (B^T x)]``: as many products as inputs, instead of m * r. In two dimensions, the
saving is squared: 64 products instead of 400 for 4x4 outputs of a 5x5 kernel. The matrices are
those of the Toom-Cook algorithm, computed with exact rationals.
"""

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnbench.nn.ops.layout import fold_channels, unfold_channels
from cnnbench.nn.ops.products import over_rows
from cnnbench.system.arrays import Array, Pair

# More points mean larger matrix entries and larger rounding errors.
LARGEST_TILE = 8  # inputs along an axis
BLOCKS = (3, 4)  # taps per block of a large kernel; 2 is never the fastest

_POINTS = tuple(map(Fraction, ("0", "1", "-1", "2", "-2", "1/2", "-1/2")))  # and infinity

_Rows = list[list[Fraction]]


class Matrices(NamedTuple):
    """Transforms along one axis: of inputs and kernel, and of their products.

    Args:
      inputs: B^T, (t, t).
      kernel: G, (t, r).
      outputs: A^T, (m, t).
    """

    inputs: np.ndarray[Any, Any]
    kernel: np.ndarray[Any, Any]
    outputs: np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Winograd:
    """A valid correlation of stride one, by products of tiles.

    A large kernel is split into blocks with as many taps as a tile has outputs. The inputs of a
    block are then those of the next tile, so inputs are transformed once for all blocks, and
    products are summed before the output transform.

    Images are (h, w, n, c). A transformed image is (points, points, tiles * n, c): the products are
    a single batched matrix product over the first two axes. Blocks are stacked along the input
    channels, or along the output channels if these are fewer.

    Args:
      kernel: height and width.
      out: height and width of the output.
      tile: outputs per tile, by rows and columns.
      taps: taps per block, by rows and columns; equal to `tile` if there are several blocks.
      spread: True if blocks are stacked along the output channels.
    """

    kernel: Pair
    out: Pair
    tile: Pair
    taps: Pair
    spread: bool = False

    @property
    def blocks(self) -> Pair:
        """Blocks of the kernel, by rows and columns."""
        return _count(self.kernel, self.taps)

    @property
    def _num(self) -> Pair:
        """Tiles of outputs by rows and columns."""
        return _count(self.out, self.tile)

    @property
    def _grid(self) -> Pair:
        """Tiles of inputs."""
        return self._num[0] + self.blocks[0] - 1, self._num[1] + self.blocks[1] - 1

    @property
    def _maps(self) -> tuple[Matrices, Matrices]:
        return matrices(self.tile[0], self.taps[0]), matrices(self.tile[1], self.taps[1])

    @property
    def points(self) -> Pair:
        """Inputs per tile, and products per block."""
        return self.tile[0] + self.taps[0] - 1, self.tile[1] + self.taps[1] - 1

    def cost(self, channels: int, filters: int) -> float:
        """Estimated nanoseconds, as `Im2col.cost`, of products, transforms and copies of blocks."""
        num, grid, blocks = map(math.prod, (self._num, self._grid, self.blocks))
        tiles, copies = (grid, 1.1 * grid * filters) if self.spread else (num, 3.5 * num * channels)
        products = 0.06 * tiles * blocks * channels * filters
        transforms = 3 * grid * channels + 1.1 * num * filters
        return math.prod(self.points) * (products + transforms + (blocks > 1) * blocks * copies)

    def prepare(self, kernel: jax.Array) -> jax.Array:
        """Kernel transform G k G^T of every block, (kh, kw, in, out) to (th, tw, in, out)."""
        (rows, columns), (bh, bw), (mh, mw) = self._maps, self.blocks, self.taps
        cut = _end(kernel, (bh * mh, bw * mw)).reshape(bh, mh, bw, mw, *kernel.shape[2:])
        # A single product, whose gradient is a single one, too.
        taps = cut.transpose(1, 3, 0, 2, 4, 5).reshape(mh * mw, -1)
        done = jnp.asarray(np.kron(rows.kernel, columns.kernel), kernel.dtype) @ taps
        done = done.reshape(*self.points, bh, bw, *kernel.shape[2:])
        if not self.spread:
            return done.reshape(*self.points, -1, kernel.shape[3])
        return jnp.moveaxis(done, 4, 2).reshape(*self.points, kernel.shape[2], -1)

    def input_transform(self, x: jax.Array) -> jax.Array:
        """Input transform B^T x B of every tile, (h, w, n, c) to (th, tw, tiles * n, c)."""
        (rows, columns), (down, across), (th, tw) = self._maps, self._grid, self.points
        (mh, mw), (lh, lw) = self.tile, self.taps
        last = (-1, x.shape[-1])
        x = _end(fold_channels(x), (down * mh + lh - 1, across * mw + lw - 1))
        tall = jnp.concatenate([x[i : i + th] for i in range(0, down * mh, mh)], axis=2)
        starts = range(0, across * mw, mw)
        tiles = jnp.concatenate([tall[:, j : j + tw] for j in starts], axis=2)
        transformed = unfold_channels(apply_separable(rows.inputs, columns.inputs, tiles), last)
        return (
            transformed
            if self.spread
            else _joined([self._met(transformed, p) for p in self._places])
        )

    def input_transform_t(self, transformed: jax.Array) -> jax.Array:
        """The transpose of `input_transform`: overlapping tiles are summed."""
        (rows, columns), (down, across), (th, tw) = self._maps, self._grid, self.points
        if not self.spread:
            transformed = _sum(map(self._laid, self._split(transformed), self._places))
        tiles = apply_separable(rows.inputs.T, columns.inputs.T, fold_channels(transformed))
        tiles = tiles.reshape(th, tw, across, -1)
        tall = _overlap([tiles[:, :, j] for j in range(across)], self.tile[1], axis=1)
        tall = tall.reshape(*tall.shape[:2], down, -1)
        whole = _overlap([tall[:, :, i] for i in range(down)], self.tile[0], axis=0)
        whole = _end(whole, (self.out[0] + self.kernel[0] - 1, self.out[1] + self.kernel[1] - 1))
        return unfold_channels(whole, (-1, transformed.shape[-1]))

    def output_transform(self, products: jax.Array) -> jax.Array:
        """A^T z A of every tile: (th, tw, tiles * n, f) to (h, w, n, f)."""
        (rows, columns), (down, across) = self._maps, self._num
        if self.spread:
            products = _sum(map(self._met, self._split(products), self._places))
        tiles = apply_separable(rows.outputs, columns.outputs, fold_channels(products))
        tall = jnp.concatenate(jnp.split(tiles, across, axis=2), axis=1)
        whole = _end(jnp.concatenate(jnp.split(tall, down, axis=2), axis=0), self.out)
        return unfold_channels(whole, (-1, products.shape[-1]))

    def output_transform_t(self, y: jax.Array) -> jax.Array:
        """The transpose of `output_transform`."""
        (rows, columns), (down, across), (mh, mw) = self._maps, self._num, self.tile
        last = (-1, y.shape[-1])
        y = _end(fold_channels(y), (down * mh, across * mw))
        tall = jnp.concatenate(jnp.split(y, down, axis=0), axis=2)
        tiles = jnp.concatenate(jnp.split(tall, across, axis=1), axis=2)
        products = unfold_channels(apply_separable(rows.outputs.T, columns.outputs.T, tiles), last)
        return _joined([self._laid(products, p) for p in self._places]) if self.spread else products

    @property
    def _places(self) -> list[Pair]:
        """Offsets of the blocks in tiles, by rows and columns."""
        return list(itertools.product(range(self.blocks[0]), range(self.blocks[1])))

    def _split(self, x: jax.Array) -> list[jax.Array]:
        """Splits channels by block."""
        return jnp.split(x, len(self._places), axis=-1)

    def _met(self, x: jax.Array, place: Pair) -> jax.Array:
        """Selects the input tiles of a block, one per output tile."""
        if self.blocks == (1, 1):
            return x
        (down, across), (i, j) = self._num, place
        tiles = x.reshape(*x.shape[:2], self._grid[1], self._grid[0], -1, x.shape[-1])
        return tiles[:, :, j : j + across, i : i + down].reshape(*x.shape[:2], -1, x.shape[-1])

    def _laid(self, x: jax.Array, place: Pair) -> jax.Array:
        """The transpose of `_met`."""
        if self.blocks == (1, 1):
            return x
        (bh, bw), (down, across), (i, j) = self.blocks, self._num, place
        tiles = x.reshape(*x.shape[:2], across, down, -1, x.shape[-1])
        edges = [(0, 0), (0, 0), (j, bw - 1 - j), (i, bh - 1 - i), (0, 0), (0, 0)]
        return jnp.pad(tiles, edges).reshape(*x.shape[:2], -1, x.shape[-1])

    def forward(self, transformed: jax.Array, kernel: jax.Array) -> jax.Array:
        """Batched product, (th, tw, rows, in) and (th, tw, in, out) to (th, tw, rows, out)."""
        return jnp.einsum("abrc,abcf->abrf", transformed, kernel)

    def backward(self, products: jax.Array, kernel: jax.Array) -> jax.Array:
        """The transpose of `forward` in its first argument."""
        return jnp.einsum("abrf,abcf->abrc", products, kernel)

    def gradient(self, transformed: jax.Array, products: jax.Array) -> jax.Array:
        """The transpose of `forward` in its second argument."""
        return over_rows(transformed, products)


def tilings(kernel: Pair, out: Pair) -> list[Winograd]:
    """Candidate tilings of image and kernel; none for a 1x1 kernel.

    Args:
      kernel: height and width.
      out: height and width of the output.
    """
    ways = itertools.product(*map(_ways, kernel, out))
    found = []
    for (tile_h, taps_h), (tile_w, taps_w) in ways:
        way = Winograd(kernel, out, (tile_h, tile_w), (taps_h, taps_w))
        found += [way] if way.blocks == (1, 1) else [way, replace(way, spread=True)]
    return [way for way in found if way.points != (1, 1)]


def _ways(taps: int, out: int) -> list[Pair]:
    """Candidate numbers of outputs per tile and taps per block, along one axis."""
    if taps == 1:
        return [(1, 1)]
    # The whole kernel: the smallest tile with the fewest products.
    sizes = range(1, LARGEST_TILE - taps + 2)
    found = sorted(sizes, key=lambda m: (math.ceil(out / m) * (m + taps - 1), m))[:1]
    return [(m, taps) for m in found] + [(m, m) for m in BLOCKS if m < taps]


def apply_separable(rows: Array, columns: Array, x: jax.Array) -> jax.Array:
    """Multiplies the first two axes by matrices: (a, h) and (b, w), (h, w, ...) to (a, b, ...).

    The first one as a single long matrix product, the second one as a batch of products without
    copies. XLA does not recompute their results for each use. Sums of slices run as fast, but a
    deep network takes a quarter longer to compile.
    """
    tall = jnp.asarray(rows, x.dtype) @ x.reshape(x.shape[0], -1)
    tall = tall.reshape(len(rows), x.shape[1], -1)
    batch = jnp.broadcast_to(jnp.asarray(columns, x.dtype), (len(rows), *columns.shape))
    return (batch @ tall).reshape(len(rows), len(columns), *x.shape[2:])


def _count(length: Pair, part: Pair) -> Pair:
    return math.ceil(length[0] / part[0]), math.ceil(length[1] / part[1])


def _sum(parts: Iterable[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, parts)


def _joined(parts: Sequence[jax.Array]) -> jax.Array:
    """Concatenates along the channels."""
    return jnp.concatenate(parts, axis=-1)


def _end(x: jax.Array, size: Pair) -> jax.Array:
    """Pads or crops the ends of rows and columns to `size`."""
    if x.shape[:2] == size:
        return x
    edges = [(0, size[i] - x.shape[i], 0) for i in (0, 1)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [*edges, *[(0, 0, 0)] * (x.ndim - 2)])


def _overlap(parts: list[jax.Array], step: int, axis: int) -> jax.Array:
    """Sum of overlapping parts at multiples of `step` along an axis."""
    total = (len(parts) - 1) * step
    placed = []
    for i, part in enumerate(parts):
        edges = [(0, 0, 0)] * part.ndim
        edges[axis] = (i * step, total - i * step, 0)
        placed.append(jax.lax.pad(part, jnp.zeros((), part.dtype), edges))
    return _sum(placed)


@functools.cache
def matrices(outputs: int, taps: int) -> Matrices:
    """Transform matrices for m outputs of a kernel with r taps; t = m + r - 1.

    A polynomial product is determined by its values at t points; the correlation is its
    transpose. Rows of B^T are balanced with rows of G by a power of two, which is exact.

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
    """Matrix that evaluates a polynomial at all points; at infinity, its leading coefficient."""
    finite = [[p**j for j in range(coefficients)] for p in _POINTS[: points - 1]]
    return [*finite, [Fraction(0)] * (coefficients - 1) + [Fraction(1)]]


def _inverse(matrix: _Rows) -> _Rows:
    """Exact inverse by Gauss-Jordan elimination."""
    size = len(matrix)
    rows = [[*row, *(Fraction(i == j) for j in range(size))] for i, row in enumerate(matrix)]
    for column in range(size):
        pivot = next(i for i in range(column, size) if rows[i][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        head = [value / rows[column][column] for value in rows[column]]
        rows = [[a - row[column] * b for a, b in zip(row, head, strict=True)] for row in rows]
        rows[column] = head
    return [row[size:] for row in rows]
