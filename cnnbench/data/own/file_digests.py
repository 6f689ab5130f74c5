"""SHA-256 of the files of a folder, remembered until a file changes.

Reading a folder of many GB takes minutes. As in git's index, a file counts as unchanged if its size
and its time of change are the same, except shortly after a change, when a second one could have the
same time.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from cnnbench.errors import DataError
from cnnbench.system.cache import cache_dir
from cnnbench.system.files import write_atomic
from cnnbench.system.progress import counted

_AT_ONCE = 1024  # files
_SETTLED_NS = 2_000_000_000  # resolution of the times of some file systems


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
      DataError: it cannot be read.
    """
    try:
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{path}: cannot be read ({reason}); check its permissions") from None


def digests(root: Path, files: Sequence[str], *, remember: bool = False) -> Iterator[str]:
    """SHA-256 of each file.

    Args:
      root: the folder.
      files: relative paths.
      remember: use the digests of an earlier call for files that have not changed since.

    Raises:
      DataError: a file cannot be read.
    """
    known = _read(root) if remember else {}
    found: dict[str, Any] = {}

    def digest(file: str) -> str:
        path = root / file
        state = _state(path) if remember else []
        entry = known.get(file)
        own = entry[2] if entry and entry[:2] == state else sha256_of_file(path)
        if state and time.time_ns() - state[1] > _SETTLED_NS:
            found[file] = [*state, own]
        return own

    # A task takes 2 kB, so not of all files at once.
    with counted("read", len(files), "files") as count, ThreadPoolExecutor() as pool:
        for start in range(0, len(files), _AT_ONCE):
            own_digests = pool.map(digest, files[start : start + _AT_ONCE])
            for number, own in enumerate(own_digests, start + 1):
                count(number)
                yield own
    if found != known:
        _write(root, found)


def _state(path: Path) -> list[int]:
    """Size and time of change; empty if the file cannot be read."""
    with suppress(OSError):
        found = path.stat()
        return [found.st_size, found.st_mtime_ns]
    return []


def _file(root: Path) -> Path:
    name = hashlib.sha256(str(root.resolve()).encode(errors="surrogateescape")).hexdigest()[:16]
    return cache_dir() / "digests" / f"{name}.json"


def _read(root: Path) -> dict[str, Any]:
    """Size, time of change and SHA-256 by file; empty if they cannot be read."""
    try:
        content = json.loads(_file(root).read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(root: Path, found: dict[str, Any]) -> None:
    with suppress(OSError):  # the files are read again next time
        _file(root).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(_file(root), json.dumps(found).encode())
