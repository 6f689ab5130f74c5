"""The file of what a seed has learnt: safetensors, arrays by names such as `conv1.kernel`."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cnnbench.errors import StoreError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Weights = Mapping[str, "NDArray[Any]"]


def encode_weights(weights: Weights) -> bytes:
    """The content of a file; equal weights, equal bytes.

    NumPy's own types stay as they are. Others, such as bfloat16, become float32, which
    holds each of their values.
    """
    from safetensors.numpy import save

    return bytes(save({name: _plain(value) for name, value in weights.items()}))


def digest(weights: Weights) -> str:
    """SHA-256 of the file's content.

    >>> import numpy as np
    >>> digest({"a": np.zeros(2)}) == digest({"a": np.zeros(2)}) != digest({"a": np.ones(2)})
    True
    """
    return f"sha256:{hashlib.sha256(encode_weights(weights)).hexdigest()}"


def _plain(value: "NDArray[Any]") -> "NDArray[Any]":
    return value.astype("float32") if value.dtype.kind == "V" else value


def decode_weights(content: bytes, where: str) -> "dict[str, NDArray[Any]]":
    """The weights in a file.

    Args:
      content: of the file.
      where: its name, for messages.

    Raises:
      StoreError: it is no safetensors file, or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(content))
    except SafetensorError as error:
        message = f"{where}: is no whole safetensors file ({error})"
        raise StoreError(f"{message}; run the experiment again.") from None
