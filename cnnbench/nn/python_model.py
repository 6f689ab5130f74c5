"""Networks that a user writes as a Python class."""

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
    """The class of a Python model.

    Args:
      reference: ``package.module:Class``, installed or beside the experiment file.
      folder: the folder of the experiment file.

    Raises:
      ModelError: there is no such module or class, or it is no `nnx.Module`.
    """
    module_name, _, class_name = reference.partition(":")
    _forget_namesake(module_name.partition(".")[0], folder)
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        message = f"there is no module '{error.name}'"
        raise ModelError("python", message, f"install it, or put it into {folder}") from None
    finally:
        sys.path.remove(str(folder))
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, nnx.Module)):
        message = f"'{module_name}' has no nnx.Module named '{class_name}'"
        raise ModelError("python", message, "define it there")
    return found


def require_trust(reference: str, folder: Path) -> None:
    """Refuses to import a module that is neither installed nor beside the experiment file.

    Such a module would come from the working directory or from ``PYTHONPATH``, which whoever
    wrote the experiment file need not have meant. Nothing is imported here.

    Args:
      reference: ``package.module:Class``.
      folder: the folder of the experiment file.

    Raises:
      ModelError: it is somewhere else.
    """
    package = reference.partition(":")[0].partition(".")[0]
    beside = [folder / f"{package}.py", folder / package]
    if any(path.exists() for path in beside):
        return
    found = importlib.util.find_spec(package)
    if found is None or _is_installed(package, found.origin):
        return  # one that does not exist has a message of its own
    message = f"'{package}' is neither installed nor beside the experiment file ({found.origin})"
    raise ModelError("python", message, "check it, then add --allow-python")


def _is_installed(package: str, origin: str | None) -> bool:
    """Also where it is installed to be edited in place, or a part of Python."""
    if package in {*sys.stdlib_module_names, *packages_distributions()}:
        return True
    places = [Path(path).resolve() for path in sysconfig.get_paths().values()]
    links = (file.read_text(encoding="utf-8") for p in set(places) for file in p.glob("*.pth"))
    places += [Path(line) for text in links for line in text.splitlines() if line.startswith("/")]
    return any(Path(origin or "").resolve().is_relative_to(place) for place in places)


def class_source(reference: str, folder: Path) -> bytes:
    """The source of the module that holds the class of a Python model.

    Raises:
      ModelError: as `import_class`.
    """
    module = inspect.getmodule(import_class(reference, folder))
    return inspect.getsource(module).encode() if module else b""


def _forget_namesake(package: str, folder: Path) -> None:
    """Forgets a module of another folder that would hide the one beside the experiment."""
    known = getattr(sys.modules.get(package), "__file__", None)
    beside = [folder / f"{package}.py", folder / package / "__init__.py"]
    here = [path.resolve() for path in beside if path.is_file()]
    if here and known is not None and Path(known).resolve() not in here:
        for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
            del sys.modules[name]
    importlib.invalidate_caches()


def _nothing(self: object) -> None:
    """What a class without an ``__init__`` takes."""


def make_module(make: type[nnx.Module], args: Mapping[str, Any], seed: int) -> nnx.Module:
    """Calls the class of a Python model.

    Args:
      make: the class.
      args: its keyword arguments besides `rngs`.
      seed: of its `nnx.Rngs`.

    Raises:
      ModelError: it does not take these arguments.
    """
    rngs = nnx.Rngs(seed)
    # An nnx.Module's own signature is that of its metaclass; `object` says it takes anything.
    takes = make.__init__ if make.__init__ is not object.__init__ else _nothing
    try:
        inspect.signature(takes).bind(None, **args, rngs=rngs)
    except TypeError as error:
        message = f"{make.__name__}(**args, rngs=...) cannot be called: {error}"
        raise ModelError("args", message, "write the arguments that it takes") from None
    build: Callable[..., nnx.Module] = make
    return build(**args, rngs=rngs)


def split_model(model: nnx.Module) -> tuple[Any, Any, Any]:
    """Structure, parameters and everything else; mypy cannot follow nnx.split's filters.

    Values that a Python model sows are no state: the next step would have another structure.
    """
    nnx.pop(model, nnx.Intermediate)
    parts: Any = nnx.split(model, nnx.Param, ...)
    structure, params, rest = parts
    return structure, params, rest


def require_output(got: Any, want: tuple[int, ...]) -> None:
    """Checks what a Python model returns for a batch of one image.

    Args:
      got: an array of shape (1, *want), if all is well.
      want: the shape for one image that the task needs.

    Raises:
      ModelError: it is something else.
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
    message = f"the output {found}, and shape {needed} is needed"
    raise ModelError("python", message, "change what the class returns")
