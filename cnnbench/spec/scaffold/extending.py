"""Scaffolds a new experiment file that extends another."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnbench.errors import UsageError
from cnnbench.spec.document import inline_text, read_document
from cnnbench.spec.experiment import PATHS
from cnnbench.spec.inheritance import lineage, read_with_parents
from cnnbench.spec.loader import load_experiment
from cnnbench.spec.scaffold.naming import (
    check_path,
    checked_name,
    name_lines,
    refuse_taken,
    schema_line,
    siblings,
)
from cnnbench.spec.shipped import is_in_package
from cnnbench.system.files import expand_home


@dataclass(frozen=True, slots=True)
class Scaffold:
    """The files to write for a new experiment.

    Args:
      path: the new file.
      name: name of the experiment.
      text: content of the file.
      parent: path of the file that it extends, after copying; None if it extends none.
      copies: source file by target, for parents outside of the new file's folder.
    """

    path: Path
    name: str
    text: str
    parent: Path | None
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
    check_path(path)
    name = checked_name(path, name)
    base = load_experiment(parent).experiment
    sources = lineage(parent)
    if path.exists() and any(path.samefile(source) for source in sources):
        raise UsageError(
            f"{path}: the new file would overwrite a file that it extends; choose another."
        )
    refuse_taken(name, {*siblings(parent), *siblings(path)} - {path})
    copies = _copies(path, sources)
    if copies:
        _require_findable(path, sources)
    if base.model.python and not path.parent.samefile(parent.parent):
        message = f"{path}: the Python model of {parent} must be in the folder of the experiment"
        raise UsageError(f"{message}; choose a file in {parent.parent}.")
    target = next(iter(copies), parent)
    extends = Path(os.path.relpath(target, path.parent)).as_posix()
    lines = [*_head(name, base.name, extends), *_body(read_with_parents(parent).data)]
    return Scaffold(path, name, "\n".join([*lines, ""]), target, copies)


def _require_findable(path: Path, sources: tuple[Path, ...]) -> None:
    """Checks that the files to copy have no images at a path relative to their folder.

    Raises:
      UsageError: one has.
    """
    for source in sources:
        if _is_relative(read_document(source).data.get("dataset")):
            message = f"{path}: the images of {source} have a path relative to its folder"
            raise UsageError(f"{message}; choose a file in {source.parent}.")


def _is_relative(dataset: Any) -> bool:
    found = [dataset.get(key) for key in PATHS] if isinstance(dataset, dict) else []
    paths = [
        path for value in found for path in (value.values() if isinstance(value, dict) else [value])
    ]
    return any(
        isinstance(path, str) and not expand_home(Path(path)).is_absolute() for path in paths
    )


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
    yield schema_line()
    yield f"# Everything not set here is inherited from {base}."
    yield ""
    yield f"extends: {inline_text(extends)}"
    yield from name_lines(name)


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
