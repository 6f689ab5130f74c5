"""Reads arrays of ``.npz`` and ``.npy`` files, of which nothing is ever unpickled."""

import math
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np

from cnnbench.data.catalog import CLASS_NAMES, ROLES
from cnnbench.data.own.roles import in_split, recognized, split_of
from cnnbench.data.own.stored import MOST_BYTES, Raw, described, listed, no_such, unreadable
from cnnbench.errors import DataError
from cnnbench.formatting import clean

_BROKEN_ZIP = (  # raised by zipfile for invalid or encrypted files
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    UnicodeDecodeError,
)


def read_npz(path: Path, keys: Mapping[str, str], role: str) -> dict[str, Raw]:
    """Arrays of an ``.npz`` file by role."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                info.filename.removesuffix(".npy"): info
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
            chosen = _choose(path, tuple(members), keys, role)
            return {
                each: _member(archive, members[name], f"{path}: {clean(name)}")
                for each, name in chosen.items()
            }
    except (*_BROKEN_ZIP, OSError) as error:
        raise unreadable(path, ".npz", error) from error


def _choose(
    path: Path, names: Sequence[str], keys: Mapping[str, str], split: str
) -> dict[str, str]:
    """Name of the array for each role, as the user says or recognized; of `split`, if not empty."""
    if not names:
        raise DataError(f"{path}: has no arrays; save it with np.savez")
    own = {in_split(key, split or "train"): (key, name) for key, name in keys.items()}
    chosen = {}
    for role, (key, name) in own.items():
        if split in {"", split_of(role)} or role == CLASS_NAMES:
            if name not in names:
                raise no_such(path, "array", name, key, names)
            chosen[role] = name
    taken = set(chosen.values())
    for name in names:
        role = recognized(name, split)
        if not role or role in own or name in taken:
            continue
        if role in chosen:
            raise DataError(
                f"{path}: {chosen[role]} and {name} both look like {role}; choose one with "
                f"dataset.keys: {{{role}: {name}}}"
            )
        chosen[role] = name
    if not any(role in ROLES for role in chosen):
        raise DataError(
            f"{path}: no array has a name like x_train or train_images, only "
            f"{listed(names)}; set dataset.keys: {{train_images: NAME, train_labels: NAME}}"
        )
    return chosen


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> Raw:
    return _read_array(lambda: archive.open(info), info.file_size, where)


def read_npy(path: Path) -> Raw:
    """The array of an ``.npy`` file."""
    try:
        return _read_array(lambda: path.open("rb"), path.stat().st_size, str(path))
    except OSError as error:
        raise unreadable(path, ".npy", error) from error


def _read_array(open_: Callable[[], IO[bytes]], size: int, where: str) -> Raw:
    """Reads an array in NumPy's format, after its header shows that this is safe.

    Args:
      open_: opens the array.
      size: number of bytes, header included.
      where: file and array, for errors.
    """
    try:
        with open_() as stream:
            shape, dtype = _header(stream, where)
            _require_safe(shape, dtype, size - stream.tell(), where)
        with open_() as stream:
            return Raw(np.lib.format.read_array(stream, allow_pickle=False), where)
    except (ValueError, EOFError, TokenError, SyntaxError) as error:  # headers are Python literals
        raise DataError(f"{where}: is damaged or not in NumPy's format; save it again") from error


def _header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    match np.lib.format.read_magic(stream):
        case (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        case (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        case _:  # used for names of fields only
            raise DataError(f"{where}: has named fields; save each field as a separate array")
    return shape, dtype


def _require_safe(shape: tuple[int, ...], dtype: np.dtype[Any], available: int, where: str) -> None:
    if dtype.hasobject:
        raise DataError(
            f"{where}: contains pickled Python objects, which are never loaded; save "
            "np.stack(x) for images of the same size, or x.astype(str) for labels"
        )
    size = math.prod(shape) * dtype.itemsize
    if size > MOST_BYTES:
        raise DataError(
            f"{where}: needs {size / 2**30:.1f} GiB of memory, more than the "
            f"{MOST_BYTES >> 30} GiB allowed; save it as uint8, or use fewer or smaller images"
        )
    if size > available:
        raise DataError(
            f"{where}: is damaged: {available:,} bytes are too few for {described(shape, dtype)}; "
            "save it again"
        )
