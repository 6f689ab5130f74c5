"""Length-prefixed pickled values on a pipe."""

import os
import pickle
import struct
from typing import Any

_LENGTH = struct.Struct("<Q")


def send(pipe: int, value: Any) -> None:
    """Writes a value.

    Args:
      pipe: a file descriptor.
      value: a picklable value.

    Raises:
      BrokenPipeError: the reader is gone.
    """
    content = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    for part in (_LENGTH.pack(len(content)), content):
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(pipe, rest) :]


def receive(pipe: int) -> bytes | None:
    """Reads a pickled value; None at the end of the pipe, even within a value."""
    head = _read(pipe, _LENGTH.size)
    return None if head is None else _read(pipe, _LENGTH.unpack(head)[0])


def _read(pipe: int, size: int) -> bytes | None:
    content = bytearray()
    while len(content) < size:
        part = os.read(pipe, min(size - len(content), 1 << 20))
        if not part:
            return None
        content += part
    return bytes(content)
