"""``cnnbench inspect``: activations and filters of a trained network, layer by layer."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from cnnbench.cli.options import DataDir, ResultsDir, Run, Seed
from cnnbench.cli.terminal import PICTURES, computing, file_form, stdout, tell, warn, write_file
from cnnbench.data.splits import Split
from cnnbench.errors import UsageError
from cnnbench.runs.find import find_run

if TYPE_CHECKING:
    from cnnbench.analysis.activations import Responses
    from cnnbench.analysis.trained_network import TrainedNetwork


def inspect(  # noqa: PLR0913, PLR0917 - one parameter per option
    run: Run,
    layer: Annotated[
        str | None,
        typer.Option(help="Show what activates the units of this layer.", metavar="NAME"),
    ] = None,
    image: Annotated[
        list[int] | None,
        typer.Option(
            help="Index of a test image (repeatable); default: all.",
            metavar="N",
            show_default=False,
        ),
    ] = None,
    units: Annotated[int, typer.Option(min=1, help="Number of units to show.", metavar="N")] = 16,
    seed: Seed = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Draw the layers to a file (.svg or .png).", metavar="FILE"
        ),
    ] = None,
    npz: Annotated[
        Path | None, typer.Option(help="Save activations to a NumPy .npz file.", metavar="FILE")
    ] = None,
    data_dir: DataDir = None,
    results_dir: ResultsDir = Path("results"),
) -> None:
    """Inspect activations and filters of a trained network."""
    numbers = image or []
    if output:
        file_form("--output", output, PICTURES)
    if npz and not (layer or numbers):
        raise UsageError("--npz: all layers of all images are too large; add --layer or --image.")

    path, warnings = find_run(run, results_dir)
    warn(warnings)
    with computing():
        from cnnbench.analysis.activations import choose, examine, predictions, saved
        from cnnbench.analysis.trained_network import load_trained
        from cnnbench.report.inspection import (
            label_text,
            layers_table,
            predictions_table,
            units_table,
        )

        network = load_trained(path, seed, data_dir=data_dir)
        network.require_layers([layer] if layer else [])
        test = network.dataset(data_dir, tell).test
        chosen = choose(test, numbers)
        layers, responses = examine(network, chosen.images, None if numbers else layer)
        stdout().print(layers_table(layers, _title(network, numbers, len(test))))
        name = label_text(network.record)
        if numbers:
            found = list(predictions(network, chosen, numbers))
            stdout().print(predictions_table(found, name))
            responses = examine(network, test.images, layer)[1] if layer else None
        if layer and responses:
            labels = [name(label) for label in test.labels.tolist()]
            stdout().print(units_table(layer, responses, labels, units))
        if output:
            _draw(network, output, numbers or [0], test, layer, responses, units)
        if npz:
            _save(npz, saved(network, chosen, numbers or range(len(test)), layer))


def _title(network: "TrainedNetwork", numbers: Sequence[int], num_test: int) -> str:
    record = network.record
    images = f"{len(numbers)} of {num_test:,}" if numbers else f"{num_test:,}"
    return f"{record.title}, seed {network.seed}: {images} test images of {record.dataset.name}"


def _draw(
    network: "TrainedNetwork",
    file: Path,
    numbers: Sequence[int],
    test: Split,
    layer: str | None,
    responses: "Responses | None",
    units: int,
) -> None:
    from cnnbench.report.plots.image_grid import activation_panels, layer_panels, page

    panels = activation_panels(network, test.images, numbers, layer)
    if layer and responses:
        panels = layer_panels(network, layer, test.images, responses, panels, units)
    title = f"{network.record.title}, seed {network.seed}"
    write_file("--output", file, page(panels, title, file_form("--output", file, PICTURES)))


def _save(file: Path, arrays: Mapping[str, Any]) -> None:
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_file("--npz", file, content.getvalue())
