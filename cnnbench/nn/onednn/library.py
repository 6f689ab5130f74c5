"""Finds oneDNN (https://uxlfoundation.github.io/oneDNN), and compiles what calls it from XLA.

The package ``onednn-cpu-gomp`` has the library, and so have conda-forge and newer Linux
distributions. XLA's foreign function interface (https://docs.jax.dev/en/latest/ffi.html) is in C:
``handler.c`` is compiled once by the system's compiler against the headers of jaxlib.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from cnnbench.system.cache import cache_dir
from cnnbench.system.commands import pip_install
from cnnbench.system.files import write_atomic

SONAME, _MAJOR = "libdnnl.so.3", 3
_SEQUENTIAL, _OPENMP = 1, 2  # values of `cpu_runtime`
_INSTALL = (
    f"run {pip_install('cnnbench[onednn]')}"
    if (sys.platform, platform.machine()) == ("linux", "x86_64")
    else "its package is for Linux on x86-64"
)
_SOURCE = Path(__file__).with_name("handler.c")


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
    if found is None:
        return reason
    try:
        handler()
    except _CompilerError as error:
        return str(error)
    except OSError as error:
        return f"the compiled {_SOURCE.name} cannot be loaded: {error}"
    return None


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


class _CompilerError(Exception):
    """The handler cannot be compiled; says why."""


@cache
def handler() -> ctypes.CDLL:
    """The compiled ``handler.c``, from the cache if possible.

    Raises:
      OSError: it cannot be loaded.
    """
    path = _cached()
    try:
        return ctypes.CDLL(str(path))
    except OSError:  # not compiled yet, or damaged
        return _compile(path)


def _compiler() -> str:
    return os.environ.get("CC") or "cc"


def _cached() -> Path:
    """The file of the handler, named by its source and the version of jaxlib."""
    content = _SOURCE.read_bytes() + version("jaxlib").encode()
    return cache_dir() / "handlers" / f"{hashlib.sha256(content).hexdigest()[:32]}.so"


def _compile(cached: Path) -> ctypes.CDLL:
    with TemporaryDirectory(prefix="cnnbench-") as folder:
        path = Path(folder) / "handler.so"
        _run_compiler(path)
        with suppress(OSError):  # compiled again next time
            cached.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(cached, path.read_bytes())
        return ctypes.CDLL(str(path))


def _run_compiler(path: Path) -> None:
    import jax.ffi

    options = ["-std=c11", "-O2", "-shared", "-fPIC", "-I", jax.ffi.include_dir()]
    try:
        command = [*shlex.split(_compiler()), *options, "-o", str(path), str(_SOURCE)]
        subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, ValueError) as error:
        message = f"JAX needs a C compiler to call oneDNN, and {_compiler()} cannot be run: {error}"
        raise _CompilerError(f"{message}; install gcc") from None
    except subprocess.CalledProcessError as error:
        message = f"{_compiler()} cannot compile {_SOURCE.name}: {error.stderr.strip()}"
        raise _CompilerError(message) from None
