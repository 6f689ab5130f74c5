"""``cnnbench show``: layers, shapes and costs of experiments, and their pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnnbench.cli_data import DataDir
from cnnbench.errors import UsageError
from cnnbench.terminal import PICTURES, file_form, stdout, tell, write_file
from cnnbench.words import Specs, split_words

if TYPE_CHECKING:
    from cnnbench.differences import Differences
    from cnnbench.loader import Loaded

DRAWINGS = (*PICTURES, "md")


def show(
    specs: Specs,
    data_dir: DataDir = None,
    diagram: Annotated[
        Path | None,
        typer.Option(help="Draw the architecture: .svg, .png or .md (Mermaid).", metavar="FILE"),
    ] = None,
) -> None:
    """Check experiment files and print their layers, shapes and costs, and what sets them apart."""
    paths, overrides = split_words(specs)
    if diagram:
        file_form("--diagram", diagram, DRAWINGS)
    shown: list[Loaded] = []
    for path in paths:
        shown.append(show_layers(path, overrides, data_dir, shown[0] if shown else None))
    if diagram:
        _draw(shown, diagram)


def _draw(shown: Sequence["Loaded"], file: Path) -> None:
    from cnnbench.diagram import diagram, mermaid
    from cnnbench.differences import marked
    from cnnbench.plots import diagram_picture

    plans = [loaded.plan for loaded in shown if loaded.plan is not None]
    if len(plans) < len(shown):
        raise UsageError("--diagram: a Python model has no graph; write model.layers to draw it.")
    drawings = [
        (loaded.experiment.type_title, diagram(plan, marks))
        for loaded, plan, marks in zip(shown, plans, marked(plans), strict=True)
    ]
    form = file_form("--diagram", file, DRAWINGS)
    drawn = mermaid(drawings).encode() if form == "md" else diagram_picture(drawings, form)
    write_file("--diagram", file, drawn)


def show_layers(
    path: Path, overrides: Sequence[str], data_dir: Path | None, first: "Loaded | None"
) -> "Loaded":
    """Prints the layers of an experiment, and what is different from the first that was shown.

    Raises:
      SpecError: everything wrong with it.
    """
    from cnnbench.differences import differences
    from cnnbench.loader import load_experiment

    loaded = load_experiment(path, overrides, data_dir=data_dir)
    print_layers(loaded, path, first, differences(first, loaded) if first else None)
    return loaded


def print_layers(
    loaded: "Loaded", path: Path, first: "Loaded | None", found: "Differences | None"
) -> None:
    """Prints layers and differences.

    Args:
      loaded: the experiment.
      path: its file.
      first: what it is beside.
      found: how it differs from that.
    """
    from cnnbench.layer_table import layer_table

    experiment = loaded.experiment
    if loaded.plan is None:
        title = f"{experiment.type_title}: {experiment.model.python}"
        tell(f"{title} (shapes show when it runs)", err=False)
    else:
        marks = found.marks if found and first and first.plan else None
        stdout().print(layer_table(loaded.plan, f"{experiment.type_title} ({path})", marks))
    if found and first:
        tell(f"\nBeside {first.experiment.type_title}:", err=False)
        for line in found.lines or ("nothing is different",):
            tell(f"  {line}", err=False)
        tell(err=False)
