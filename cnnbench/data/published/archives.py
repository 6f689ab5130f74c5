"""Reads members of archives in memory, which are never extracted."""

import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np

from cnnbench.data.published.downloads import REMEDY
from cnnbench.errors import DataError
from cnnbench.formatting import enumeration, reason
from cnnbench.system.arrays import Array
from cnnbench.system.progress import counted

_HEADERS = 2**20  # bytes of the headers of an archive, at most, and of its padding
DAMAGED = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError)


def read_tar(path: Path, names: Sequence[str], limit: int) -> dict[str, bytes]:
    """Reads members of a gzipped tar archive in memory, without extracting it.

    Args:
      path: the archive.
      names: names of the members.
      limit: maximum total size of all members in bytes.

    Raises:
      DataError: not an archive, a member is missing or too large, or would leave its folder.
    """
    content: dict[str, bytes] = {}
    for name, each in tar_files(path, limit, names.__contains__):
        content[name] = each
        if len(content) == len(set(names)):
            break
    if missing := [name for name in names if name not in content]:
        raise DataError(f"{path}: has no member {enumeration(missing)}; {REMEDY}")
    return content


def tar_files(
    path: Path, limit: int, wanted: Callable[[str], object], *, read: bool = True
) -> Iterator[tuple[str, bytes]]:
    """Name and content of some files of a gzipped tar archive, in its order.

    Args:
      path: the archive.
      limit: maximum total size of all members in bytes.
      wanted: true for the names of the files.
      read: False to skip the content, which is empty then.

    Raises:
      DataError: not an archive, a member is too large, or would leave its folder.
    """
    try:
        with (
            counted("read", path.stat().st_size, "bytes") as count,
            path.open("rb") as packed,
            gzip.open(packed) as unpacked,
            tarfile.open(fileobj=cast(Any, _Bounded(unpacked, path, limit)), mode="r|") as archive,
        ):
            for member in archive:
                _require_safe(member, path, limit)
                name = str(PurePosixPath(member.name))
                if member.isfile() and wanted(name):
                    file = archive.extractfile(member) if read else None
                    yield name, file.read() if file else b""
                count(packed.tell())
    except DAMAGED as error:
        raise DataError(
            f"{path}: is not a valid tar.gz archive ({reason(error)}); {REMEDY}"
        ) from error


class _Bounded:
    """A file that is read up to a number of bytes, so that a small archive cannot fill the memory.

    Args:
      file: the file.
      path: its archive, for errors.
      limit: maximum number of bytes of the members, to which headers are added.
    """

    def __init__(self, file: gzip.GzipFile, path: Path, limit: int) -> None:
        self._file, self._path, self._limit = file, path, limit
        self._left = limit + limit // 4 + _HEADERS

    def read(self, size: int) -> bytes:
        """Reads at most `size` bytes."""
        content = self._file.read(min(size, self._left + 1))
        self._left -= len(content)
        if self._left < 0:
            raise DataError(f"{self._path}: exceeds the expected {self._limit:,} bytes; {REMEDY}")
        return content


def _require_safe(member: tarfile.TarInfo, path: Path, limit: int) -> None:
    require_inside(member.name, path)
    if not (member.isfile() or member.isdir()):
        raise DataError(f"{path}: member '{member.name}' is a link or device; {REMEDY}")
    if member.size > limit:
        raise too_large(path, member.name, limit)


def read_zip(path: Path, name: str, limit: int) -> bytes:
    """Reads a member of a zip archive in memory, without extracting it.

    Args:
      path: the archive.
      name: name of the member.
      limit: maximum size of the member in bytes.

    Raises:
      DataError: not an archive, a member would leave its folder, or is missing or too large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                require_inside(member, path)
            if name not in archive.namelist():
                raise DataError(f"{path}: has no member {name}; {REMEDY}")
            if archive.getinfo(name).file_size > limit:
                raise too_large(path, name, limit)
            return archive.read(name)
    except (*DAMAGED, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DataError(
            f"{path}: is not a valid zip archive ({reason(error)}); {REMEDY}"
        ) from error


def gunzip(content: bytes, path: Path, name: str, limit: int) -> bytes:
    """Decompresses a gzip file of at most `limit` bytes."""
    decompressor = zlib.decompressobj(wbits=31)
    try:
        found = decompressor.decompress(content, limit + 1)
    except zlib.error as error:
        raise DataError(
            f"{path}: member {name} is not a gzip file ({reason(error)}); {REMEDY}"
        ) from error
    if len(found) > limit:
        raise too_large(path, name, limit)
    if not decompressor.eof:
        raise DataError(f"{path}: member {name} is truncated; {REMEDY}")
    return found


def require_inside(member: str, path: Path) -> None:
    """Raises DataError if extracting a member would write outside of the folder."""
    if PurePosixPath(member).is_absolute() or ".." in PurePosixPath(member).parts or "\\" in member:
        raise DataError(
            f"{path}: member '{member}' would be extracted outside the folder; {REMEDY}"
        )


def too_large(path: Path, member: str, limit: int) -> DataError:
    """Error for a member that is larger than the dataset."""
    return DataError(f"{path}: exceeds the expected {limit:,} bytes at member '{member}'; {REMEDY}")


def decode_npy(content: bytes, place: str) -> Array:
    """Decodes an ``.npy`` file of integers.

    Args:
      content: content of the file.
      place: file name, for errors.

    Raises:
      DataError: not an array of integers.
    """
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        first, later = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = (first if version == (1, 0) else later)(file)
        if dtype.kind in "iu":
            values = np.frombuffer(content, dtype, offset=file.tell())
            return values.reshape(shape, order="F" if is_fortran else "C")
        what = f"values of type {dtype}"
    except (ValueError, TypeError, EOFError, SyntaxError) as error:
        what = reason(error)
    raise DataError(f"{place}: is not an array of integers ({what}); {REMEDY}")
