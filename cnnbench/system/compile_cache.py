"""How programs are compiled, and JAX's cache of them on disk: whether it had what was needed."""

import contextlib
import importlib
import inspect
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnbench.errors import Notify
from cnnbench.system.cache import CacheEntry, cache_dir, read_entry, write_entry
from cnnbench.system.files import PARTIAL
from cnnbench.system.settings import asked

_ASKED = "/jax/compilation_cache/compile_requests_use_cache"
_FOUND = "/jax/compilation_cache/cache_hits"

DEFAULT_MAX_BYTES = 2 * 1024**3  # of all programs together
_MODULE, _OPEN = "jax._src.compilation_cache", "get_file_cache"


def compiled(lowered: jax.stages.Lowered, options: Mapping[str, Any]) -> Any:
    """Compiles a program, without the options that the installed XLA does not know.

    Args:
      lowered: the program.
      options: of XLA, by name, that change speed alone.
    """
    try:
        return lowered.compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError as error:
        unknown = re.search(r"No such compile option: '(\w+)'", str(error))
        if unknown is None or unknown[1] not in options:
            raise
    return compiled(lowered, {name: options[name] for name in options if name != unknown[1]})


def enable_compile_cache(notify: Notify) -> None:
    """Keeps compiled programs below the cache folder, for later runs.

    Args:
      notify: gets a sentence if that is not possible, or if a file is damaged.
    """
    cache = _replaceable_cache()
    if cache is None:
        notify(
            f"jax {jax.__version__} keeps compiled programs in another way than this cnnbench"
            " knows, so programs are compiled again each time; update cnnbench."
        )
        return
    folder = cache_dir() / "programs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        notify(_refused(folder, "made", error))
        return
    if (wanted := asked("jax_compilation_cache_dir")) and not wanted.endswith(f"={folder}"):
        message = f"ignoring {wanted}: compiled programs are kept in {folder}"
        notify(f"{message}; set CNNBENCH_CACHE_DIR to keep them elsewhere.")
    cache[_OPEN] = partial(_open, notify)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # By default only programs that took a second to compile are kept.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _replaceable_cache() -> dict[str, Any] | None:
    """The names of JAX's module that opens the cache; None where it is not as we know it.

    The module is private, and JAX has no public way to replace the cache (0.10 to 0.12).
    """
    try:
        names = vars(importlib.import_module(_MODULE))
    except ImportError:
        return None
    function = names.get(_OPEN)
    known = callable(function) and list(inspect.signature(function).parameters) == ["path"]
    return names if known else None


def _open(notify: Notify, path: str) -> tuple["ProgramFiles", str]:
    return ProgramFiles(Path(path), notify, max_bytes()), path


def max_bytes() -> int | None:
    """How large all kept programs may be: JAX_COMPILATION_CACHE_MAX_SIZE; None for no limit."""
    size = int(jax.config.values["jax_compilation_cache_max_size"])
    if size >= 0:
        return size
    return None if "JAX_COMPILATION_CACHE_MAX_SIZE" in os.environ else DEFAULT_MAX_BYTES


class ProgramFiles:
    """What JAX keeps, by its keys, in files that are whole or not there, and are verified.

    JAX's own are written in place. A process beside it reads half of a program, and one that is
    killed leaves half of it for good.

    Args:
      folder: where they are.
      notify: gets a sentence on the first that is damaged or cannot be written.
      max_bytes: the size of all of them; the least recently used are removed beyond it. None
        for no limit.
    """

    def __init__(
        self, folder: Path, notify: Notify, max_bytes: int | None = DEFAULT_MAX_BYTES
    ) -> None:
        self._path = folder  # JAX's name for it
        self._max_bytes = max_bytes
        self._notify = notify
        self._told = False

    def get(self, key: str) -> bytes | None:
        """The program of a key; None where it has to be compiled."""
        entry = read_entry(self._file(key), key, self._tell)
        if entry:
            self._touch(key)
        return entry.arrays["program"].tobytes() if entry else None

    def put(self, key: str, program: bytes) -> None:
        """Keeps a program if the disk takes it."""
        content = CacheEntry({"program": np.frombuffer(program, np.uint8)}, "JAX", key)
        if self._max_bytes is not None and len(program) > self._max_bytes:
            return
        try:
            write_entry(self._file(key), content)
        except OSError as error:
            self._tell(_refused(self._path, "written", error))
            return
        self._touch(key)
        self._evict()

    def _touch(self, key: str) -> None:
        """Notes when a program was used, in nanoseconds: a file system's own clock is coarser."""
        # Another process may have removed it, and a folder may be one that is only read.
        with contextlib.suppress(OSError):
            os.utime(self._file(key), ns=(time.time_ns(),) * 2)

    def _evict(self) -> None:
        """Removes the least recently used programs until the others are within the limit.

        Processes may do so at once: a file that another has removed is passed over, and a
        program that is removed while it is read is compiled again.
        """
        if self._max_bytes is None:
            return
        files: list[tuple[int, int, Path]] = []
        with contextlib.suppress(OSError):  # the folder may be gone by now
            files = sorted(self._stats())
        rest = sum(size for _, size, _ in files)
        for _, size, path in files:
            if rest <= self._max_bytes:
                return
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                rest -= size

    def _stats(self) -> Iterator[tuple[int, int, Path]]:
        """When each file was last used, its bytes, and its path."""
        for path in self._path.iterdir():
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                fresh = time.time() - found.st_mtime < 3600
                if path.name.endswith(PARTIAL) and fresh:
                    continue  # another process is writing it
                yield found.st_mtime_ns, found.st_size, path

    def _file(self, key: str) -> Path:
        return self._path / f"{key}.safetensors"

    def _tell(self, text: str) -> None:
        if not self._told:
            self._notify(text)
        self._told = True


def _refused(folder: Path, action: str, error: OSError) -> str:
    reason = (
        f"{folder}: cannot be {action} ({error.strerror}), so programs are compiled again each time"
    )
    return f"{reason}; set CNNBENCH_CACHE_DIR to a folder that can be written."


@dataclass(slots=True)
class Lookups:
    """How often the cache was asked for a program, and how often it had it."""

    asked: int = 0
    found: int = 0

    @property
    def state(self) -> str:
        """``warm`` where every program came from the cache, ``cold`` otherwise."""
        return "warm" if self.asked and self.found == self.asked else "cold"


@contextmanager
def count_cache_hits() -> Iterator[Lookups]:
    """Counts what the cache is asked for in its body."""
    counts = Lookups()

    def count(event: str, **_: object) -> None:
        counts.asked += event == _ASKED
        counts.found += event == _FOUND

    jax.monitoring.register_event_listener(count)
    try:
        yield counts
    finally:
        jax.monitoring.unregister_event_listener(count)
