"""A new experiment file that extends another, ready to be changed."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnbench.errors import SpecError, UsageError, quoted
from cnnbench.spec.document import inline_text, read_document
from cnnbench.spec.experiment import MAX_NAME, NAME_PATTERN
from cnnbench.spec.inheritance import lineage, read_with_parents
from cnnbench.spec.json_schema import FILE as SCHEMA_FILE
from cnnbench.spec.loader import load_experiment
from cnnbench.spec.shipped import ENDINGS

_NAMING = "start with a letter and use letters, digits, '-' and '_'"


@dataclass(frozen=True, slots=True)
class Start:
    """What is written for a new experiment.

    Args:
      path: the new file.
      name: of the experiment.
      text: what the file says.
      parent: the file that it extends, where it will be.
      copies: files that have to be below the new file's folder, and where they are now.
    """

    path: Path
    name: str
    text: str
    parent: Path
    copies: Mapping[Path, Path]


def start_experiment(path: Path, parent: Path, name: str | None = None) -> Start:
    """A new experiment that is what its parent is, until it is changed.

    Args:
      path: the file to be.
      parent: the file to extend. Where it is neither beside the new file nor below, it is to be
        copied there, with the files that it extends.
      name: of the experiment; the file's if None.

    Raises:
      UsageError: the file or the name will not do, or a copy has no place.
      SpecError: the parent is wrong.
    """
    _check_path(path)
    name = _checked_name(path, name)
    base = load_experiment(parent).experiment
    sources = lineage(parent)
    if path.exists() and any(path.samefile(source) for source in sources):
        raise UsageError(f"{path}: the new file would replace one that it extends; name another.")
    _refuse_taken(name, {*_siblings(parent), *_siblings(path)} - {path})
    copies = _copies(path, sources)
    if base.model.python and not path.parent.samefile(parent.parent):
        message = f"{path}: the Python model of {parent} is looked for beside the experiment"
        raise UsageError(f"{message}; name a file in {parent.parent}.")
    target = next(iter(copies), parent)
    extends = Path(os.path.relpath(target, path.parent)).as_posix()
    lines = [*_head(name, base.name, extends), *_body(read_with_parents(parent).data)]
    return Start(path, name, "\n".join([*lines, ""]), target, copies)


def _check_path(path: Path) -> None:
    if path.suffix not in ENDINGS:
        raise UsageError(f"{path}: the name of an experiment file ends in .yaml; add it.")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder '{path.parent}'; make it first.")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file.")


def _checked_name(path: Path, name: str | None) -> str:
    where = str(path) if name is None else "--name"
    remedy = f"write --name NAME ({_NAMING})" if name is None else _NAMING
    found = path.stem if name is None else name
    if not re.fullmatch(NAME_PATTERN, found):
        raise UsageError(f"{where}: {quoted(found)} cannot name an experiment; {remedy}.")
    if len(found) > MAX_NAME:
        remedy = f"write at most {MAX_NAME} characters" + ("" if name else " with --name")
        raise UsageError(f"{where}: {quoted(found)} is too long a name; {remedy}.")
    return found


def _siblings(path: Path) -> list[Path]:
    """The experiment files of a folder."""
    return [file for ending in ENDINGS for file in path.parent.glob(f"*{ending}")]


def _refuse_taken(name: str, files: Iterable[Path]) -> None:
    """Two experiments of one name would share a folder of runs."""
    for file in sorted(files):
        try:
            data = read_document(file).data
        except SpecError:
            continue
        if isinstance(data, dict) and data.get("name") == name:
            message = f"the name {quoted(name)} is that of {file}"
            raise UsageError(f"{message}; write another with --name.")


def _copies(path: Path, sources: tuple[Path, ...]) -> dict[Path, Path]:
    """Where files that a new one extends have to be, and where they are; the parent first.

    Raises:
      UsageError: something else is there.
    """
    top = sources[0].parent
    sources = tuple(s for s in sources if s.resolve().is_relative_to(top.resolve()))
    if top.resolve().is_relative_to(path.parent.resolve()):
        return {}
    places = {path.parent / os.path.relpath(source, top): source for source in sources}
    for place, source in places.items():
        if place == path or (place.exists() and place.read_bytes() != source.read_bytes()):
            what = "the new file" if place == path else f"another {place}"
            message = f"{path}: {source} has to be copied to where {what} is"
            raise UsageError(f"{message}; name a file in another folder, or in {top}.")
    return places


def _head(name: str, base: str, extends: str) -> Iterator[str]:
    title = re.sub("[_-]+", " ", name).strip().capitalize()
    yield f"# yaml-language-server: $schema={SCHEMA_FILE}"
    yield f"# What is not written here is as in {base}."
    yield ""
    yield f"extends: {inline_text(extends)}"
    yield f"name: {inline_text(name)}"
    yield f"title: {inline_text(title)}"


def _body(data: Mapping[str, Any]) -> Iterator[str]:
    """What may be changed: the first layer, and the rest as comments."""
    layers = data["model"].get("layers")
    if layers:
        (name, layer), *others = layers.items()
        yield "model:"
        yield "  layers:"
        yield f"    {name}: {inline_text(layer)}"
        yield "    # Change it, or take the '#' of another away. What stays may be left out, too."
        for name, layer in others:
            yield f"    # {name}: {inline_text(layer)}"
        yield "    # NAME: null removes a layer. A new one comes after all of these; between"
        yield "    # A and B it is NEW: {op: ..., inputs: A}, with B: {inputs: NEW}."
    else:
        yield f"# model: {inline_text(data['model'])}"
    if "train" in data:
        yield "# train:"
        yield from (f"#   {key}: {inline_text(value)}" for key, value in data["train"].items())
    if "seeds" in data:
        yield f"# seeds: {inline_text(data['seeds'])}"
