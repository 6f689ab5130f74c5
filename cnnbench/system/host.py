"""The processor, the CPUs that the process may use, and how busy others keep them."""

import functools
import os
import platform
from pathlib import Path
from time import sleep

CPU_TIMES = Path("/proc/stat")  # Linux only
LOOK_S = 0.25


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
