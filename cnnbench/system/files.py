"""Durable file operations: atomic even if the process is killed.

All changes to results and caches on disk go through these functions and the few `os` calls
below.
"""

import contextlib
import glob
import os
import secrets
from pathlib import Path

PARTIAL = ".partial"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_END = os.O_RDWR | os.O_CREAT | os.O_APPEND


def expand_home(path: Path) -> Path:
    """Expands `~` in a path; unchanged if the user has no home directory.

    >>> expand_home(Path("~nobody-of-that-name/x")).as_posix()
    '~nobody-of-that-name/x'
    """
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def write_atomic(path: Path, *parts: bytes | memoryview) -> None:
    """Writes a file atomically, through a temporary file: readers see the old or the new content.

    Args:
      path: the file; its folder must exist.
      parts: the content, in chunks.

    Raises:
      OSError: the write failed; the file is unchanged.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        descriptor = os.open(partial, _NEW, 0o644)
        try:
            for part in parts:
                _write(descriptor, part)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(partial, path)  # noqa: PTH105 - one module for tests to patch
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(partial)  # noqa: PTH108
        raise
    sync_folder(path.parent)


def move(path: Path, new: Path) -> None:
    """Renames a file within its folder, atomically.

    Raises:
      OSError: the rename failed; the file is unchanged.
    """
    os.replace(path, new)  # noqa: PTH105
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Removes a file if it exists.

    Raises:
      OSError: the file cannot be removed.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108


def append_durable(path: Path, line: bytes) -> None:
    """Appends a line to a file and syncs it to disk.

    Raises:
      OSError: the write failed; the previous content is unchanged.
    """
    descriptor = os.open(path, _END, 0o644)
    size = os.fstat(descriptor).st_size
    try:
        _write(descriptor, line)
        os.fsync(descriptor)
    except OSError:
        # Readers skip a partial last line, but later lines could not be appended after it.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, size)
        raise
    finally:
        os.close(descriptor)
    if not size:
        sync_folder(path.parent)


def remove_partial(folder: Path, name: str = "") -> None:
    """Removes temporary files of killed processes, recursively.

    Args:
      folder: the folder.
      name: name of the file that they were to become; all files if empty.
    """
    for path in folder.rglob(f".{glob.escape(name)}*{PARTIAL}"):
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108


def sync_folder(path: Path) -> None:
    """Syncs a folder to disk, which makes new file names durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(descriptor: int, content: bytes | memoryview) -> None:
    rest = memoryview(content).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest) :]
