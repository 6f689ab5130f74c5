"""Finds oneDNN (https://uxlfoundation.github.io/oneDNN).

The package ``onednn-cpu-gomp`` has the library, and so have conda-forge and newer Linux
distributions.
"""

import ctypes
import os
import platform
import site
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from cnnbench.nn.native.compiler import obstacle
from cnnbench.system.commands import pip_install

SONAME, _MAJOR = "libdnnl.so.3", 3
_SEQUENTIAL, _OPENMP = 1, 2  # values of `cpu_runtime`
_INSTALL = (
    f"run {pip_install('cnnbench[onednn]')}"
    if (sys.platform, platform.machine()) == ("linux", "x86_64")
    else "its package is for Linux on x86-64"
)


class _Version(ctypes.Structure):
    """``dnnl_version_t`` of dnnl_types.h."""

    _fields_ = (
        ("major", ctypes.c_int),
        ("minor", ctypes.c_int),
        ("patch", ctypes.c_int),
        ("hash", ctypes.c_char_p),
        ("cpu_runtime", ctypes.c_uint),
        ("gpu_runtime", ctypes.c_uint),
    )


@cache
def lacking() -> str | None:
    """What is missing to use oneDNN, and how to install it; None if nothing is."""
    found, reason = _search()
    return reason if found is None else obstacle()


def load() -> ctypes.CDLL | None:
    """The library, with threads of OpenMP or none; None if it is not installed."""
    return _search()[0]


def number() -> str:
    """The version of oneDNN, such as ``3.2.0``; empty if it is not installed."""
    return _version_text(library) if (library := load()) else ""


@cache
def _search() -> tuple[ctypes.CDLL | None, str]:
    """The library, or why there is none."""
    reason = f"oneDNN 3 is not installed; {_INSTALL}"
    for path in _paths():
        try:
            with _same_cpus():
                found = ctypes.CDLL(path)
        except OSError as error:
            reason = str(error) if Path(path).exists() else reason
            continue
        known = _version(found)
        if known.major == _MAJOR and known.cpu_runtime in {_SEQUENTIAL, _OPENMP}:
            return found, ""
        reason = f"{path} is oneDNN {_version_text(found)} without OpenMP; {_INSTALL}"
    return None, reason


@contextmanager
def _same_cpus() -> Iterator[None]:
    """Keeps OpenMP, whose variables may bind threads, from restricting this one to a CPU."""
    if sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _version(library: ctypes.CDLL) -> _Version:
    library.dnnl_version.restype = ctypes.POINTER(_Version)
    found: _Version = library.dnnl_version().contents
    return found


def _version_text(library: ctypes.CDLL) -> str:
    found = _version(library)
    return f"{found.major}.{found.minor}.{found.patch}"


def _paths() -> list[str]:
    """Files that may be the library: of this environment, of the user, and of the system."""
    own = [Path(sysconfig.get_path("data")), Path(site.getuserbase())]
    return [*(str(each / "lib" / SONAME) for each in own), SONAME]
