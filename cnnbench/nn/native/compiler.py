"""Compiles the C code of this package that XLA calls, once for each processor.

XLA's foreign function interface (https://docs.jax.dev/en/latest/ffi.html) is in C: files are
compiled by the system's compiler against the headers of jaxlib, and kept in the cache.
"""

import ctypes
import hashlib
import os
import shlex
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.ffi
import numpy as np

from cnnbench.system.arrays import Array
from cnnbench.system.cache import cache_dir
from cnnbench.system.files import write_atomic
from cnnbench.system.host import instruction_sets

# A product and a sum in one instruction, as XLA computes them.
_OPTIONS = ("-std=c11", "-O3", "-ffp-contract=fast", "-shared", "-fPIC")
_FOR_THIS_CPU = "-march=native"  # unknown to some compilers


class _CompilerError(Exception):
    """A file cannot be compiled; says why."""


@cache
def obstacle() -> str | None:
    """Why the C files of this package cannot be compiled and loaded; None if they can."""
    names = sorted(path.name for path in Path(__file__).parent.glob("*.c"))
    with ThreadPoolExecutor() as pool:
        return next(filter(None, pool.map(_problem, names)), None)


def _problem(name: str) -> str | None:
    try:
        load_compiled(name)
    except _CompilerError as error:
        return str(error)
    except OSError as error:
        return f"the compiled {name} cannot be loaded: {error}"
    return None


@cache
def registered(name: str, target: str) -> ctypes.CDLL:
    """A compiled C file whose ``handle`` XLA calls by a name.

    Args:
      name: the file.
      target: the name of the custom call.
    """
    library = load_compiled(name)
    capsule = jax.ffi.pycapsule(ctypes.cast(library.handle, ctypes.c_void_p))
    jax.ffi.register_ffi_target(target, capsule, platform="cpu")
    return library


def call_with_workspace(
    name: str, target: str, operands: Sequence[jax.Array], sizes: Array, *results: Any
) -> list[jax.Array]:
    """Calls a C file that computes ``workspace_bytes``, and results from arrays and sizes.

    Args:
      name: the file.
      target: the name of the custom call.
      operands: arrays.
      sizes: ``Sizes`` of the file, in int64.
      *results: their shapes and dtypes.
    """
    count = registered(name, target).workspace_bytes
    count.restype = ctypes.c_int64
    workspace = jax.ShapeDtypeStruct((count(sizes.ctypes.data_as(ctypes.c_void_p)),), np.uint8)
    call = jax.ffi.ffi_call(target, (*results, workspace), vmap_method="sequential")
    *computed, _ = call(*operands, sizes=sizes)
    return computed


@cache
def load_compiled(name: str) -> ctypes.CDLL:
    """The library compiled from a C file of this package, from the cache if possible.

    Raises:
      OSError: it cannot be loaded.
      _CompilerError: it cannot be compiled.
    """
    source = Path(__file__).with_name(name)
    path = _cached(source)
    try:
        return ctypes.CDLL(str(path))
    except OSError:  # not compiled yet, or damaged
        return _compile(source, path)


def _compiler() -> str:
    return os.environ.get("CC") or "cc"


def _cached(source: Path) -> Path:
    """The compiled file, named by everything it depends on."""
    files = [source, *sorted(source.parent.glob("*.h"))]
    contents = [file.read_text(encoding="utf-8") for file in files]
    content = "\n".join([*contents, *_OPTIONS, version("jaxlib"), instruction_sets()])
    digest = hashlib.sha256(content.encode()).hexdigest()[:32]
    return cache_dir() / "native" / f"{digest}.so"


def _compile(source: Path, cached: Path) -> ctypes.CDLL:
    with TemporaryDirectory(prefix="cnnbench-") as folder:
        path = Path(folder) / "native.so"
        try:
            _run_compiler(source, path, [_FOR_THIS_CPU])
        except _CompilerError:
            _run_compiler(source, path, [])
        with suppress(OSError):  # compiled again next time
            cached.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(cached, path.read_bytes())
        return ctypes.CDLL(str(path))


def _run_compiler(source: Path, path: Path, more: Sequence[str]) -> None:
    options = [*_OPTIONS, *more, "-I", jax.ffi.include_dir()]
    try:
        command = [*shlex.split(_compiler()), *options, "-o", str(path), str(source)]
        subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, ValueError) as error:
        message = f"a C compiler is needed, and {_compiler()} cannot be run: {error}"
        raise _CompilerError(f"{message}; install gcc") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines()
        said = next((line for line in lines if "error" in line), "".join(lines[:1]))
        message = f"{_compiler()} cannot compile {source.name}: {said}"
        raise _CompilerError(message) from None
