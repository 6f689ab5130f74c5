"""Experiment files by name: those of the working directory, and those that come with cnnbench."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cnnbench.errors import UsageError, nearest, or_list, quoted

ENDINGS = (".yaml", ".yml")
_PACKAGE = Path(__file__).parents[1]
# In an installed package, or in a checkout.
_FOLDERS = (_PACKAGE / "experiments", _PACKAGE.parent / "experiments")
_HERE = (Path("experiments"), Path())  # the working directory's, which come first


@dataclass(frozen=True, slots=True)
class Named:
    """An experiment file that a name means.

    Args:
      name: as it was given.
      path: the file.
      comes_along: the file is one of those that come with cnnbench.
      passed: another file of that name and of other content, which was not taken; None if none.
    """

    name: str
    path: Path
    comes_along: bool
    passed: Path | None

    def __str__(self) -> str:
        origin = " (comes with cnnbench)" if self.comes_along else ""
        other = f", not {self.passed}" if self.passed else ""
        return f"{self.name}: {self.path}{origin}{other}"


def find_named(word: str) -> Named | None:
    """The experiment that a name such as ``standard`` or ``post/standard`` means.

    Files below ``experiments/`` of the working directory come first, then those of the working
    directory, then those that come with cnnbench.

    Returns:
      None where the word is a path: of a file or a folder, or one that is no name.

    Raises:
      UsageError: it is a name, and no experiment has it.
    """
    if not _is_name(word) or _exists(Path(word)):
        return None
    found = [file for folder in (*_HERE, *_FOLDERS) if (file := _file(folder, word))]
    if not found and os.path.isdir(word):  # noqa: PTH112 - Path raises for a long name
        return None
    if not found:
        names = all_names()
        message = f"there is no experiment {quoted(word)}{_hint(word, names)}"
        raise UsageError(f"{message}; name {or_list([*names, 'a file'])}.")
    content = found[0].read_bytes()
    other = (file for file in found[1:] if file.read_bytes() != content)
    return Named(word, found[0], found[0].is_absolute(), next(other, None))


def find_shipped(name: str) -> Path | None:
    """The file of an experiment that comes with cnnbench; None where it is no name of one."""
    files = (_file(folder, name) for folder in _FOLDERS) if _is_name(name) else ()
    return next(filter(None, files), None)


def short_path(path: Path) -> str:
    """A file as titles name it: where it is, or its name where it comes with cnnbench.

    >>> short_path(Path("experiments/standard.yaml"))
    'experiments/standard.yaml'
    """
    here = path.is_absolute() and next((f for f in _FOLDERS if path.is_relative_to(f)), None)
    return str(path.relative_to(here).with_suffix("")) if here else str(path)


def shipped_names() -> list[str]:
    """The names of the experiments that come with cnnbench."""
    return _names(_FOLDERS)


def all_names() -> list[str]:
    """The names of those, and of the working directory's."""
    return _names((*_HERE, *_FOLDERS))


def _hint(word: str, names: Iterable[str]) -> str:
    """A name that may be meant, also of a folder below, as in ``published/caffe_lenet``."""
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
    except (OSError, ValueError):  # a name too long, or one with a null byte
        return False
