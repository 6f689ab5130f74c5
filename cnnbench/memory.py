"""Memory of this process."""

import sys
from pathlib import Path


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
