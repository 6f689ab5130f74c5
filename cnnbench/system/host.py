"""The host: its processor and CPUs, how busy others keep them, and memory."""

import ctypes
import functools
import os
import platform
import sys
from pathlib import Path
from time import sleep

CPU_TIMES = Path("/proc/stat")  # Linux only
LOOK_S = 0.25
# By their numbers in malloc.h: M_TRIM_THRESHOLD, M_TOP_PAD (a thread's heap), M_MMAP_MAX.
_KEEPING = {-1: 2**31 - 1, -2: 64 << 20, -4: 0}


@functools.cache
def load_per_cpu() -> float | None:
    """Load of the machine's CPUs by others, when this was first called.

    Only then: later, it would be the load that our own training makes. The average of the last
    minute may be that of a command that has just ended, so a moment's look counts if it is lower.
    """
    if not hasattr(os, "getloadavg"):  # Windows
        return None
    average = os.getloadavg()[0] / (os.cpu_count() or 1)
    if average < 0.1 or not CPU_TIMES.exists():
        return average
    before = CPU_TIMES.read_text(encoding="ascii")
    sleep(LOOK_S)
    return min(average, busy_share(before, CPU_TIMES.read_text(encoding="ascii")))


def busy_share(before: str, after: str) -> float:
    """The share of all CPUs' time between two readings of `/proc/stat` that was not idle (proc(5)).

    >>> busy_share("cpu  10 0 10 70 10 0 0 0", "cpu  60 0 10 120 10 0 0 0")
    0.5
    """
    first, last = ([int(word) for word in text.split()[1:9]] for text in (before, after))
    # user, nice, system, idle, waiting for the disk, two kinds of interrupts, stolen by a host
    spent = [end - start for start, end in zip(first, last, strict=True)]
    return 1 - (spent[3] + spent[4]) / (sum(spent) or 1)


def num_cpus() -> int:
    """Number of CPUs this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def processor() -> str:
    """The processor's model name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_memory_bytes() -> int | None:
    """The most memory that was ever resident in this process; None where nothing tells.

    `getrusage` keeps its maximum when a process becomes another program, and so
    would count the parent's memory; Linux knows better.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def keep_malloc_arenas() -> None:
    """Keeps memory that is freed for the next step, where the C library is GNU's.

    XLA takes the memory of a step anew each time. Large blocks, and whole heaps of
    threads, go back to the system when they are freed, and then every page of them is
    a fault in the next step. See mallopt(3).
    """
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)
    if adjust is not None:
        for parameter, value in _KEEPING.items():
            adjust(parameter, value)


def free_bytes(root: Path = Path("/")) -> int | None:
    """Memory that this process can still take; None where nothing tells.

    Args:
      root: of the system's files.
    """
    rooms = [_machine_room(root / "proc/meminfo"), _group_room(root / "sys/fs/cgroup")]
    return min((room for room in rooms if room is not None), default=None)


def _machine_room(file: Path) -> int | None:
    """What Linux could give without swapping."""
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _group_room(folder: Path) -> int | None:
    """What a container's limit leaves; pages of files are given back when they are in the way."""
    try:
        most = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    cached = {name: int(value) for name, value in map(str.split, lines)}.get("file", 0)
    return None if most == "max" else max(0, int(most) - used + cached)
