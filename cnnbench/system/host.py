"""The host: processor, CPU load and memory."""

import ctypes
import functools
import os
import platform
import sys
from collections.abc import Callable, Mapping
from ctypes.util import find_library
from pathlib import Path
from time import sleep
from types import MappingProxyType

CPU_TIMES = Path("/proc/stat")  # Linux only
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # likewise
SAMPLE_S = 0.25
BUSY = 0.5  # load per CPU of a machine that is too busy to time something reliably
# Constants of malloc.h: M_TRIM_THRESHOLD, M_TOP_PAD (for the heap of a thread), M_MMAP_MAX.
_KEEPING = {-1: 2**31 - 1, -2: 64 << 20, -4: 0}
_TUNABLES, _HUGE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"  # read by glibc
_PRELOAD = "LD_PRELOAD"  # read by the dynamic linker
TCMALLOC = "tcmalloc_minimal"  # https://gperftools.github.io/gperftools/tcmalloc.html
# It never returns memory, and does not report large blocks.
TCMALLOC_KEEPS = MappingProxyType(
    {"TCMALLOC_RELEASE_RATE": "0", "TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD": f"{2**50}"}
)


@functools.cache
def load_per_cpu() -> float | None:
    """CPU load by other processes, at the time of the first call.

    Cached, because later values would include our own training. The one-minute average may be due
    to a command that has just ended, so a short measurement is used if it is lower.

    Returns:
      Load per CPU; None if unknown.
    """
    if not hasattr(os, "getloadavg"):  # Windows
        return None
    average = os.getloadavg()[0] / (os.cpu_count() or 1)
    if average < 0.1 or not CPU_TIMES.exists():
        return average
    before = CPU_TIMES.read_text(encoding="ascii")
    sleep(SAMPLE_S)
    return min(average, busy_share(before, CPU_TIMES.read_text(encoding="ascii")))


def busy_share(before: str, after: str) -> float:
    """Fraction of CPU time that was not idle between two readings of `/proc/stat` (proc(5)).

    >>> busy_share("cpu  10 0 10 70 10 0 0 0", "cpu  60 0 10 120 10 0 0 0")
    0.5
    """
    first, last = ([int(word) for word in text.split()[1:9]] for text in (before, after))
    # user, nice, system, idle, iowait, irq, softirq, steal
    spent = [end - start for start, end in zip(first, last, strict=True)]
    return 1 - (spent[3] + spent[4]) / (sum(spent) or 1)


def num_cpus() -> int:
    """Number of CPUs available to this process."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def chosen_cpus() -> tuple[int, ...]:
    """Numbers of the CPUs that this process is restricted to; empty if it may use all of them."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    found = sorted(affinity(0)) if affinity else ()
    return tuple(found) if len(found) < (os.cpu_count() or 1) else ()


def processor() -> str:
    """Model name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores(root: Path = Path("/")) -> tuple[int, ...]:
    """One CPU of every physical core that this process may use, in ascending order.

    Args:
      root: root of the file system.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cpus = sorted(affinity(0)) if affinity else range(os.cpu_count() or 1)
    found: dict[str, int] = {}
    for cpu in cpus:
        siblings = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        core = siblings.read_text(encoding="ascii") if siblings.exists() else f"{cpu}"
        found.setdefault(core, cpu)
    return tuple(found.values())


def has_bfloat16(root: Path = Path("/")) -> bool:
    """Whether the processor has instructions for products in bfloat16; Linux only.

    Args:
      root: root of the file system.
    """
    return not {"amx_bf16", "avx512_bf16", "bf16"}.isdisjoint(instruction_sets(root).split())


def instruction_sets(root: Path = Path("/")) -> str:
    """Names of the instruction sets of the processor on Linux; elsewhere, its model.

    Args:
      root: root of the file system.
    """
    file = root / "proc/cpuinfo"
    if not file.exists():
        return processor()
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(("flags", "Features")):
            return line.partition(":")[2].strip()
    return processor()


def peak_memory_bytes() -> int | None:
    """Peak resident memory of this process; None if unknown.

    Prefers `/proc` on Linux: the maximum of `getrusage` survives exec, and would include the memory
    of the parent.
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
    """Configures glibc to reuse freed memory instead of returning it to the system.

    XLA allocates memory for every step. Large blocks and heaps of threads would be returned to the
    system when freed, and cause page faults in the next step. See mallopt(3).
    """
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)
    if adjust is not None:
        for parameter, value in _KEEPING.items():
            adjust(parameter, value)


def kept_memory(
    environ: Mapping[str, str], find: Callable[[str], str | None] = find_library
) -> dict[str, str]:
    """Environment variables of a new process that keeps large blocks of memory; may be empty.

    When a thread allocates more than 64 MiB, glibc maps new memory each time, even after
    `keep_malloc_arenas`, and deep networks need such blocks in every step. tcmalloc keeps them, if
    it is installed; otherwise, `huge_pages` make it faster.

    Args:
      environ: environment variables; a malloc in ``LD_PRELOAD`` and a choice of huge pages in
        ``GLIBC_TUNABLES`` are kept.
      find: finds a shared library by its name without prefix and suffix.

    >>> kept_memory({}, lambda name: f"lib{name}.so")["LD_PRELOAD"]
    'libtcmalloc_minimal.so'
    >>> kept_memory({"LD_PRELOAD": "libjemalloc.so.2"})
    {}
    """
    if "malloc" in environ.get(_PRELOAD, "") or _HUGE in environ.get(_TUNABLES, ""):
        return {}
    library = find(TCMALLOC) if sys.platform == "linux" else None
    if library is None:
        return huge_pages(environ)
    return {**preloading(library, environ), **TCMALLOC_KEEPS}


def preloading(library: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that preload a library before the caller's libraries.

    >>> preloading("libjemalloc.so.2", {"LD_PRELOAD": "libfoo.so"})
    {'LD_PRELOAD': 'libjemalloc.so.2:libfoo.so'}
    """
    others = environ.get(_PRELOAD, "")
    return {_PRELOAD: f"{library}:{others}" if others else library}


def huge_pages(environ: Mapping[str, str], modes: Path = HUGE_PAGES) -> dict[str, str]:
    """Environment variables that make glibc request huge pages in a new process; may be empty.

    They cause 500 times fewer page faults, and need glibc 2.35 or later, and a kernel in the mode
    "madvise".

    Args:
      environ: environment variables; a choice in ``GLIBC_TUNABLES`` is kept.
      modes: the kernel's file with its modes.

    >>> huge_pages({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"})
    {}
    """
    known = environ.get(_TUNABLES, "")
    if _HUGE in known or not modes.exists() or "[madvise]" not in modes.read_text(encoding="utf-8"):
        return {}
    others = f"{known}:" if known else ""
    return {_TUNABLES: f"{others}{_HUGE}=1"}


def trim_malloc() -> None:
    """Returns memory that was freed to the system, if malloc is that of glibc or tcmalloc.

    Compiling a deep network takes several times the memory of its training. See malloc_trim(3).
    """
    program = ctypes.CDLL(None)
    if release := getattr(program, "MallocExtension_ReleaseFreeMemory", None):  # of tcmalloc
        release()
    elif trim := getattr(program, "malloc_trim", None):
        trim(0)


def free_bytes(root: Path = Path("/")) -> int | None:
    """Available memory of this process in bytes; None if unknown.

    Args:
      root: root of the file system.
    """
    available = [
        _machine_available(root / "proc/meminfo"),
        _cgroup_available(root / "sys/fs/cgroup"),
    ]
    return min((size for size in available if size is not None), default=None)


def _machine_available(file: Path) -> int | None:
    """Available memory of the machine without swapping."""
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroup_available(folder: Path) -> int | None:
    """Available memory within the cgroup limit; page cache counts as available."""
    try:
        most = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    cached = {name: int(value) for name, value in map(str.split, lines)}.get("file", 0)
    return None if most == "max" else max(0, int(most) - used + cached)
