"""Scaffolds a new experiment file that extends another."""

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
from cnnbench.spec.shipped import ENDINGS, is_in_package

_NAMING = "start with a letter and use letters, digits, '-' and '_'"


@dataclass(frozen=True, slots=True)
class Scaffold:
    """The files to write for a new experiment.

    Args:
      path: the new file.
      name: name of the experiment.
      text: content of the file.
      parent: path of the file that it extends, after copying.
      copies: source file by target, for parents outside of the new file's folder.
    """

    path: Path
    name: str
    text: str
    parent: Path
    copies: Mapping[Path, Path]


def scaffold_experiment(path: Path, parent: Path, name: str | None = None) -> Scaffold:
    """Creates a new experiment that is identical to its parent until edited.

    Args:
      path: the file to create.
      parent: the file to extend. If it is outside of the folder of the new file, or in the
        installed package, it is copied there, together with the files that it extends.
      name: name of the experiment; default: from the file name.

    Raises:
      UsageError: invalid or existing name or path, or a copy would overwrite another file.
      SpecError: the parent is invalid.
    """
    _check_path(path)
    name = _checked_name(path, name)
    base = load_experiment(parent).experiment
    sources = lineage(parent)
    if path.exists() and any(path.samefile(source) for source in sources):
        raise UsageError(
            f"{path}: the new file would overwrite a file that it extends; choose another."
        )
    _refuse_taken(name, {*_siblings(parent), *_siblings(path)} - {path})
    copies = _copies(path, sources)
    if base.model.python and not path.parent.samefile(parent.parent):
        message = f"{path}: the Python model of {parent} must be in the folder of the experiment"
        raise UsageError(f"{message}; choose a file in {parent.parent}.")
    target = next(iter(copies), parent)
    extends = Path(os.path.relpath(target, path.parent)).as_posix()
    lines = [*_head(name, base.name, extends), *_body(read_with_parents(parent).data)]
    return Scaffold(path, name, "\n".join([*lines, ""]), target, copies)


def _check_path(path: Path) -> None:
    if path.suffix not in ENDINGS:
        raise UsageError(f"{path}: the name of an experiment file must end in .yaml; add it.")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: no such folder '{path.parent}'; create it first.")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; specify a file.")


def _checked_name(path: Path, name: str | None) -> str:
    where = str(path) if name is None else "--name"
    remedy = f"use --name NAME ({_NAMING})" if name is None else _NAMING
    found = path.stem if name is None else name
    if not re.fullmatch(NAME_PATTERN, found):
        raise UsageError(f"{where}: {quoted(found)} is not a valid experiment name; {remedy}.")
    if len(found) > MAX_NAME:
        remedy = f"use at most {MAX_NAME} characters" + ("" if name else " with --name")
        raise UsageError(f"{where}: the name {quoted(found)} is too long; {remedy}.")
    return found


def _siblings(path: Path) -> list[Path]:
    """Experiment files in the folder of a path."""
    return [file for ending in ENDINGS for file in path.parent.glob(f"*{ending}")]


def _refuse_taken(name: str, files: Iterable[Path]) -> None:
    """Raises UsageError if an experiment has this name: they would share a run folder."""
    for file in sorted(files):
        try:
            data = read_document(file).data
        except SpecError:
            continue
        if isinstance(data, dict) and data.get("name") == name:
            message = f"the name {quoted(name)} is already used by {file}"
            raise UsageError(f"{message}; choose another with --name.")


def _copies(path: Path, sources: tuple[Path, ...]) -> dict[Path, Path]:
    """Source file by target, for parents to copy; the direct parent comes first.

    Raises:
      UsageError: a copy would overwrite another file.
    """
    top = sources[0].parent
    sources = tuple(s for s in sources if s.resolve().is_relative_to(top.resolve()))
    if top.resolve().is_relative_to(path.parent.resolve()) and not is_in_package(top):
        return {}
    places = {path.parent / os.path.relpath(source, top): source for source in sources}
    for place, source in places.items():
        if place == path or (place.exists() and place.read_bytes() != source.read_bytes()):
            what = "the new file" if place == path else f"another file, {place}"
            message = f"{path}: copying {source} would overwrite {what}"
            raise UsageError(f"{message}; choose a file in another folder, or in {top}.")
    return places


def _head(name: str, base: str, extends: str) -> Iterator[str]:
    title = re.sub("[_-]+", " ", name).strip().capitalize()
    yield f"# yaml-language-server: $schema={SCHEMA_FILE}"
    yield f"# Everything not set here is inherited from {base}."
    yield ""
    yield f"extends: {inline_text(extends)}"
    yield f"name: {inline_text(name)}"
    yield f"title: {inline_text(title)}"


def _body(data: Mapping[str, Any]) -> Iterator[str]:
    """Lines to edit: the first layer, and everything else as comments."""
    layers = data["model"].get("layers")
    if layers:
        (name, layer), *others = layers.items()
        yield "model:"
        yield "  layers:"
        yield f"    {name}: {inline_text(layer)}"
        yield "    # Edit it, or uncomment others. Unchanged layers can be omitted."
        for name, layer in others:
            yield f"    # {name}: {inline_text(layer)}"
        yield "    # NAME: null removes a layer. New layers are appended; to insert one between"
        yield "    # A and B, add NEW: {op: ..., inputs: A} and B: {inputs: NEW}."
    else:
        yield f"# model: {inline_text(data['model'])}"
    if "train" in data:
        yield "# train:"
        yield from (f"#   {key}: {inline_text(value)}" for key, value in data["train"].items())
    if "seeds" in data:
        yield f"# seeds: {inline_text(data['seeds'])}"
