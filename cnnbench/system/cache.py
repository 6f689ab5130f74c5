"""Decoded arrays kept on disk, so that a dataset is decoded once.

A file is one line of JSON (format, key, source, names, types and shapes), the arrays'
bytes one after the other, and the SHA-256 of all before it as 64 hex digits. It
is written beside its name and moved there when complete, so a reader sees a whole
file or none, and of two writers at once the last one wins. The key says what the
arrays were made from; a file that was renamed has another than its reader asks for.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cnnbench.system.arrays import NamedArrays
from cnnbench.system.files import at_home, write_atomic

# 1: the first. 2: with a key and the files that the arrays were decoded from.
FORMAT = "cnnbench arrays 2"
OLDER = ("cnnbench arrays 1",)


_DTYPES = ("uint8", "int32")
_MAX_HEADER_BYTES = 65_536
_DIGEST_BYTES = 64


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """What a cache file holds.

    Args:
      arrays: the arrays by name, of type uint8 or int32.
      source: one line on where they came from.
      key: identifies what they were made from; empty if it may not be kept.
      files: by role, every SHA-256 that a file may have for these arrays to be its content;
        empty where the key identifies the content.
    """

    arrays: NamedArrays
    source: str
    key: str = ""
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)


class _OutdatedError(Exception):
    """A file is in an older format."""


class _CorruptError(Exception):
    """The file is not what was written."""


def cache_dir() -> Path:
    """``$CNNBENCH_CACHE_DIR``, or ``cnnbench`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    A relative ``$XDG_CACHE_HOME`` is ignored, as the XDG Base Directory Specification asks.
    """
    if own := os.environ.get("CNNBENCH_CACHE_DIR"):
        return at_home(Path(own))
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (shared if shared.is_absolute() else at_home(Path("~/.cache"))) / "cnnbench"


def write_entry(path: Path, entry: CacheEntry) -> None:
    """Write a cache file whole, or not at all.

    Raises:
      OSError: the folder cannot be written or the disk is full.
    """
    specs = [[name, str(array.dtype), array.shape] for name, array in entry.arrays.items()]
    made_from = {"key": entry.key, "source": entry.source, "files": entry.files}
    line = json.dumps({"format": FORMAT, **made_from, "arrays": specs}).encode() + b"\n"
    parts: list[bytes | memoryview] = [line, *map(_flat, entry.arrays.values())]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, *parts, digest.hexdigest().encode())


def read_entry(path: Path, key: str, notify: Callable[[str], None]) -> CacheEntry | None:
    """Read a cache file, verified; None where there is none that can be used.

    A file that is not what was written, or was written for another key, is removed, and
    `notify` says so. One in an older format is replaced without a word.
    """
    try:
        with path.open("rb") as file:
            return _read(file, key)
    except (FileNotFoundError, _OutdatedError):
        return None
    except (OSError, _CorruptError) as error:
        notify(f"{path}: {error}; the cache file is not used and will be made again.")
        # Whoever cannot remove it can still go on without it.
        with contextlib.suppress(OSError):
            path.unlink()
        return None


def _read(file: BinaryIO, key: str) -> CacheEntry:
    line = file.readline(_MAX_HEADER_BYTES)
    header, specs = _parse_header(line)
    if header.key != key:
        raise _CorruptError(f"it holds {header.key!r}, not {key!r}")
    expected = len(line) + sum(_num_bytes(*spec[1:]) for spec in specs) + _DIGEST_BYTES
    # Before anything of the size that the header claims is allocated.
    if os.fstat(file.fileno()).st_size != expected:
        raise _CorruptError("the file has been cut or added to")
    digest, arrays = hashlib.sha256(line), {}
    for name, dtype, shape in specs:
        arrays[name] = np.empty(shape, dtype)
        file.readinto(_flat(arrays[name]))  # type: ignore[attr-defined]
        digest.update(_flat(arrays[name]))
    if file.read() != digest.hexdigest().encode():
        raise _CorruptError("the SHA-256 does not match")
    return replace(header, arrays=arrays)


def _parse_header(line: bytes) -> tuple[CacheEntry, list[tuple[str, str, tuple[int, ...]]]]:
    """The entry without its arrays, and their names, types and shapes."""
    try:
        header = json.loads(line)
        if header["format"] in OLDER:
            raise _OutdatedError
        if header["format"] != FORMAT:
            raise _CorruptError(f"the format is not '{FORMAT}'")
        specs = [(str(name), str(dtype), tuple(shape)) for name, dtype, shape in header["arrays"]]
        if not all(_is_sane(dtype, shape) for _, dtype, shape in specs):
            raise _CorruptError("the header is damaged")
        files = {str(role): tuple(map(str, sums)) for role, sums in header["files"].items()}
        return CacheEntry({}, str(header["source"]), str(header["key"]), files), specs
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _CorruptError("the header is damaged") from error


def _is_sane(dtype: str, shape: tuple[object, ...]) -> bool:
    return dtype in _DTYPES and all(isinstance(size, int) and size >= 0 for size in shape)


def _num_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    size = np.dtype(dtype).itemsize
    for length in shape:
        size *= length
    return size


def _flat(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
