"""An experiment file while it is being written, beside the file that it extends."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cnnbench.errors import CnnbenchError
from cnnbench.spec.diff import Differences, differences
from cnnbench.spec.inheritance import lineage
from cnnbench.spec.loader import Loaded, load_experiment
from cnnbench.system import commands

Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Draft:
    """What a file says at a moment.

    Args:
      files: the file, the one that it extends, and so on.
      stamp: theirs before they were read, so that no later change is missed.
      loaded: the experiment; None where it is wrong.
      issues: what is wrong with it, as text; empty where nothing is.
      parent: the experiment that it extends; None where that cannot be had.
      found: how it differs from that.
      obstacle: why the two cannot be trained and compared; empty where they can.
    """

    files: tuple[Path, ...]
    stamp: Stamp
    loaded: Loaded | None = None
    issues: str = ""
    parent: Loaded | None = None
    found: Differences | None = None
    obstacle: str = ""


def read_draft(path: Path, data_dir: Path | None = None) -> Draft:
    """Reads and checks a file, whatever is wrong with it.

    Args:
      path: the file.
      data_dir: where datasets outside the built-in table are looked up.
    """
    first = stamp([path])
    files = lineage(path)
    stamped = first + stamp(files[1:])
    try:
        loaded = load_experiment(path, data_dir=data_dir)
    except CnnbenchError as error:
        obstacle = "Nothing is trained before that is mended"
        return Draft(files, stamped, issues=str(error), obstacle=obstacle)
    if len(files) == 1:
        obstacle = f"{path} extends no other file, so there is nothing to compare it with"
        return Draft(files, stamped, loaded, obstacle=obstacle)
    try:
        parent = load_experiment(files[1], data_dir=data_dir)
    except CnnbenchError as error:
        why = f"{files[1]} is no experiment by itself ({str(error).splitlines()[0]})"
        obstacle = f"{why}, so there is nothing to compare with"
        return Draft(files, stamped, loaded, obstacle=obstacle)
    found = differences(parent, loaded)
    return Draft(files, stamped, loaded, "", parent, found, _obstacle(loaded, parent, found))


def _obstacle(loaded: Loaded, parent: Loaded, found: Differences) -> str:
    if loaded.experiment.model.python or parent.experiment.model.python:
        # Python imports a module once, and would train yesterday's class.
        run = commands.cnnbench("run")
        return f"A Python model is compared by `{run}`, which reads its source again"
    if not found.lines:
        return f"Nothing is different from {parent.experiment.type_title} yet"
    return ""


def stamp(files: Iterable[Path]) -> Stamp:
    """What changes when one of the files is saved, also by an editor that replaces it."""
    return tuple(_stamp(file) for file in files)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except (OSError, ValueError):  # gone for the moment; a null byte in a name
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
