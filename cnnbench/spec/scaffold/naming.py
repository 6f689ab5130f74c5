"""Checks the path and name of a new experiment file."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from cnnbench.errors import SpecError, UsageError, quoted
from cnnbench.spec.document import inline_text, read_document
from cnnbench.spec.experiment import MAX_NAME, NAME_PATTERN
from cnnbench.spec.json_schema import FILE as SCHEMA_FILE
from cnnbench.spec.shipped import ENDINGS

_NAMING = "start with a letter and use letters, digits, '-' and '_'"


def check_path(path: Path) -> None:
    """Checks that a path is one that an experiment file may have.

    Raises:
      UsageError: it has another extension, is a folder, or its folder does not exist.
    """
    if path.suffix not in ENDINGS:
        raise UsageError(f"{path}: the name of an experiment file must end in .yaml; add it.")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: no such folder '{path.parent}'; create it first.")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; specify a file.")


def checked_name(path: Path, name: str | None) -> str:
    """Name of the experiment in a file: the given one, or that of the file.

    Raises:
      UsageError: it is not a valid name.
    """
    where = str(path) if name is None else "--name"
    remedy = f"use --name NAME ({_NAMING})" if name is None else _NAMING
    found = path.stem if name is None else name
    if not re.fullmatch(NAME_PATTERN, found):
        raise UsageError(f"{where}: {quoted(found)} is not a valid experiment name; {remedy}.")
    if len(found) > MAX_NAME:
        remedy = f"use at most {MAX_NAME} characters" + ("" if name else " with --name")
        raise UsageError(f"{where}: the name {quoted(found)} is too long; {remedy}.")
    return found


def siblings(path: Path) -> list[Path]:
    """Experiment files in the folder of a path."""
    return [file for ending in ENDINGS for file in path.parent.glob(f"*{ending}")]


def refuse_taken(name: str, files: Iterable[Path]) -> None:
    """Checks that no experiment has this name, because they would share a run folder.

    Raises:
      UsageError: one has it.
    """
    for file in sorted(files):
        try:
            data = read_document(file).data
        except SpecError:
            continue
        if isinstance(data, dict) and data.get("name") == name:
            message = f"the name {quoted(name)} is already used by {file}"
            raise UsageError(f"{message}; choose another with --name.")


def schema_line() -> str:
    """First line of a file, by which editors find the JSON Schema."""
    return f"# yaml-language-server: $schema={SCHEMA_FILE}"


def name_lines(name: str) -> Iterator[str]:
    """The name of an experiment, and its title."""
    title = re.sub("[_-]+", " ", name).strip().capitalize()
    yield f"name: {inline_text(name)}"
    yield f"title: {inline_text(title)}"
