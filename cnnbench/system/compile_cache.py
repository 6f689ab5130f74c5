"""Compilation of JAX programs, with a robust on-disk cache."""

import contextlib
import gc
import importlib
import inspect
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar, cast

import jax
import numpy as np

from cnnbench.errors import Notify
from cnnbench.system.cache import CacheEntry, cache_dir, read_entry, write_entry
from cnnbench.system.files import PARTIAL
from cnnbench.system.settings import env_setting

_REQUESTS = "/jax/compilation_cache/compile_requests_use_cache"
_HITS = "/jax/compilation_cache/cache_hits"

_ALLOCATIONS = 50_000  # between two garbage collections while tracing; Python's default is 700

DEFAULT_MAX_BYTES = 2 * 1024**3  # total size of all programs
_MODULE, _OPEN = "jax._src.compilation_cache", "get_file_cache"


Program = tuple[jax.stages.Lowered, Mapping[str, Any]]  # with the options of `compiled`
_Function = TypeVar("_Function", bound=Callable[..., Any])


def traced_once(*static: int) -> Callable[[_Function], _Function]:
    """A decorator: programs trace the function once for all arguments of the same shapes.

    This is `jax.jit` without losing the function's type. XLA inlines the calls, so that the
    compiled program does not change.

    Args:
      static: positions of hashable arguments that are not arrays.
    """

    def decorate(function: _Function) -> _Function:
        return cast("_Function", jax.jit(function, static_argnums=static))

    return decorate


def compiled(lowered: jax.stages.Lowered, options: Mapping[str, Any]) -> Any:
    """Compiles a program, ignoring options that the installed XLA does not have.

    Args:
      lowered: the program.
      options: XLA options by name, which must only affect speed.
    """
    try:
        return lowered.compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError as error:
        unknown = re.search(r"No such compile option: '(\w+)'", str(error))
        if unknown is None or unknown[1] not in options:
            raise
    return compiled(lowered, {name: options[name] for name in options if name != unknown[1]})


@contextmanager
def rare_collections() -> Iterator[None]:
    """Collects garbage less often, as tracing creates many objects that stay alive."""
    thresholds = gc.get_threshold()
    gc.set_threshold(max(thresholds[0], _ALLOCATIONS), *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


def compiled_together(programs: Iterable[Program], at_once: int) -> list[Any]:
    """Compiles programs in parallel, for each of which XLA uses hardly more than one core.

    Args:
      programs: the programs; each is compiled while an iterator traces the next one.
      at_once: number of programs compiled at a time.
    """
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda program: compiled(*program), programs))


def enable_compile_cache(notify: Notify) -> None:
    """Enables the on-disk cache of compiled programs.

    Args:
      notify: receives a message if the cache is not available or a file is damaged.
    """
    cache = _replaceable_cache()
    if cache is None:
        notify(
            f"this cnnbench does not support the compilation cache of jax {jax.__version__},"
            " so programs are recompiled each time; update cnnbench."
        )
        return
    folder = cache_dir() / "programs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        notify(_refused(folder, "created", error))
        return
    if (wanted := env_setting("jax_compilation_cache_dir")) and not wanted.endswith(f"={folder}"):
        message = f"ignoring {wanted}: compiled programs are kept in {folder}"
        notify(f"{message}; set CNNBENCH_CACHE_DIR to keep them elsewhere.")
    cache[_OPEN] = partial(_open, notify)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # By default, only programs that take at least a second to compile are cached.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _replaceable_cache() -> dict[str, Any] | None:
    """Namespace of the JAX module that opens the cache; None if it has an unknown interface.

    The module is private, and JAX has no public API to replace the cache (0.10 to 0.12).
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
    """Maximum size of the cache: JAX_COMPILATION_CACHE_MAX_SIZE; None for no limit."""
    size = int(jax.config.values["jax_compilation_cache_max_size"])
    if size >= 0:
        return size
    return None if "JAX_COMPILATION_CACHE_MAX_SIZE" in os.environ else DEFAULT_MAX_BYTES


class ProgramFiles:
    """Compilation cache with atomically written and verified files.

    JAX's own cache writes files in place: other processes can read partial files, and a killed
    process leaves them behind.

    Args:
      folder: the cache folder.
      notify: receives a message for the first file that is damaged or cannot be written.
      max_bytes: maximum total size; the least recently used files are evicted. None for no limit.
    """

    def __init__(
        self, folder: Path, notify: Notify, max_bytes: int | None = DEFAULT_MAX_BYTES
    ) -> None:
        self._path = folder  # JAX reads this attribute
        self._max_bytes = max_bytes
        self._notify = notify
        self._notified = False

    def get(self, key: str) -> bytes | None:
        """The cached program of a key; None if not cached."""
        entry = read_entry(self._file(key), key, self._notify_once)
        if entry:
            self._touch(key)
        return entry.arrays["program"].tobytes() if entry else None

    def put(self, key: str, program: bytes) -> None:
        """Writes a program to the cache, if possible."""
        content = CacheEntry({"program": np.frombuffer(program, np.uint8)}, "JAX", key)
        if self._max_bytes is not None and len(program) > self._max_bytes:
            return
        try:
            write_entry(self._file(key), content)
        except OSError as error:
            self._notify_once(_refused(self._path, "written", error))
            return
        self._touch(key)
        self._evict()

    def _touch(self, key: str) -> None:
        """Records the time of use, in nanoseconds: the clock of the file system is coarser."""
        # Another process may have removed the file, or the folder may be read-only.
        with contextlib.suppress(OSError):
            os.utime(self._file(key), ns=(time.time_ns(),) * 2)

    def _evict(self) -> None:
        """Removes the least recently used programs until the cache is within its limit.

        Safe with concurrent processes: files removed by others are skipped, and programs removed
        while they are read are recompiled.
        """
        if self._max_bytes is None:
            return
        files: list[tuple[int, int, Path]] = []
        with contextlib.suppress(OSError):  # the folder may have been deleted
            files = sorted(self._stats())
        rest = sum(size for _, size, _ in files)
        for _, size, path in files:
            if rest <= self._max_bytes:
                return
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                rest -= size

    def _stats(self) -> Iterator[tuple[int, int, Path]]:
        """Time of last use, size and path of each file."""
        for path in self._path.iterdir():
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                fresh = time.time() - found.st_mtime < 3600
                if path.name.endswith(PARTIAL) and fresh:
                    continue  # another process is writing it
                yield found.st_mtime_ns, found.st_size, path

    def _file(self, key: str) -> Path:
        return self._path / f"{key}.safetensors"

    def _notify_once(self, text: str) -> None:
        if not self._notified:
            self._notify(text)
        self._notified = True


def _refused(folder: Path, action: str, error: OSError) -> str:
    reason = (
        f"{folder}: cannot be {action} ({error.strerror}), so programs are recompiled each time"
    )
    return f"{reason}; set CNNBENCH_CACHE_DIR to a writable folder."


@dataclass(slots=True)
class CacheStats:
    """Counts of cache requests and hits."""

    requests: int = 0
    hits: int = 0

    @property
    def state(self) -> str:
        """``warm`` if all requests were hits, else ``cold``."""
        return "warm" if self.requests and self.hits == self.requests else "cold"


@contextmanager
def count_cache_hits() -> Iterator[CacheStats]:
    """Counts cache requests and hits while its body runs."""
    counts, lock = CacheStats(), Lock()

    def count(event: str, **_: object) -> None:
        with lock:  # programs are compiled in several threads
            counts.requests += event == _REQUESTS
            counts.hits += event == _HITS

    jax.monitoring.register_event_listener(count)
    try:
        yield counts
    finally:
        jax.monitoring.unregister_event_listener(count)
