"""Decoded arrays kept on disk, so that a dataset is decoded once.

A file is written beside its name and moved there when complete, so a reader sees a whole
file or none, and of two writers at once the last one wins. The key says what the arrays
were made from; a file that was renamed has another than its reader asks for.
"""

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cnnbench.system.array_files import DamagedFileError, decode, encode
from cnnbench.system.arrays import NamedArrays
from cnnbench.system.files import at_home, remove, write_atomic

_ENTRY = "cnnbench cache entry"  # the key of its metadata
_BEFORE = ".arrays"  # the suffix of files in the format before safetensors


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """What a cache file holds.

    Args:
      arrays: the arrays by name.
      source: one line on where they came from.
      key: identifies what they were made from; empty if it may not be kept.
      files: by role, every SHA-256 that a file may have for these arrays to be its content;
        empty where the key identifies the content.
    """

    arrays: NamedArrays
    source: str
    key: str = ""
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)


def cache_dir() -> Path:
    """``$CNNBENCH_CACHE_DIR``, or ``cnnbench`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    A relative ``$XDG_CACHE_HOME`` is ignored, as the XDG Base Directory Specification asks.
    """
    if own := os.environ.get("CNNBENCH_CACHE_DIR"):
        return at_home(Path(own))
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (shared if shared.is_absolute() else at_home(Path("~/.cache"))) / "cnnbench"


def write_entry(path: Path, entry: CacheEntry) -> None:
    """Write a cache file whole, or not at all; one in the format before it is removed.

    Raises:
      OSError: the folder cannot be written or the disk is full.
    """
    # As JSON, which has escapes for the bytes of a path that are no text.
    made_from = json.dumps({"key": entry.key, "source": entry.source, "files": entry.files})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, *encode(entry.arrays, {_ENTRY: made_from}))
    remove(path.with_suffix(_BEFORE))


def read_entry(path: Path, key: str, notify: Callable[[str], None]) -> CacheEntry | None:
    """Read a cache file, verified; None where there is none that can be used.

    A file that is not what was written, or was written for another key, is removed, and
    `notify` says so.
    """
    try:
        return _entry(path.read_bytes(), key)
    except FileNotFoundError:
        return None
    except (OSError, DamagedFileError) as error:
        notify(f"{path}: {error}; the cache file is not used and will be made again.")
        # Whoever cannot remove it can still go on without it.
        with contextlib.suppress(OSError):
            path.unlink()
        return None


def _entry(content: bytes, key: str) -> CacheEntry:
    arrays, metadata = decode(content)
    made_from = json.loads(metadata.get(_ENTRY, '{"key": ""}'))
    if made_from["key"] != key:
        raise DamagedFileError(f"it holds {made_from['key']!r}, not {key!r}")
    files = {role: tuple(sums) for role, sums in made_from["files"].items()}
    return CacheEntry(arrays, made_from["source"], key, files)
