"""The matrices of Winograd's convolution, those of Toom and Cook, from exact rationals."""

import functools
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

_POINTS = tuple(map(Fraction, ("0", "1", "-1", "2", "-2", "1/2", "-1/2")))  # and infinity

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
