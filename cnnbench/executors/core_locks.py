"""Cores for worker processes that know nothing of each other, by lock files."""

import os
import tempfile
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from cnnbench.executors.cores import available_cores

if TYPE_CHECKING:
    from filelock import FileLock

FOLDER = "cnnbench-cores"


class ClaimedCores:
    """Cores of this machine that no other process has claimed, as long as there are some.

    Ray hands out a number of cores, but not which; XLA needs the affinity to size its thread pool.
    The locks end with the process.

    Args:
      number: number of cores; all of them if there are fewer.
      folder: folder of the lock files; None for one of the user on this machine.

    Attributes:
      cores: numbers of the cores.
    """

    def __init__(self, number: int, folder: Path | None = None) -> None:
        self._folder = folder or Path(tempfile.gettempdir()) / f"{FOLDER}-{os.getuid()}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._locks: list[FileLock] = []
        self.cores = self._claimed(min(number, len(available_cores())))

    def release(self) -> None:
        """Leaves the cores to others."""
        for lock in self._locks:
            lock.release()
        self._locks.clear()

    def _claimed(self, number: int) -> tuple[int, ...]:
        """The least claimed cores: the n-th claim of a core locks its n-th file."""
        found: list[int] = []
        for claim in count():
            for core in available_cores():
                if len(found) == number:
                    return tuple(sorted(found))
                if core not in found and self._lock(f"{core}-{claim}.lock"):
                    found.append(core)
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
