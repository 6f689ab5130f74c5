"""Inter-process locks on folders and files, released when the process ends."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK_FILE = ".lock"
PATIENCE_S = 1.0  # `is_held` in another process may hold the lock for a moment


@contextmanager
def hold(folder: Path) -> Iterator[bool]:
    """Holds the lock of a folder while its body runs.

    The operating system releases the lock of a killed process.

    Args:
      folder: an existing folder.

    Yields:
      True if the lock was acquired; False if another process holds it.

    Raises:
      OSError: the folder does not exist or is not writable.

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


@contextmanager
def in_turn(file: Path, waits: Callable[[], None]) -> Iterator[None]:
    """Runs its body while no other process runs it for the same file.

    Without a lock if the folder of the file is not writable.

    Args:
      file: a file that the body writes; its lock file is beside it.
      waits: called if another process holds the lock.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(file.with_suffix(".lock"))
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=PATIENCE_S)
        except Timeout:
            waits()
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_held(folder: Path) -> bool:
    """Returns True if a process holds the lock of a folder."""
    if not (folder / LOCK_FILE).exists():
        return False
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder / LOCK_FILE, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # not writable, such as a run of another user
        return _is_held_by_others(folder / LOCK_FILE)


def _is_held_by_others(file: Path) -> bool:
    """Returns True if a process holds a lock file that this user can only read."""
    import fcntl

    try:
        with file.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # not readable either
        return False
    return False
