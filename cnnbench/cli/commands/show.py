"""``cnnbench show``: layers, shapes and costs of experiments, and diagrams of them."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnnbench.cli.options import DataDir, Specs, split_words
from cnnbench.cli.terminal import PICTURES, file_form, start_jax, stdout, tell, write_file
from cnnbench.errors import ModelError, UsageError
from cnnbench.formatting import depthwise_advice, enumeration
from cnnbench.report.data_inspection import images_line
from cnnbench.report.layer_table import group_lines, layer_table, outline_table
from cnnbench.report.plots.blocks import Diagram
from cnnbench.report.plots.diagram import diagram, outline_diagram
from cnnbench.report.plots.diagram_picture import diagram_picture
from cnnbench.report.plots.mermaid import mermaid
from cnnbench.spec.diff import Differences, differences, marked
from cnnbench.spec.loader import Loaded, load_experiment
from cnnbench.spec.shipped import short_path

if TYPE_CHECKING:
    from cnnbench.nn.submodules import Outline

DRAWINGS = (*PICTURES, "md")


def show(
    specs: Specs,
    data_dir: DataDir = None,
    diagram: Annotated[
        Path | None,
        typer.Option(
            help="Draw the architecture to a file (.svg, .png, or .md for Mermaid).", metavar="FILE"
        ),
    ] = None,
    expand: Annotated[
        bool,
        typer.Option(
            "--expand", help="Show the layers of blocks, and draw repeated blocks in full."
        ),
    ] = False,
    allow_python: Annotated[
        bool,
        typer.Option(
            "--allow-python",
            "--run",
            help="Import model.python even if it is neither installed nor next to the file.",
        ),
    ] = False,
) -> None:
    """Check experiments and print their layers, shapes and costs."""
    paths, overrides = split_words(specs)
    if diagram:
        file_form("--diagram", diagram, DRAWINGS)
    shown: list[Loaded] = []
    outlines: list[Outline | None] = []
    for path in paths:
        load = partial(show_layers, path, overrides, data_dir, shown[0] if shown else None)
        loaded, outline = load(allow_python=allow_python, expand=expand)
        shown.append(loaded)
        outlines.append(outline)
    if diagram:
        titles = [loaded.experiment.type_title for loaded in shown]
        drawn = _diagrams(shown, outlines, expand=expand)
        _write(list(zip(titles, drawn, strict=True)), diagram)


def _write(drawings: Sequence[tuple[str, Diagram]], file: Path) -> None:
    form = file_form("--diagram", file, DRAWINGS)
    content = mermaid(drawings).encode() if form == "md" else diagram_picture(drawings, form)
    write_file("--diagram", file, content)


def _diagrams(
    shown: Sequence[Loaded], outlines: Sequence["Outline | None"], *, expand: bool
) -> Iterator[Diagram]:
    """Yields a diagram of each network; differences between graphs of layers are marked.

    Raises:
      UsageError: a Python model is not trusted.
    """
    plans = [loaded.plan for loaded in shown if loaded.plan is not None]
    all_marks = iter(marked(plans) if plans else ())
    for loaded, outline in zip(shown, outlines, strict=True):
        if loaded.plan is not None:
            yield diagram(loaded.plan, next(all_marks), expand=expand)
        elif outline is not None:
            yield outline_diagram(outline, expand=expand)
        else:
            message = f"--diagram: {loaded.experiment.model.python} was not imported"
            raise UsageError(f"{message}; check it, then add --allow-python.")


def show_layers(
    path: Path,
    overrides: Sequence[str],
    data_dir: Path | None,
    first: Loaded | None,
    *,
    allow_python: bool = False,
    expand: bool = False,
) -> "tuple[Loaded, Outline | None]":
    """Prints the layers of an experiment, and its differences from another one.

    Args:
      path: the experiment file.
      overrides: ``key=value`` with dotted paths.
      data_dir: folder of datasets outside the built-in table.
      first: the other experiment; None if there is none.
      allow_python: True to import a Python model from anywhere.
      expand: show the layers of blocks.

    Returns:
      The experiment, and the outline of a Python model if it was imported.

    Raises:
      SpecError: the experiment is invalid; the error has all of its problems.
      UsageError: its Python model cannot be imported, or has the wrong output shape.
    """
    loaded = load_experiment(path, overrides, data_dir=data_dir)
    outline, reason = None, ""
    if loaded.plan is None:
        try:
            outline, reason = _outline(loaded, path, allow_python=allow_python)
        except ModelError as error:
            raise error.at(loaded.place(error.key)) from None
    found = differences(first, loaded) if first else None
    print_layers(loaded, path, first, found, outline, reason, expand=expand)
    return loaded, outline


def _outline(loaded: Loaded, path: Path, *, allow_python: bool) -> "tuple[Outline | None, str]":
    """Outlines a Python model, or returns why it was not imported.

    Raises:
      ModelError: it cannot be imported, or has the wrong output shape.
    """
    start_jax()
    from cnnbench.nn.python_model import import_class, require_trust
    from cnnbench.nn.submodules import experiment_outline

    folder, experiment = path.resolve().parent, loaded.experiment
    reference = str(experiment.model.python)
    if not allow_python:
        try:
            require_trust(reference, folder)
        except ModelError as error:
            return None, str(error.at(loaded.place(error.key)))
    make = import_class(reference, folder)
    return experiment_outline(experiment, make, loaded.info), ""


def _changes(loaded: Loaded) -> Iterator[str]:
    """Lines on changes of the dataset, and on the sweep of the file."""
    for text in loaded.experiment.dataset.adjustments.texts():
        yield f"Dataset: {text}"
    if sweep := loaded.sweep:
        number = f"; trials: {sweep.trials}" if sweep.trials else ""
        yield f"Sweep: {', '.join(sweep.overrides)}{number}"


def print_layers(
    loaded: Loaded,
    path: Path,
    first: Loaded | None,
    found: Differences | None,
    outline: "Outline | None" = None,
    reason: str = "",
    *,
    expand: bool = False,
) -> None:
    """Prints layers and differences.

    Args:
      loaded: the experiment.
      path: its file.
      first: the experiment that it is compared with; None if there is none.
      found: differences from that.
      outline: submodules of a Python model; None if it was not imported.
      reason: why it was not imported.
      expand: show the layers of blocks.
    """
    experiment = loaded.experiment
    if outline is not None:
        title = f"{experiment.type_title} ({experiment.model.python})"
        stdout().print(outline_table(outline, title))
        if outline.num_slow:
            tell(depthwise_advice(outline.num_slow), err=False)
    elif loaded.plan is None:
        tell(f"{experiment.type_title}: {experiment.model.python}", err=False)
        if reason:
            tell(f"Submodules are not shown: {reason}", err=False)
    else:
        marks = found.marks if found and first and first.plan else None
        title = f"{experiment.type_title} ({short_path(path)})"
        blocks = {} if expand else loaded.blocks
        stdout().print(layer_table(loaded.plan, title, marks, blocks))
        if loaded.changed and not expand:
            tell(f"Changed by path: {enumeration(loaded.changed)}", err=False)
        if frozen := loaded.plan.num_frozen:
            trained = loaded.plan.num_params - frozen
            tell(f"Trainable parameters: {trained:,}; frozen: {frozen:,}", err=False)
        if lines := group_lines(experiment.train, loaded.plan):
            for line in ("Parameter groups:", *(f"  {line}" for line in lines)):
                tell(line, err=False)
    if images := images_line(experiment.dataset, loaded.info):
        tell(images, err=False)
    for line in _changes(loaded):
        tell(line, err=False)
    tell(err=False)
    if found and first:
        tell(f"Compared with {first.experiment.type_title}:", err=False)
        for line in found.lines or ("no differences",):
            tell(f"  {line}", err=False)
        tell(err=False)
