"""Files that are whole or not there, whenever the process is killed.

Every change of a disk that results or caches depend on goes through these functions
and the few calls of `os` below.
"""

import contextlib
import os
import secrets
from pathlib import Path

PARTIAL = ".partial"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_END = os.O_RDWR | os.O_CREAT | os.O_APPEND


def at_home(path: Path) -> Path:
    """A path with `~` replaced; as it is where that user has no home.

    >>> at_home(Path("~nobody-of-that-name/x")).as_posix()
    '~nobody-of-that-name/x'
    """
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def write_atomic(path: Path, *parts: bytes | memoryview) -> None:
    """Writes a file beside its place and moves it there: readers see the old or the new one.

    Args:
      path: the file; its folder exists.
      parts: its content, in pieces.

    Raises:
      OSError: the disk refuses; the file is as it was.
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
        os.replace(partial, path)  # noqa: PTH105 - one module whose calls tests can break
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(partial)  # noqa: PTH108
        raise
    sync_folder(path.parent)


def move(path: Path, new: Path) -> None:
    """Renames a file within its folder; it has one of the two names at any moment.

    Raises:
      OSError: the disk refuses; the file is as it was.
    """
    os.replace(path, new)  # noqa: PTH105
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Removes a file if it is there.

    Raises:
      OSError: the disk refuses.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108


def append_durable(path: Path, line: bytes) -> None:
    """Adds a line to a file; it is on the disk when this returns.

    Raises:
      OSError: the disk refuses; what was in the file is still there.
    """
    descriptor = os.open(path, _END, 0o644)
    size = os.fstat(descriptor).st_size
    try:
        _write(descriptor, line)
        os.fsync(descriptor)
    except OSError:
        # Half a line would be passed over by readers, but no next line could follow it.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, size)
        raise
    finally:
        os.close(descriptor)
    if not size:
        sync_folder(path.parent)


def remove_partial(folder: Path) -> None:
    """Removes what a killed process left beside its files, also in folders of the folder."""
    for path in folder.rglob(f".*{PARTIAL}"):
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108


def sync_folder(path: Path) -> None:
    """Puts a folder's own entries on the disk: a new file's name is one of them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(descriptor: int, content: bytes | memoryview) -> None:
    rest = memoryview(content).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest) :]
