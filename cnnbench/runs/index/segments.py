"""Immutable files that together map the folders of runs to what was read from them.

Every file is written once, under a name of its own, and replaced by none. So processes need no
locks, not even on network file systems, and a reader sees a whole file or none. A row says which
state of a run's files it was read from; only its reader can tell whether that is still the present
one, so it does no harm if files overlap, are outdated, or vanish.
"""

import contextlib
import hashlib
import json
import os
import secrets
import time
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

from cnnbench.system.files import remove, write_atomic

IndexRow = list[object]
IndexRows = Mapping[str, IndexRow]
MOST = 8  # files, before they are united
_ENDING, _DIGEST = ".rows", 16  # bytes


def read_rows(folder: Path, schema: str) -> dict[str, IndexRow]:
    """Reads all rows; those of newer files replace older ones.

    Args:
      folder: the folder of the files; it need not exist.
      schema: as in `add_rows`; files with another are ignored.
    """
    rows: dict[str, IndexRow] = {}
    for path in _files(folder):
        rows |= _read(path, schema)
    return rows


def add_rows(folder: Path, schema: str, rows: IndexRows, is_current: Callable[[str], bool]) -> None:
    """Writes rows in a file; unites the files if there are many. Without effect if it cannot.

    Args:
      folder: the folder of the files, created if missing.
      schema: identifies the meaning of the rows.
      rows: the rows.
      is_current: says whether a row of an older file is worth keeping.
    """
    old = _files(folder)
    united = len(old) >= MOST
    if united:
        kept = {key: row for key, row in read_rows(folder, schema).items() if is_current(key)}
        rows = kept | dict(rows)
    name = f"{time.time_ns():020}-{secrets.token_hex(4)}{_ENDING}"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / name, _encode(schema, rows))
        for path in old if united else ():
            remove(path)


def _files(folder: Path) -> list[Path]:
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(_ENDING))  # noqa: PTH208
    except OSError:
        return []
    return [folder / name for name in names]


def _encode(schema: str, rows: IndexRows) -> bytes:
    text = json.dumps({"schema": schema, "rows": rows}, ensure_ascii=True, separators=(",", ":"))
    body = zlib.compress(text.encode(), 1)
    return hashlib.blake2b(body, digest_size=_DIGEST).digest() + body


@lru_cache(maxsize=64)
def _read(path: Path, schema: str) -> IndexRows:
    """Reads a file; no rows if it is damaged, gone, or of another version.

    A cache is sound, since files never change.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return {}
    digest, body = content[:_DIGEST], content[_DIGEST:]
    if hashlib.blake2b(body, digest_size=_DIGEST).digest() != digest:
        return {}
    found = json.loads(zlib.decompress(body))
    rows: IndexRows = found["rows"] if found["schema"] == schema else {}
    return rows
