"""Finds what an index knows of run folders, and reads the others.

The folders stay the truth. A row of the index counts only if the files it was read from are the
same ones: modification and change time, size and inode. Modification times of folders would save
little and miss files that grow or are edited in place, so every file is looked up: 10,000 runs take
0.1 s on a local disk. Files that changed just before they were read are not indexed, because
another change within the same tick of the clock of the file system would go unnoticed; neither are
the runs of a small results folder, which are read as quickly.

The index is in the user's cache folder, so that results folders contain runs only, may be read-only
or belong to someone else, and an index is never older or newer than the machine it is on.
"""

import dataclasses
import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from cnnbench._version import __version__
from cnnbench.errors import StoreError
from cnnbench.runs.folder import EPOCHS_FILE, RECORD_FILE, SUMMARY_FILE, RunEntry, read_run_entry
from cnnbench.runs.index.curves import CURVE_POINTS, binned
from cnnbench.runs.index.segments import IndexRow, add_rows, read_rows
from cnnbench.runs.records import FORMAT_VERSION, Facts, Status
from cnnbench.system.cache import cache_dir

MIN_RUNS = 64  # of a results folder that is indexed
MIN_NEW = 32  # rows that are worth a file
_FILES = (RECORD_FILE, SUMMARY_FILE, EPOCHS_FILE)
_FIELDS = dataclasses.fields(Facts)
_TIMES = tuple(n for n, field in enumerate(_FIELDS) if field.name in ("started_at", "finished_at"))
_TUPLES = tuple(n for n, field in enumerate(_FIELDS) if field.name in ("tags", "seeds"))
_STATUS = [field.name for field in _FIELDS].index("status")
_SCHEMA = " ".join([__version__, str(FORMAT_VERSION), *(f"{f.name}:{f.type}" for f in _FIELDS)])
_SETTLED_S = 2.0  # since the last change of a file; coarser than the clock of any file system
_SETTLED_RUNNING_S = 600.0  # a run that changes all the time is not worth a row


def read_entries(folders: Sequence[Path]) -> list[RunEntry | StoreError]:
    """Reads runs without their epochs, in the order of the folders; or why one cannot be read."""
    parts: dict[Path, list[Path]] = defaultdict(list)
    for folder in folders:
        parts[folder.parent.parent].append(folder)
    found: dict[Path, RunEntry | StoreError] = {}
    for root, own in parts.items():
        found |= _indexed(root, own) if len(own) >= MIN_RUNS else {f: _read(f) for f in own}
    return [found[folder] for folder in folders]


def _read(folder: Path) -> RunEntry | StoreError:
    try:
        return read_run_entry(folder)
    except StoreError as error:
        return error


def _indexed(root: Path, folders: Iterable[Path]) -> dict[Path, RunEntry | StoreError]:
    """Reads runs of one results folder through its index, and adds what is missing to it."""
    place = index_folder(root)
    rows = read_rows(place, _SCHEMA)
    found: dict[Path, RunEntry | StoreError] = {}
    new: dict[str, IndexRow] = {}
    for folder in folders:
        key, state = _key(folder), _state(folder)
        row = rows.get(key)
        if row is not None and state is not None and row[0] == state:
            found[folder] = _decoded(folder, row)
            continue
        found[folder] = entry = _read(folder)
        if isinstance(entry, RunEntry) and state is not None and _is_settled(entry, state):
            new[key] = _encoded(entry, state)
    if len(new) >= MIN_NEW:
        add_rows(place, _SCHEMA, new, lambda key: (root / key).is_dir())
    return found


def index_folder(root: Path) -> Path:
    """The folder of the index of a results folder."""
    name = hashlib.blake2b(os.fsencode(root.resolve()), digest_size=12).hexdigest()
    return cache_dir() / "index" / name


def _key(folder: Path) -> str:
    # Names may be bytes that are not text, which JSON can escape.
    return f"{folder.parent.name}/{folder.name}"


def _state(folder: Path) -> list[int] | None:
    """The state of the files of a run; None if it is unknown."""
    state: list[int] = []
    for name in _FILES:
        try:
            found = os.stat(f"{folder}/{name}")  # noqa: PTH116 - a Path is slower
        except FileNotFoundError:
            state += (0, 0, 0, 0)
        except OSError:
            return None
        else:
            state += (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
    return state


def _is_settled(entry: RunEntry, state: Sequence[int]) -> bool:
    """True if the files have not changed lately, so that every further change shows."""
    running = entry.facts.status is Status.RUNNING
    quiet = _SETTLED_RUNNING_S if running else _SETTLED_S
    last = max((*state[0::4], *state[1::4]))
    return last < time.time_ns() - quiet * 1e9 and _state(entry.path) == state


def _encoded(entry: RunEntry, state: list[int]) -> IndexRow:
    facts: list[Any] = [getattr(entry.facts, field.name) for field in _FIELDS]
    for number in _TIMES:
        facts[number] = facts[number] and facts[number].isoformat()
    return [state, facts, binned(entry.curve, CURVE_POINTS)]


def _decoded(folder: Path, row: IndexRow) -> RunEntry:
    _, stored, curve = row
    facts: list[Any] = list(stored)  # type: ignore[call-overload]
    for number in _TIMES:
        facts[number] = facts[number] and datetime.fromisoformat(facts[number])
    for number in _TUPLES:
        facts[number] = tuple(facts[number])
    facts[_STATUS] = Status(facts[_STATUS])
    return RunEntry(folder, None, None, Facts(*facts), tuple(curve))  # type: ignore[arg-type]
