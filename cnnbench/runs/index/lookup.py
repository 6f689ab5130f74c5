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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from cnnbench._version import __version__
from cnnbench.runs.index.segments import IndexRow, add_rows, read_rows
from cnnbench.system.cache import cache_dir
from cnnbench.system.progress import CountDone, counted

MIN_RUNS = 64  # of a results folder that is indexed
MIN_NEW, MOST_NEW = 32, 2_000  # rows that are worth a file; rows that are not written yet
MIN_SHOWN = 500  # runs to read; fewer take less than a second
SETTLED_S = 2.0  # since the last change of a file; coarser than the clock of any file system

Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Indexed(Generic[Read]):
    """A kind of value that is read from the files of a run, and indexed.

    Args:
      name: name of the index.
      verb: as of `counted`, which shows the progress of reading many runs.
      schema: identifies the form of encoded values; the version of cnnbench is added.
      files: the files of a run that it is read from.
      read: reads it from the folder of a run.
      encode: makes a list for JSON of it; None if it is not worth a row now.
      decode: makes it again, for a folder.
    """

    name: str
    verb: str
    schema: str
    files: tuple[str, ...]
    read: Callable[[Path], Read]
    encode: Callable[[Read], list[Any] | None]
    decode: Callable[[Path, list[Any]], Read]


def look_up(folders: Sequence[Path], kind: Indexed[Read]) -> list[Read]:
    """Finds a value for each run folder, in their order; what is not known is read and indexed."""
    parts: dict[str, list[int]] = defaultdict(list)
    for number, folder in enumerate(folders):
        parts[os.fspath(folder).rpartition(os.sep)[0].rpartition(os.sep)[0]].append(number)
    found: dict[int, Read] = {}
    for numbers in parts.values():
        own = [folders[number] for number in numbers]
        values = _in(own, kind) if len(own) >= MIN_RUNS else [kind.read(each) for each in own]
        found |= zip(numbers, values, strict=True)
    return [found[number] for number in range(len(folders))]


def index_folder(root: Path, kind: Indexed[Any]) -> Path:
    """The folder of an index of a results folder."""
    name = hashlib.blake2b(os.fsencode(root.resolve()), digest_size=12).hexdigest()
    return cache_dir() / "index" / name / kind.name


def full_schema(kind: Indexed[Any]) -> str:
    """Identifies the version of the program that can use an index."""
    return f"{__version__} {kind.schema}"


def _in(folders: Sequence[Path], kind: Indexed[Read]) -> list[Read]:
    """Looks up runs of one results folder, in their order."""
    root = folders[0].parent.parent
    rows = read_rows(index_folder(root, kind), full_schema(kind))
    found: dict[int, Read] = {}
    for number, folder in enumerate(folders):
        row: Any = rows.get(_key(folder))
        if row is not None and row[0] == file_state(folder, kind.files):
            found[number] = kind.decode(folder, row[1])
    unknown = [number for number in range(len(folders)) if number not in found]
    show = counted(kind.verb, len(unknown), "runs") if len(unknown) >= MIN_SHOWN else _unseen()
    with show as count:
        new = _read(root, [folders[number] for number in unknown], kind, count)
    found |= zip(unknown, new, strict=True)
    return [found[number] for number in range(len(folders))]


@contextmanager
def _unseen() -> Iterator[CountDone]:
    yield lambda _: None


def _read(root: Path, folders: Sequence[Path], kind: Indexed[Read], count: CountDone) -> list[Read]:
    """Reads runs of one results folder, in their order, and indexes them."""
    place, schema = index_folder(root, kind), full_schema(kind)
    found: list[Read] = []
    new: dict[str, IndexRow] = {}
    for folder in folders:
        state = file_state(folder, kind.files)
        found.append(value := kind.read(folder))
        encoded = kind.encode(value) if state and _is_settled(state) else None
        if encoded is not None and file_state(folder, kind.files) == state:
            new[_key(folder)] = [state, encoded]
        if len(new) >= MOST_NEW:  # an interrupted command has not read them in vain
            add_rows(place, schema, new, lambda key: (root / key).is_dir())
            new = {}
        count(len(found))
    if len(new) >= MIN_NEW:
        add_rows(place, schema, new, lambda key: (root / key).is_dir())
    return found


def _key(folder: Path) -> str:
    """The names of the experiment and the run; bytes that are not text can be escaped in JSON."""
    above, _, run = os.fspath(folder).rpartition(os.sep)
    return f"{above.rpartition(os.sep)[2]}/{run}"


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
