"""Finds what an index knows of run folders, and reads the others.

The folders stay the truth. A row of an index counts only if the files it was read from are the
same ones: modification and change time, size and inode. Modification times of folders would save
little and miss files that grow or are edited in place, so every file is looked up: 10,000 runs take
0.1 s on a local disk. Files that changed just before they were read are not indexed, because
another change within the same tick of the clock of the file system would go unnoticed; neither are
the runs of a small results folder, which are read as quickly.

Indexes are in the user's cache folder, so that results folders contain runs only, may be read-only
or belong to someone else, and an index is never older or newer than the machine it is on.
"""

import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from cnnbench._version import __version__
from cnnbench.runs.index.segments import IndexRow, add_rows, read_rows
from cnnbench.system.cache import cache_dir

MIN_RUNS = 64  # of a results folder that is indexed
MIN_NEW, MOST_NEW = 32, 2_000  # rows that are worth a file; rows that are not written yet
SETTLED_S = 2.0  # since the last change of a file; coarser than the clock of any file system

Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Indexed(Generic[Read]):
    """A kind of value that is read from the files of a run, and indexed.

    Args:
      name: name of the index.
      schema: identifies the form of encoded values; the version of cnnbench is added.
      files: the files of a run that it is read from.
      read: reads it from the folder of a run.
      encode: makes a list for JSON of it; None if it is not worth a row now.
      decode: makes it again, for a folder.
    """

    name: str
    schema: str
    files: tuple[str, ...]
    read: Callable[[Path], Read]
    encode: Callable[[Read], list[Any] | None]
    decode: Callable[[Path, list[Any]], Read]


def look_up(folders: Sequence[Path], kind: Indexed[Read]) -> list[Read]:
    """Finds a value for each run folder, in their order; what is not known is read and indexed."""
    parts: dict[Path, list[Path]] = defaultdict(list)
    for folder in folders:
        parts[folder.parent.parent].append(folder)
    found: dict[Path, Read] = {}
    for root, own in parts.items():
        found |= _in(root, own, kind) if len(own) >= MIN_RUNS else {f: kind.read(f) for f in own}
    return [found[folder] for folder in folders]


def index_folder(root: Path, kind: Indexed[Any]) -> Path:
    """The folder of an index of a results folder."""
    name = hashlib.blake2b(os.fsencode(root.resolve()), digest_size=12).hexdigest()
    return cache_dir() / "index" / name / kind.name


def full_schema(kind: Indexed[Any]) -> str:
    """Identifies the version of the program that can use an index."""
    return f"{__version__} {kind.schema}"


def _in(root: Path, folders: Iterable[Path], kind: Indexed[Read]) -> dict[Path, Read]:
    """Looks up runs of one results folder."""
    place, schema = index_folder(root, kind), full_schema(kind)
    rows = read_rows(place, schema)
    found: dict[Path, Read] = {}
    new: dict[str, IndexRow] = {}
    for folder in folders:
        # Names may be bytes that are not text, which JSON can escape.
        key, state = f"{folder.parent.name}/{folder.name}", file_state(folder, kind.files)
        row: Any = rows.get(key)
        if row is not None and state is not None and row[0] == state:
            found[folder] = kind.decode(folder, row[1])
            continue
        found[folder] = value = kind.read(folder)
        encoded = kind.encode(value) if state and _is_settled(state) else None
        if encoded is not None and file_state(folder, kind.files) == state:
            new[key] = [state, encoded]
        if len(new) >= MOST_NEW:  # an interrupted command has not read them in vain
            add_rows(place, schema, new, lambda key: (root / key).is_dir())
            new = {}
    if len(new) >= MIN_NEW:
        add_rows(place, schema, new, lambda key: (root / key).is_dir())
    return found


def file_state(folder: Path, names: Iterable[str]) -> list[int] | None:
    """The state of files of a run; None if it is unknown."""
    state: list[int] = []
    for name in names:
        try:
            found = os.stat(f"{folder}/{name}")  # noqa: PTH116 - a Path is slower
        except FileNotFoundError:
            state += (0, 0, 0, 0)
        except OSError:
            return None
        else:
            state += (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
    return state


def _is_settled(state: Sequence[int]) -> bool:
    """True if the files have not changed lately, so that every further change shows."""
    return max(*state[0::4], *state[1::4]) < time.time_ns() - SETTLED_S * 1e9
