"""Shared type aliases for arrays and sizes. Does not import NumPy at run time."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Pixels = NDArray[np.uint8]
else:  # `--help` and `show` start faster without NumPy
    Array = Pixels = Any

NamedArrays = Mapping[str, Array]
LayerWeights = Mapping[str, Mapping[str, Array]]  # by layer and parameter name, such as `kernel`
Pair = tuple[int, int]  # rows and columns
