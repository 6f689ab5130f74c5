"""Reads pickles of arrays without calling anything that they name."""

import io
import pickle
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from cnnbench.data.published.downloads import REMEDY
from cnnbench.errors import DataError
from cnnbench.formatting import reason
from cnnbench.system.arrays import Array

_NOT_A_PICKLE = (
    *(pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, LookupError, MemoryError),
    *(TypeError, ValueError),
)


class _Dtype:
    """Stands for a `numpy.dtype` in a pickle."""

    def __init__(self, code: object = "", *_: object) -> None:
        text = code.decode() if isinstance(code, bytes) else code
        if not isinstance(text, str) or not re.fullmatch("[biuf][1248]", text):
            raise pickle.UnpicklingError(f"array of type {text!r}")
        self.dtype: np.dtype[Any] = np.dtype(text)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order: Any = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.dtype = self.dtype.newbyteorder(order)


class PickledArray:
    """Stands for a `numpy.ndarray` in a pickle."""

    def __init__(self, *_: object) -> None:
        self.values: Array = np.zeros(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, is_fortran, content = state
        values = np.frombuffer(content, kind.dtype)
        self.values = values.reshape(shape, order="F" if is_fortran else "C")


class _Encode:
    """Stands for `_codecs.encode`, with which protocol 2 stores bytes."""

    def __new__(cls, text: str, encoding: str) -> Any:
        return text.encode("latin1" if encoding == "latin1" else "utf-8")

    def __setstate__(self, state: object) -> None:  # a pickle could set attributes without it
        raise pickle.UnpicklingError("state of a function")


_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")

_ADMITTED: Mapping[tuple[str, str], Any] = MappingProxyType(
    {
        ("numpy", "ndarray"): PickledArray,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _Encode,
        **{(module, "_reconstruct"): PickledArray for module in _NUMPY},
    }
)


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ADMITTED:
            return _ADMITTED[module, name]
        raise pickle.UnpicklingError(f"refers to {module}.{name}")


def read_pickle(content: bytes, place: str) -> Mapping[str, Any]:
    """Reads a pickled dictionary of arrays, numbers, strings, bytes, lists and dictionaries.

    Nothing that the pickle names is imported or called.

    Args:
      content: content of the file.
      place: file name, for errors.

    Raises:
      DataError: not such a pickle.
    """
    try:
        found = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except _NOT_A_PICKLE as error:
        message = "is not a pickle of only NumPy arrays, strings, lists and dictionaries"
        raise DataError(f"{place}: {message} ({reason(error)}); {REMEDY}") from error
    if not isinstance(found, dict):
        raise DataError(f"{place}: contains a {type(found).__name__}, not a dictionary; {REMEDY}")
    return {_text(key): value for key, value in found.items()}


def _text(value: object) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
