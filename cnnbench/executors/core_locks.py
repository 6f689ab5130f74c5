"""Core allocation for independent processes, with lock files."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from cnnbench.errors import UsageError
from cnnbench.executors.cores import available_cores, pin
from cnnbench.system import host

if TYPE_CHECKING:
    from filelock import FileLock

FOLDER = "cnnbench-cores"


class ClaimedCores:
    """Claims cores of this machine, unclaimed ones first.

    Ray assigns a number of cores, not specific cores; XLA sizes its thread pool by the affinity.
    The locks end with the process.

    Args:
      number: number of cores; all cores if there are fewer.
      folder: folder of the lock files; None for the user's folder on this machine.

    Attributes:
      cores: numbers of the cores.
      shared: cores that other processes also claim.
    """

    def __init__(self, number: int, folder: Path | None = None) -> None:
        self._folder = folder or Path(tempfile.gettempdir()) / f"{FOLDER}-{os.getuid()}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._locks: list[FileLock] = []
        self.shared: tuple[int, ...] = ()
        self.cores = self._claimed(min(number, len(available_cores())))

    def release(self) -> None:
        """Releases the cores."""
        for lock in self._locks:
            lock.release()
        self._locks.clear()

    def _claimed(self, number: int) -> tuple[int, ...]:
        """The least claimed cores: the n-th claim of a core locks its n-th file."""
        found: list[int] = []
        for claim in count():
            for core in apart():
                if len(found) == number:
                    return tuple(sorted(found))
                if core not in found and self._lock(f"{core}-{claim}.lock"):
                    found.append(core)
                    self.shared += (core,) * (claim > 0)
        raise AssertionError

    def _lock(self, name: str) -> bool:
        from filelock import FileLock, Timeout  # warns where there are only soft locks

        lock = FileLock(self._folder / name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        self._locks.append(lock)
        return True


def apart() -> tuple[int, ...]:
    """The cores of this process, separate physical cores first.

    Two hardware threads of a physical core slow each other down.
    """
    usable = available_cores()
    first = [core for core in host.cores() if core in usable]
    return (*first, *(core for core in usable if core not in first))


@contextmanager
def kept_to(number: int) -> Iterator[ClaimedCores]:
    """Restricts this process to some cores, if possible to unclaimed cores.

    Args:
      number: number of cores.

    Raises:
      UsageError: too few cores, or no support for CPU affinity.
    """
    usable = available_cores()
    if not hasattr(os, "sched_setaffinity"):
        message = "--cores: this system does not support CPU affinity"
        raise UsageError(f"{message}; omit it.")
    if number > len(usable):
        have = "1 core is" if len(usable) == 1 else f"{len(usable)} cores are"
        message = f"--cores: {number} cores, but only {have} available to this process"
        raise UsageError(f"{message}; write --cores {len(usable)}, or omit it.")
    claimed = ClaimedCores(number)
    pin(claimed.cores)
    try:
        yield claimed
    finally:
        pin(usable)
        claimed.release()
