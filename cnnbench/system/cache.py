"""On-disk cache of arrays, such as decoded datasets.

Files are written atomically, so readers never see partial files, and the last of several
concurrent writers wins. Files contain their key, which identifies the source of the arrays, so
that renamed files are detected.
"""

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cnnbench.system.array_files import DamagedFileError, decode, encode
from cnnbench.system.arrays import NamedArrays
from cnnbench.system.files import expand_home, remove, write_atomic

_ENTRY = "cnnbench cache entry"  # metadata key
_BEFORE = ".arrays"  # suffix of files in the previous format


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """The content of a cache file.

    Args:
      arrays: arrays by name.
      source: one-line description of the source.
      key: identifies the source; empty if it must not be cached.
      files: accepted SHA-256 values of each source file, by role; empty if the key identifies
        the content.
    """

    arrays: NamedArrays
    source: str
    key: str = ""
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)


def cache_dir() -> Path:
    """``$CNNBENCH_CACHE_DIR``, or ``cnnbench`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    A relative ``$XDG_CACHE_HOME`` is ignored, as required by the XDG Base Directory Specification.
    """
    if own := os.environ.get("CNNBENCH_CACHE_DIR"):
        return expand_home(Path(own))
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (shared if shared.is_absolute() else expand_home(Path("~/.cache"))) / "cnnbench"


def write_entry(path: Path, entry: CacheEntry) -> None:
    """Writes a cache file atomically; removes its version in the previous format.

    Raises:
      OSError: the folder is not writable or the disk is full.
    """
    # JSON can escape bytes of a path that are not valid text.
    made_from = json.dumps({"key": entry.key, "source": entry.source, "files": entry.files})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, *encode(entry.arrays, {_ENTRY: made_from}))
    remove(path.with_suffix(_BEFORE))


def read_entry(path: Path, key: str, notify: Callable[[str], None]) -> CacheEntry | None:
    """Reads and verifies a cache file; None if missing or invalid.

    Damaged files and files with another key are removed and reported with `notify`.
    """
    try:
        return _entry(path.read_bytes(), key)
    except FileNotFoundError:
        return None
    except (OSError, DamagedFileError) as error:
        notify(f"{path}: {error}; ignoring this cache file, it will be recreated.")
        # The cache file is optional, even if it cannot be removed.
        with contextlib.suppress(OSError):
            path.unlink()
        return None


def _entry(content: bytes, key: str) -> CacheEntry:
    arrays, metadata = decode(content)
    made_from = json.loads(metadata.get(_ENTRY, '{"key": ""}'))
    if made_from["key"] != key:
        raise DamagedFileError(f"contains {made_from['key']!r}, not {key!r}")
    files = {role: tuple(sums) for role, sums in made_from["files"].items()}
    return CacheEntry(arrays, made_from["source"], key, files)
