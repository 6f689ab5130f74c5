"""Predictions as safetensors files: how a trained seed did on each image.

Files have an array per split and metric, such as `test_accuracy`: float32, or packed bits for a
metric that is 0 or 1. The number of images of a split is in the metadata.
"""

import math
from typing import TYPE_CHECKING, Any

from cnnbench.errors import StoreError
from cnnbench.system.array_files import DamagedFileError, decode, encode
from cnnbench.system.arrays import NamedArrays

if TYPE_CHECKING:
    from numpy.typing import NDArray


def encode_predictions(predictions: NamedArrays) -> list[bytes | memoryview]:
    """Encodes the results for each image, in chunks.

    Args:
      predictions: booleans or float32, and integer labels, (n,) each, by names such as
        `test_accuracy`.
    """
    import numpy as np

    packed = {
        name: np.packbits(each) if each.dtype == bool else _small(each)
        for name, each in predictions.items()
    }
    sizes = {_split(name): str(len(each)) for name, each in predictions.items()}
    bits = [name for name, each in predictions.items() if each.dtype == bool]
    return encode(packed, {**sizes, "bits": " ".join(bits)})


def decode_predictions(content: bytes, where: str) -> "dict[str, NDArray[Any]]":
    """Decodes the results for each image.

    Args:
      content: content of the file.
      where: name of the file, for messages.

    Returns:
      Arrays by names such as `test_accuracy`: booleans, float32, or labels, (n,) each.

    Raises:
      StoreError: the content is damaged.
    """
    try:
        arrays, metadata = decode(content)
        bits = metadata["bits"].split()
        return {
            name: _unpacked(each, int(metadata[_split(name)]), packed=name in bits)
            for name, each in arrays.items()
        }
    except (DamagedFileError, KeyError, ValueError) as error:
        reason = error if isinstance(error, DamagedFileError) else "the header is damaged"
        raise StoreError(
            f"{where}: {reason}; restore the file from a copy, or remove it: verdicts then do not"
            " account for the images."
        ) from None


def agrees(values: "NDArray[Any]", mean: float) -> bool:
    """True if a metric is the mean of its values for each image.

    That of booleans is exact. A sum of float32 values depends on their order.

    Args:
      values: (n,).
      mean: the metric.

    >>> import numpy as np
    >>> agrees(np.array([True, False]), 0.5), agrees(np.float32([0.1, 0.3]), 0.2)
    (True, True)
    """
    found = float(values.mean(dtype=float)) if len(values) else math.nan
    if values.dtype == bool:
        return found == mean
    return math.isclose(found, mean, rel_tol=1e-4, abs_tol=1e-6) or not math.isfinite(mean)


def _split(name: str) -> str:
    return name.partition("_")[0]


def _small(values: "NDArray[Any]") -> "NDArray[Any]":
    """Labels in one byte if they fit; other values unchanged."""
    import numpy as np

    if values.dtype.kind not in "iu" or values.max(initial=0) > np.iinfo(np.uint8).max:
        return values
    return values.astype(np.uint8)


def _unpacked(values: "NDArray[Any]", size: int, *, packed: bool) -> "NDArray[Any]":
    import numpy as np

    if packed:
        if len(values) != -(-size // 8):
            raise ValueError(size)
        return np.unpackbits(values, count=size).astype(bool)
    if values.shape != (size,):
        raise ValueError(size)
    return values
