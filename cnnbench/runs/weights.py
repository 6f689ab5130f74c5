"""Trained weights as safetensors files: arrays by name, such as `conv1.kernel`."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cnnbench.errors import StoreError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Weights = Mapping[str, "NDArray[Any]"]


def encode_weights(weights: Weights) -> bytes:
    """Encodes weights; equal weights give equal bytes.

    Types of NumPy are kept. Others, such as bfloat16, are converted to float32, which represents
    their values exactly.
    """
    from safetensors.numpy import save

    return bytes(save({name: _plain(value) for name, value in weights.items()}))


def digest(weights: Weights) -> str:
    """Computes the SHA-256 of the encoded weights.

    >>> import numpy as np
    >>> digest({"a": np.zeros(2)}) == digest({"a": np.zeros(2)}) != digest({"a": np.ones(2)})
    True
    """
    return f"sha256:{hashlib.sha256(encode_weights(weights)).hexdigest()}"


def _plain(value: "NDArray[Any]") -> "NDArray[Any]":
    return value.astype("float32") if value.dtype.kind == "V" else value


def decode_weights(content: bytes, where: str) -> "dict[str, NDArray[Any]]":
    """Decodes the weights of a file.

    Args:
      content: content of the file.
      where: name of the file, for messages.

    Raises:
      StoreError: it is not a safetensors file, or it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(content))
    except SafetensorError as error:
        message = f"{where}: not a valid safetensors file ({error})"
        raise StoreError(f"{message}; run the experiment again.") from None
