"""What a run needs to say about the software and the machine it ran on."""

import functools
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from time import sleep

import jax

from cnnbench import settings
from cnnbench._version import __version__
from cnnbench.results import Environment

CPU_TIMES = Path("/proc/stat")  # Linux only
LOOK_S = 0.25


def environment(devices: Sequence[jax.Device], command: Sequence[str]) -> Environment:
    """The environment of a run, without a host name.

    Args:
      devices: where it may train.
      command: the command line, word by word.
    """
    device = devices[0]
    commit, dirty = _git_state(Path())
    return Environment(
        python=platform.python_version(),
        cnnbench=__version__,
        **{name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")},
        platform=f"{platform.system()}-{platform.machine()}",
        processor=processor(),
        num_cpus=num_cpus(),
        device_kind=device.platform,
        device=device.device_kind if device.platform != "cpu" else processor(),
        num_devices=len(devices),
        commit=commit,
        dirty=dirty,
        command=tuple(command),
        load_per_cpu=load_per_cpu(),
        settings=settings.current(),
    )


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


def _git_state(folder: Path) -> tuple[str | None, bool | None]:
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None, None
    return commit, bool(_git(folder, "status", "--porcelain"))


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", folder, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
