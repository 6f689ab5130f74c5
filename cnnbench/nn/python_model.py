"""Networks defined by a user's Python class."""

import importlib
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Callable, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from flax import nnx

from cnnbench.errors import ModelError
from cnnbench.layers.base import shape_text


def import_class(reference: str, folder: Path) -> type[nnx.Module]:
    """Imports the class of a Python model.

    Args:
      reference: ``package.module:Class``, installed or in the folder of the experiment file.
      folder: the folder of the experiment file.

    Raises:
      ModelError: no such module or class, or not an `nnx.Module`.
    """
    module_name, _, class_name = reference.partition(":")
    _forget_namesake(module_name.partition(".")[0], folder)
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        message = f"no module named '{error.name}'"
        raise ModelError("python", message, f"install it, or put it in {folder}") from None
    finally:
        sys.path.remove(str(folder))
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, nnx.Module)):
        message = f"'{module_name}' has no nnx.Module named '{class_name}'"
        raise ModelError("python", message, "define it there")
    return found


def require_trust(reference: str, folder: Path) -> None:
    """Checks that a module is installed or in the folder of the experiment file.

    Other modules would be imported from the working directory or ``PYTHONPATH``, which the author
    of the experiment file may not have intended. Does not import the module.

    Args:
      reference: ``package.module:Class``.
      folder: the folder of the experiment file.

    Raises:
      ModelError: the module is somewhere else.
    """
    package = reference.partition(":")[0].partition(".")[0]
    local = [folder / f"{package}.py", folder / package]
    if any(path.exists() for path in local):
        return
    found = importlib.util.find_spec(package)
    if found is None or _is_installed(package, found.origin):
        return  # a missing module is reported on import
    message = f"'{package}' is neither installed nor in the folder of the file ({found.origin})"
    raise ModelError("python", message, "add --allow-python if you trust it")


def _is_installed(package: str, origin: str | None) -> bool:
    """Returns True if a package is installed (also in editable mode), or part of Python."""
    if package in {*sys.stdlib_module_names, *packages_distributions()}:
        return True
    places = [Path(path).resolve() for path in sysconfig.get_paths().values()]
    links = (file.read_text(encoding="utf-8") for p in set(places) for file in p.glob("*.pth"))
    places += [Path(line) for text in links for line in text.splitlines() if line.startswith("/")]
    return any(Path(origin or "").resolve().is_relative_to(place) for place in places)


def class_source(reference: str, folder: Path) -> bytes:
    """Source code of the module that defines the class of a Python model.

    Raises:
      ModelError: as `import_class`.
    """
    module = inspect.getmodule(import_class(reference, folder))
    return inspect.getsource(module).encode() if module else b""


def _forget_namesake(package: str, folder: Path) -> None:
    """Unloads a module of another folder that shadows the one in the experiment's folder."""
    known = getattr(sys.modules.get(package), "__file__", None)
    local = [folder / f"{package}.py", folder / package / "__init__.py"]
    here = [path.resolve() for path in local if path.is_file()]
    if here and known is not None and Path(known).resolve() not in here:
        for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
            del sys.modules[name]
    importlib.invalidate_caches()


def _nothing(self: object) -> None:
    """Signature of a class without an ``__init__``."""


def make_module(make: type[nnx.Module], args: Mapping[str, Any], seed: int) -> nnx.Module:
    """Instantiates a Python model.

    Args:
      make: the class.
      args: keyword arguments except `rngs`.
      seed: seed of the `nnx.Rngs`.

    Raises:
      ModelError: the class does not accept these arguments.
    """
    rngs = nnx.Rngs(seed)
    # The signature of an nnx.Module is that of its metaclass; `object` accepts any arguments.
    takes = make.__init__ if make.__init__ is not object.__init__ else _nothing
    try:
        inspect.signature(takes).bind(None, **args, rngs=rngs)
    except TypeError as error:
        message = f"{make.__name__}(**args, rngs=...) cannot be called: {error}"
        raise ModelError("args", message, "use the arguments of its __init__") from None
    build: Callable[..., nnx.Module] = make
    return build(**args, rngs=rngs)


def split_model(model: nnx.Module) -> tuple[Any, Any, Any]:
    """Splits a model into structure, parameters and all other state (typed nnx.split).

    Sown intermediates are dropped: they would change the structure of the state between steps.
    """
    nnx.pop(model, nnx.Intermediate)
    parts: Any = nnx.split(model, nnx.Param, ...)
    structure, params, rest = parts
    return structure, params, rest


def require_output(got: Any, want: tuple[int, ...]) -> None:
    """Checks the output of a Python model for a batch of one image.

    Args:
      got: the output, should be an array of shape (1, *want).
      want: required output shape for one image.

    Raises:
      ModelError: not an array of this shape.
    """
    have = getattr(got, "shape", None)
    if have == (1, *want):
        return
    needed = shape_text(want)
    if have is None:
        found = f"is a {type(got).__name__}"
    elif have[:1] == (1,) and have[1:]:
        found = f"has shape {shape_text(have[1:])}"
    else:
        found = f"has shape {shape_text(have) or '()'} for a batch of one image"
        needed = shape_text((1, *want))
    message = f"the output {found}, but must have shape {needed}"
    raise ModelError("python", message, "change the return value of the class")
