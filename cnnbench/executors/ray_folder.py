"""The temporary folder of a local Ray cluster; Ray never empties its own."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree

from cnnbench.system.locks import LOCK_FILE, hold, is_held

PREFIX = "cnnbench-ray-"  # a short name, because sockets are in it
_YOUNG_S = 60  # a lock file that may not be locked yet


@contextmanager
def ray_folder(parent: Path = Path("/tmp")) -> Iterator[Path]:
    """A new folder, removed on exit; also removes folders of killed processes.

    Args:
      parent: its parent folder.
    """
    _remove_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    try:
        with hold(folder):
            yield folder
    finally:
        rmtree(folder, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # removed meanwhile
            if folder.stat().st_uid == os.getuid() and _is_abandoned(folder):
                rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    age = time.time() - (folder / LOCK_FILE).stat().st_mtime
    return age > _YOUNG_S and not is_held(folder)
