"""Finds experiment files by name: in the working directory, or shipped with cnnbench."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cnnbench.errors import UsageError, nearest, or_list, quoted

ENDINGS = (".yaml", ".yml")
_PACKAGE = Path(__file__).parents[1]
# In an installed package, or in a checkout.
_FOLDERS = (_PACKAGE / "experiments", _PACKAGE.parent / "experiments")
_SECTIONS = (
    "dataset",
    "model",
    "train",
    "evaluation",
    "checkpoint",
)  # of an experiment; overrides begin so
_HERE = (Path("experiments"), Path())  # in the working directory; these take precedence


@dataclass(frozen=True, slots=True)
class NamedExperiment:
    """An experiment file found by name.

    Args:
      name: as given.
      path: the file.
      is_shipped: True if the file ships with cnnbench.
      shadowed: another file of the same name but different content; None if there is none.
    """

    name: str
    path: Path
    is_shipped: bool
    shadowed: Path | None

    def __str__(self) -> str:
        origin = " (ships with cnnbench)" if self.is_shipped else ""
        other = f", not {self.shadowed}" if self.shadowed else ""
        return f"{self.name}: {self.path}{origin}{other}"


def find_named(word: str) -> NamedExperiment | None:
    """Finds the experiment of a name such as ``standard`` or ``post/standard``.

    Searches ``experiments/`` in the working directory, then the working directory, then the
    experiments shipped with cnnbench.

    Returns:
      The file, or None if the word is a path rather than a name.

    Raises:
      UsageError: no experiment has this name.
    """
    if not _is_name(word) or _exists(Path(word)):
        return None
    found = [file for folder in (*_HERE, *_FOLDERS) if (file := _file(folder, word))]
    if not found and os.path.isdir(word):  # noqa: PTH112 - Path raises for a long name
        return None
    if not found:
        if word.partition(".")[0] in _SECTIONS and "." in word:
            raise UsageError(f"the override {quoted(word)} has no value; use {word}=VALUE.")
        names = all_names()
        message = f"no experiment named {quoted(word)}{_hint(word, names)}"
        raise UsageError(f"{message}; use {or_list([*names, 'a file'])}.")
    content = found[0].read_bytes()
    other = (file for file in found[1:] if file.read_bytes() != content)
    return NamedExperiment(word, found[0], found[0].is_absolute(), next(other, None))


def find_shipped(name: str) -> Path | None:
    """The file of an experiment shipped with cnnbench; None if there is none of this name."""
    return _first(_FOLDERS, name)


def find_file(word: str) -> Path | None:
    """The file of an experiment that a path or a name means, as in `find_named`; None for none."""
    if Path(word).suffix in ENDINGS:
        return Path(word) if _exists(Path(word)) else None
    return _first((*_HERE, *_FOLDERS), word)


def _first(folders: Iterable[Path], name: str) -> Path | None:
    files = (_file(folder, name) for folder in folders) if _is_name(name) else ()
    return next(filter(None, files), None)


def is_in_package(folder: Path) -> bool:
    """Returns True for a folder of the installed package, such as one in a virtual environment."""
    return folder.resolve().is_relative_to(_PACKAGE.resolve())


def short_path(path: Path) -> str:
    """Display path of an experiment file: its path, or its name if it ships with cnnbench.

    >>> short_path(Path("experiments/standard.yaml"))
    'experiments/standard.yaml'
    """
    here = path.is_absolute() and next((f for f in _FOLDERS if path.is_relative_to(f)), None)
    return str(path.relative_to(here).with_suffix("")) if here else str(path)


def shipped_names() -> list[str]:
    """Names of the experiments shipped with cnnbench."""
    return _names(_FOLDERS)


def all_names() -> list[str]:
    """Names of all experiments: shipped ones, and those in the working directory."""
    return _names((*_HERE, *_FOLDERS))


def _hint(word: str, names: Iterable[str]) -> str:
    """A suggestion, including names in subfolders such as ``published/caffe_lenet``."""
    below = (file for folder in (_HERE[0], *_FOLDERS) for file in folder.glob("*/*.yaml"))
    choices = {file.stem: f"{file.parent.name}/{file.stem}" for file in below}
    choices |= {name: name for name in names}
    near = nearest(word, choices)
    return f" (did you mean '{choices[near]}'?)" if near else ""


def _names(folders: Iterable[Path]) -> list[str]:
    return sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})


def _is_name(word: str) -> bool:
    path = PurePosixPath(word)
    inside = not path.is_absolute() and ".." not in path.parts
    return inside and bool(path.name) and path.suffix not in ENDINGS and word.isprintable()


def _file(folder: Path, name: str) -> Path | None:
    files = (folder / f"{name}{ending}" for ending in ENDINGS)
    return next(filter(_exists, files), None)


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # name too long, or contains a null byte
        return False
