"""Runs tasks in the worker processes of Grain, and returns their results in order."""

import gc
import importlib.machinery
import multiprocessing
import os
import shutil
import sys
import threading
import types
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cnnbench.data.streaming import worker_main
from cnnbench.errors import DataError
from cnnbench.system import commands

TaskResult = Mapping[str, NDArray[Any]]

SHARED_MEMORY = Path("/dev/shm")  # on Linux
_ITEMS_AT_ONCE = 4  # of each worker, in its buffers and those of the parent
_FAILED = "error"  # name of the text of an error, as an array


class Tasks(Protocol):
    """What worker processes do, as a sequence; pickled for each of them."""

    def __len__(self) -> int:
        """Number of items."""

    def __getitem__(self, number: int) -> TaskResult:
        """Arrays by name, computed in a worker process.

        Raises:
          DataError: an image cannot be read.
        """


@dataclass(frozen=True, slots=True)
class _Guarded:
    """Tasks whose errors are returned, since an exception would not keep its message."""

    tasks: Tasks

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, number: int) -> TaskResult:
        try:
            return self.tasks[number]
        except DataError as error:
            return {_FAILED: np.frombuffer(str(error).encode(errors="surrogateescape"), np.uint8)}


def require_grain(what: str) -> Any:
    """Imports Grain.

    Args:
      what: what needs it, for the message.

    Raises:
      DataError: it is not installed.
    """
    try:
        import grain
        from absl import flags
    except ImportError as error:
        install = commands.pip_install("cnnbench[streaming]")
        raise DataError(f"{what} requires grain; {install}") from error
    if not flags.FLAGS.is_parsed():  # by a program that uses Abseil
        flags.FLAGS.mark_as_parsed()  # Grain reads its own
    return grain


@contextmanager
def results(
    tasks: Tasks, *, workers: int, item_bytes: int, start: int = 0
) -> Iterator[Iterator[TaskResult]]:
    """Runs tasks in worker processes, ahead of the caller.

    Args:
      tasks: what to do.
      workers: number of processes.
      item_bytes: bytes of the largest item.
      start: number of the first item.

    Yields:
      An iterator over the items, in order; it raises `DataError` if an image cannot be read or a
      process was killed. The processes end with the context.

    Raises:
      DataError: Grain is not installed.
    """
    grain = require_grain("streaming a dataset")
    workers = max(1, min(workers, len(tasks) - start))
    rows = grain.MapDataset.source(_Guarded(tasks)).slice(slice(start, None))
    # One item at a time: its images, not Grain's threads, are what a worker is busy with.
    items = rows.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    if not _has_shared_memory(workers * _ITEMS_AT_ONCE * item_bytes):
        options = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
        items = grain.experimental.WithOptionsIterDataset(items, options)
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
    found = iter(items.mp_prefetch(options, worker_init_fn=_prepare_worker))
    checked = _checked(found, workers, len(tasks) - start)
    try:
        yield checked
    finally:
        checked.close()
        found.close()
        del found
        gc.collect()  # cycles in Grain's iterators keep shared memory


def _checked(
    found: Iterator[TaskResult], workers: int, number: int
) -> Generator[TaskResult, None, None]:
    """The items; those of each worker's first task are waited for before the first is returned."""
    with _light_main():  # processes start with the first item
        first = deque(_next(found) for _ in range(min(workers, number)))
    for _ in range(number):
        yield first.popleft() if first else _next(found)


def _next(found: Iterator[TaskResult]) -> TaskResult:
    try:
        item = next(found)
    except RuntimeError as error:  # a process was killed
        reason = str(error).partition(". Search")[0]
        raise DataError(
            f"streaming: {reason[:1].lower()}{reason[1:]}; it may have run out of memory, use fewer"
            " --workers"
        ) from None
    if _FAILED in item:
        raise DataError(item[_FAILED].tobytes().decode(errors="surrogateescape"))
    return {name: np.array(values) for name, values in item.items()}  # not in shared memory


def _has_shared_memory(need: int) -> bool:
    """True if items fit into shared memory; a container may have little of it."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free > 2 * need
    except OSError:  # not Linux
        return True


_starting = threading.Lock()


@contextmanager
def _light_main() -> Iterator[None]:
    """Makes processes that start in the meantime import `worker_main` as their main module."""
    main = types.ModuleType("__main__")
    main.__spec__ = importlib.machinery.ModuleSpec(worker_main.__name__, None)
    with _starting:
        before = sys.modules["__main__"]
        sys.modules["__main__"] = main
        try:
            yield
        finally:
            sys.modules["__main__"] = before


def _prepare_worker(_number: int, _count: int) -> None:
    """Prepares a worker process: it ends with its parent, however that ends."""
    warnings.simplefilter("ignore")  # of Pillow
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)
