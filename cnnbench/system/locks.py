"""One process at a time for a folder; a lock ends with the process that holds it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_FILE = ".lock"
PATIENCE_S = 1.0  # `is_held` of another process may have it for a moment


@contextmanager
def hold(folder: Path) -> Iterator[bool]:
    """Holds a folder's lock while its body runs.

    The operating system keeps it, so that a process that is killed leaves none behind.

    Args:
      folder: an existing folder.

    Yields:
      Whether it could be had; False where somebody else holds it.

    Raises:
      OSError: the folder is gone or cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     with hold(Path(name)) as mine, hold(Path(name)) as again:
    ...         mine, again, is_held(Path(name))
    (True, False, True)
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=PATIENCE_S)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether somebody holds a folder's lock."""
    if not (folder / LOCK_FILE).exists():
        return False
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder / LOCK_FILE, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # it cannot be written, as where another user trains
        return _is_held_by_others(folder / LOCK_FILE)


def _is_held_by_others(file: Path) -> bool:
    """Whether somebody holds a lock that this user may only read."""
    import fcntl

    try:
        with file.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # it cannot be read either
        return False
    return False
