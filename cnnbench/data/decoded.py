"""Decoded images in the cache, which one of several processes decodes."""

import hashlib
from pathlib import Path
from typing import Protocol

from cnnbench.errors import Notify
from cnnbench.system.cache import CacheEntry, cache_dir, read_entry, write_entry
from cnnbench.system.files import remove_partial
from cnnbench.system.locks import in_turn


class Decodes(Protocol):
    """Decodes the files of the user."""

    def decode(self, key: str, notify: Notify) -> CacheEntry:
        """Decodes the files; the result is cached."""


def decoded_files(source: Decodes, key: str, notify: Notify) -> CacheEntry:
    """The decoded files of the user, from the cache if they were decoded before.

    Args:
      source: the files.
      key: their cache key.
      notify: called with messages for the user.
    """
    if not key:
        return source.decode(key, notify)
    path = cache_file(key)
    if cached := read_entry(path, key, notify):
        return cached
    with in_turn(path, lambda: notify("Waiting for another process to decode these images.")):
        if cached := read_entry(path, key, notify):
            return cached
        entry = source.decode(key, notify)
        keep(key.partition(" ")[0], entry, notify)
    return entry


def cache_file(key: str) -> Path:
    """Cache file, named by dataset (for readability) and key."""
    name = key.partition(" ")[0].replace("/", "@")
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return cache_dir() / "datasets" / f"{name}-{digest}.safetensors"


def keep(name: str, entry: CacheEntry, notify: Notify) -> None:
    """Writes decoded images to the cache, if it can be written.

    The caller holds the lock of the file, so temporary files are those of killed processes.
    """
    path = cache_file(entry.key)
    remove_partial(path.parent, path.name)
    try:
        write_entry(path, entry)
    except OSError as error:
        notify(
            f"{path}: cannot be written ({error.strerror}), so '{name}' is decoded again each time;"
            " set CNNBENCH_CACHE_DIR to a writable folder."
        )
