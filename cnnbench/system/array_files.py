"""Files of named arrays: safetensors with a SHA-256 of the file in its metadata."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cnnbench.system.arrays import NamedArrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DIGITS = 64  # of a SHA-256
_BLANK = b"0" * _DIGITS  # placeholder for the digest while hashing
# A key in the JSON header; unambiguous, because quotes in names and values are escaped.
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_TYPES = {
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    "BOOL": "bool",
    "C64": "complex64",
}


class DamagedFileError(Exception):
    """The content was not written by `encode`, or is damaged; the message has the reason."""


def encode(arrays: NamedArrays, metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """Encodes arrays as the content of a file, in chunks.

    Args:
      arrays: arrays of NumPy dtypes, or bfloat16.
      metadata: strings to store with them, under any key except ``sha256``.
    """
    import numpy as np
    from safetensors.numpy import save

    # Safetensors ignores strides.
    dense = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    content = save(dense, {**metadata, "sha256": _BLANK.decode()})
    start = content.index(b'"sha256":"' + _BLANK) + len(b'"sha256":"')
    digest = hashlib.sha256(content).hexdigest().encode()
    return [content[:start], digest, memoryview(content)[start + _DIGITS :]]


def decode(content: bytes) -> "tuple[dict[str, NDArray[Any]], dict[str, str]]":
    """Verifies the SHA-256 of a file, and decodes its arrays and metadata.

    Raises:
      DamagedFileError: the content was not written by `encode`, or is damaged.
    """
    import numpy as np
    from safetensors import SafetensorError, deserialize

    end = 8 + int.from_bytes(content[:8], "little")  # of the header, if there is one
    if (found := _DIGEST.search(content, 8, min(end, len(content)))) is None:
        raise DamagedFileError("the header is damaged")
    _verify(content, found)
    try:
        arrays = {
            name: np.frombuffer(spec["data"], _dtype(spec["dtype"])).reshape(spec["shape"])
            for name, spec in deserialize(content)  # type: ignore[no-untyped-call]
        }
        return arrays, dict(json.loads(content[8:end])["__metadata__"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedFileError("the header is damaged") from error


def _verify(content: bytes, found: "re.Match[bytes]") -> None:
    view = memoryview(content)
    digest = hashlib.sha256(view[: found.start(1)])
    digest.update(_BLANK)
    digest.update(view[found.end(1) :])
    if digest.hexdigest().encode() != found[1]:
        raise DamagedFileError("the SHA-256 does not match")


def _dtype(name: str) -> Any:
    if name == "BF16":
        from jax.numpy import bfloat16  # NumPy has none

        return bfloat16
    return _TYPES[name]
