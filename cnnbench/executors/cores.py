"""Divides the cores of this machine among worker processes."""

import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from cnnbench.errors import UsageError


def available_cores() -> tuple[int, ...]:
    """Numbers of the cores available to this process, as set by `taskset`, a cpuset or SLURM."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return tuple(sorted(affinity(0))) if affinity else tuple(range(os.cpu_count() or 1))


def divided(cores: Sequence[int], workers: int) -> list[tuple[int, ...]]:
    """Divides cores evenly into disjoint sets of neighbors.

    Args:
      cores: numbers of the cores, in order.
      workers: number of sets. Leftover cores are not used, so that all workers are equally
        fast.

    Raises:
      UsageError: there are fewer cores than workers.

    >>> divided((0, 1, 2, 3, 6), 2)
    [(0, 1), (2, 3)]
    """
    if workers > len(cores):
        have = "1 core is" if len(cores) == 1 else f"{len(cores)} cores are"
        message = f"--on: {workers} workers, but only {have} available to this process"
        raise UsageError(f"{message}; write --on local:{len(cores)}, or --on local.")
    share = len(cores) // workers
    return [tuple(cores[i * share : (i + 1) * share]) for i in range(workers)]


def pin(cores: Collection[int]) -> None:
    """Restricts all threads of this process and its future children to some cores.

    It has no effect on systems without CPU affinity. XLA sizes its thread pool by the affinity
    when JAX starts, so pin first.
    """
    if hasattr(os, "sched_setaffinity"):
        for thread in _threads():
            with suppress(ProcessLookupError):  # it has just ended
                os.sched_setaffinity(thread, cores)


def _threads() -> list[int]:
    """Threads of this process, such as NumPy's; later threads inherit the cores."""
    folder = Path("/proc/self/task")
    return [int(each.name) for each in folder.iterdir()] if folder.exists() else [0]
