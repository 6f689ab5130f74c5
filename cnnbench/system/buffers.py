"""Arrays in memory pages of their own."""

import math
import mmap
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_PRIVATE = (
    {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
)  # not on Windows


def mapped(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Zeros in pages of their own, which take memory once they are written.

    The pages are returned to the system with the array, whatever malloc keeps. The array is
    aligned, so JAX does not copy it to devices that are cores of the CPU.

    >>> mapped((2, 3), np.uint8)
    array([[0, 0, 0],
           [0, 0, 0]], dtype=uint8)
    """
    kind = np.dtype(dtype)
    pages = mmap.mmap(-1, max(1, math.prod(shape) * kind.itemsize), **_PRIVATE)
    return np.frombuffer(pages, kind, math.prod(shape)).reshape(shape)
