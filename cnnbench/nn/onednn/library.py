"""Finds oneDNN (https://uxlfoundation.github.io/oneDNN), and compiles what calls it from XLA.

The package ``onednn-cpu-gomp`` has the library, and so have conda-forge and newer Linux
distributions. XLA's foreign function interface (https://docs.jax.dev/en/latest/ffi.html) is in C:
``handler.c`` is compiled once by the system's compiler against the headers of jaxlib.
"""

import ctypes
import hashlib
import os
import shlex
import site
import subprocess
import sysconfig
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from cnnbench.system.cache import cache_dir
from cnnbench.system.commands import pip_install
from cnnbench.system.files import write_atomic

SONAME = "libdnnl.so.3"  # of version 3
_SEQUENTIAL, _OPENMP = 1, 2  # values of `cpu_runtime`
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
    if load() is None:
        return f"oneDNN 3 with OpenMP is not installed; run {pip_install('cnnbench[onednn]')}"
    try:
        handler()
    except FileNotFoundError:
        return f"JAX needs a C compiler to call oneDNN, and there is no {_compiler()}; install gcc"
    except subprocess.CalledProcessError as error:
        return f"{_compiler()} cannot compile the call of oneDNN: {error.stderr.strip()}"
    except OSError as error:
        return f"the call of oneDNN cannot be loaded: {error}"
    return None


@cache
def load() -> ctypes.CDLL | None:
    """The library, with threads of OpenMP or none; None if it is not installed."""
    for path in _paths():
        try:
            found = ctypes.CDLL(path)
        except OSError:
            continue
        known = _version(found)
        if known.major == 3 and known.cpu_runtime in {_SEQUENTIAL, _OPENMP}:
            return found
    return None


def _version(library: ctypes.CDLL) -> _Version:
    library.dnnl_version.restype = ctypes.POINTER(_Version)
    found: _Version = library.dnnl_version().contents
    return found


def number() -> str:
    """The version of oneDNN, such as ``3.2.0``; empty if it is not installed."""
    if (library := load()) is None:
        return ""
    found = _version(library)
    return f"{found.major}.{found.minor}.{found.patch}"


def _paths() -> list[str]:
    """Files that may be the library: of this environment, of the user, and of the system."""
    own = [Path(sysconfig.get_path("data")), Path(site.getuserbase())]
    return [*(str(each / "lib" / SONAME) for each in own), SONAME]


@cache
def handler() -> ctypes.CDLL:
    """The compiled ``handler.c``, from the cache if possible.

    Raises:
      FileNotFoundError: there is no compiler.
      CalledProcessError: it cannot compile the file.
      OSError: the result cannot be loaded.
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
    import jax.ffi

    with TemporaryDirectory(prefix="cnnbench-") as folder:
        path = Path(folder) / "handler.so"
        options = ["-std=c11", "-O2", "-shared", "-fPIC", "-I", jax.ffi.include_dir()]
        command = [*shlex.split(_compiler()), *options, "-o", str(path), str(_SOURCE)]
        subprocess.run(command, capture_output=True, text=True, check=True)
        with suppress(OSError):  # compiled again next time
            cached.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(cached, path.read_bytes())
        return ctypes.CDLL(str(path))
