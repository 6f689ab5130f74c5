"""Types of arrays and sizes that packages share. NumPy is not imported for them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Pixels = NDArray[np.uint8]
else:  # `--help` and `show` take no time for NumPy
    Array = Pixels = Any

NamedArrays = Mapping[str, Array]
LayerWeights = Mapping[str, Mapping[str, Array]]  # by layer and parameter, such as `kernel`
Pair = tuple[int, int]  # rows and columns
