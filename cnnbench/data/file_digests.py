"""Digests of files, remembered in the cache directory until a file changes.

Reading a folder of many GB takes minutes, and each command needs its digest. As in git's index, a
file with the same size, times and inode counts as unchanged, unless it was changed just before it
was read ("racily clean"): a later change could have the same time.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from cnnbench.errors import DataError
from cnnbench.formatting import reason
from cnnbench.system.cache import cache_dir
from cnnbench.system.files import write_atomic
from cnnbench.system.progress import counted

HashAlgorithm = Literal["sha256", "md5"]
_AT_ONCE = 1024  # files
_LARGE = 2**24  # bytes of a file whose digest is worth writing down
_SETTLED_NS = 2_000_000_000  # resolution of the times of some file systems


def digest_of(path: Path, algorithm: HashAlgorithm = "sha256") -> str:
    """Digest of a file, in hex digits.

    Remembered by the process, and in the cache directory if the file is large.

    Raises:
      DataError: the file cannot be read.
    """
    state = _state(path)
    return _known_digest(path, algorithm, *state) if state else _read(path, algorithm)


@lru_cache(maxsize=64)
def _known_digest(path: Path, algorithm: HashAlgorithm, *state: int) -> str:
    """The digest of a file that has not changed just now."""
    if state[0] < _LARGE:
        return _read(path, algorithm)
    known = _recalled(path)
    if (own := _recall(known, algorithm, state)) is None:
        own = _read(path, algorithm)
        _remember(path, known | {algorithm: [*state, own]})
    return own


def sha256_in(root: Path, files: Sequence[str]) -> Iterator[str]:
    """SHA-256 of each file of a folder; reads those that are new or have changed.

    Args:
      root: the folder.
      files: relative paths.

    Raises:
      DataError: a file cannot be read.
    """
    known, found = _recalled(root), dict[str, Any]()
    # A task takes 2 kB, so not of all files at once.
    with counted("read", len(files), "files") as count, ThreadPoolExecutor() as pool:
        for start in range(0, len(files), _AT_ONCE):
            part = files[start : start + _AT_ONCE]
            states = [_state(root / file) for file in part]
            same = [_recall(known, file, at) for file, at in zip(part, states, strict=True)]
            changed = [root / file for file, own in zip(part, same, strict=True) if own is None]
            read = pool.map(_read, changed)
            for number, (file, state, own) in enumerate(
                zip(part, states, same, strict=True), start + 1
            ):
                digest = own or next(read)
                if state:
                    found[file] = [*state, digest]
                count(number)
                yield digest
    if found != known:
        _remember(root, found)


def _state(path: Path) -> tuple[int, ...]:
    """Size, times and inode of a file; empty if it has changed just now, or cannot be read."""
    now = time.time_ns()
    with suppress(OSError):
        found = path.stat()
        if now - max(found.st_mtime_ns, found.st_ctime_ns) > _SETTLED_NS:
            return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
    return ()


def _read(path: Path, algorithm: HashAlgorithm = "sha256") -> str:
    try:
        with path.open("rb") as content:
            return hashlib.file_digest(content, algorithm).hexdigest()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({reason(error)}); check its permissions"
        ) from error


def _recall(known: dict[str, Any], name: str, state: Sequence[int]) -> str | None:
    match known.get(name):
        case [*before, str(digest)] if state and before == [*state]:
            return digest
    return None


def _place(path: Path) -> Path:
    name = hashlib.sha256(str(path.resolve()).encode(errors="surrogateescape")).hexdigest()[:16]
    return cache_dir() / "digests" / f"{name}.json"


def _recalled(path: Path) -> dict[str, Any]:
    """What is known of a folder by file, or of a file by algorithm; empty if nothing is."""
    try:
        content = json.loads(_place(path).read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _remember(path: Path, found: dict[str, Any]) -> None:
    with suppress(OSError):  # the files are read again next time
        _place(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(_place(path), json.dumps(found).encode())
