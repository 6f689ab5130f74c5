"""``cnnbench predict``: runs trained networks on images of the user, or on test images."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import typer

from cnnbench.cli.options import DataDir, Format, ResultsDir, Run
from cnnbench.cli.terminal import (
    PICTURES,
    computing,
    file_form,
    print_document,
    stdout,
    tell,
    warn,
    write_file,
)
from cnnbench.data.catalog import READABLE, describe
from cnnbench.data.own.image_files import PreparedImage, Preprocessing, read_as_trained, read_image
from cnnbench.errors import UsageError
from cnnbench.report.plots.terminal_image import ImageGroup, gallery
from cnnbench.report.table import WrappedTable
from cnnbench.runs.experiment import load_trained_experiment
from cnnbench.runs.find import find_run
from cnnbench.runs.folder import read_run_entry

if TYPE_CHECKING:
    from cnnbench.data.catalog import ImageForm
    from cnnbench.report.predictions.files import Predictions
    from cnnbench.report.predictions.worst import WorstPredictions

PredictFormat = Literal[Format.TABLE, Format.MD, Format.CSV, Format.JSON]
SHOWN = 6  # images that a terminal shows


class Invert(StrEnum):
    """Choices of `--invert`."""

    AUTO = "auto"
    YES = "yes"
    NO = "no"


def predict(  # noqa: PLR0913, PLR0917 - one parameter per option
    run: Run,
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGE", help=f"{READABLE} files.", show_default=False),
    ] = None,
    worst: Annotated[
        int | None,
        typer.Option(
            help="Instead of image files: the N test images with the largest loss.",
            metavar="N",
            min=1,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed whose network is used; default: all of them.", metavar="N"),
    ] = None,
    invert: Annotated[
        Invert,
        typer.Option(help="Invert colors; auto inverts gray images with a light border."),
    ] = Invert.AUTO,
    trim: Annotated[
        bool,
        typer.Option("--trim", help="Crop to the ink and center it, as in MNIST."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Draw the images with their predictions to a file (.svg or .png).",
            metavar="FILE",
        ),
    ] = None,
    format: Annotated[PredictFormat, typer.Option(help="Output format.")] = Format.TABLE,  # noqa: A002
    data_dir: DataDir = None,
    results_dir: ResultsDir = Path("results"),
) -> None:
    """Run a trained network on your own images."""
    if output:
        file_form("--output", output, PICTURES)
    if worst is not None:
        given = {"images": images, "--trim": trim, "--invert": invert is not Invert.AUTO}
        _require_alone(given)
    elif not images:
        remedy = "name one or more image files, or add --worst 16 for test images"
        raise UsageError(f"predict: IMAGE is missing; {remedy}.")
    path, warnings = find_run(run, results_dir)
    warn(warnings)
    if worst is not None:
        with computing():
            shown = _worst(path, seed, data_dir, worst)
        _print_worst(shown, format)
        if output:
            _draw_worst(shown, output)
        return
    used = read_run_entry(path).record.dataset
    preprocessing = Preprocessing(invert.value, trim)
    shape = used.shape or describe(used.name, data_dir).shape
    form = _form(path, data_dir) if used.classes else None
    seen = [_read(file, shape, preprocessing, form) for file in images or ()]
    with computing():
        found = _predictions(path, seed, data_dir, seen)
    _print(found, format)
    if output:
        _draw(found, output)


def _require_alone(given: Mapping[str, object]) -> None:
    """Refuses arguments that `--worst` ignores.

    Raises:
      UsageError: there is one.
    """
    for name, value in given.items():
        if value:
            what = "image files have" if name == "images" else f"{name} has"
            remedy = "remove them" if name == "images" else "remove it"
            raise UsageError(f"--worst: shows test images, on which {what} no effect; {remedy}.")


def _form(path: Path, data_dir: Path | None) -> "ImageForm | None":
    """How a run on image files converts them; None if it was trained on something else."""
    from cnnbench.data.own.folder import FolderSource

    loaded = load_trained_experiment(path, read_run_entry(path).record, data_dir=data_dir)
    dataset = loaded.experiment.dataset
    if isinstance(dataset.source, FolderSource):
        return dataset.source.form
    return loaded.info.form


def _read(
    file: Path,
    shape: tuple[int, int, int],
    preprocessing: Preprocessing,
    form: "ImageForm | None",
) -> PreparedImage:
    """Reads a file as the images that the network was trained on."""
    if form is None:
        return read_image(file, shape, preprocessing)
    if preprocessing.trim:
        message = "--trim: not available for networks trained on a folder of images"
        raise UsageError(f"{message}; remove it.")
    return read_as_trained(file, shape, form, invert=preprocessing.invert == "yes")


def _predictions(
    path: Path, seed: int | None, data_dir: Path | None, seen: Sequence[PreparedImage]
) -> "Predictions":
    from cnnbench.analysis.predict import predict as predict_images
    from cnnbench.analysis.trained_network import load_seeds
    from cnnbench.report.predictions.files import Predictions
    from cnnbench.runs.experiment import loss_name

    networks = load_seeds(path, seed, data_dir=data_dir)
    experiment = networks[0].experiment
    answers = predict_images(networks, np.stack([each.pixels for each in seen]))
    seeds = tuple(network.seed for network in networks)
    return Predictions(networks[0].record, seeds, loss_name(experiment), seen, answers)


def _print(found: "Predictions", format: PredictFormat) -> None:  # noqa: A002
    from cnnbench.report.predictions.files import (
        csv_text,
        json_text,
        markdown,
        pictures,
        table,
        title,
    )

    texts = {Format.MD: markdown, Format.CSV: csv_text, Format.JSON: json_text}
    if format in texts:
        print_document(texts[format](found), format)
    else:
        _print_table(pictures(found), title(found), table(found))


def _print_table(groups: Sequence[ImageGroup], heading: str, rows: WrappedTable) -> None:
    """Prints some images, and predictions for all of them."""
    console = stdout()
    console.print(gallery(groups[:SHOWN], console))
    if len(groups) > SHOWN:
        console.print(f"{len(groups) - SHOWN} more images; draw all of them with -o FILE.\n")
    console.print(heading, markup=False, highlight=False)
    console.print(rows)


def _worst(path: Path, seed: int | None, data_dir: Path | None, most: int) -> "WorstPredictions":
    from cnnbench.analysis.trained_network import load_seeds
    from cnnbench.analysis.worst import worst_images
    from cnnbench.report.predictions.worst import WorstPredictions

    networks = load_seeds(path, seed, data_dir=data_dir)
    record = networks[0].record
    test = networks[0].dataset(data_dir, tell).test
    seeds = tuple(network.seed for network in networks)
    return WorstPredictions(record, seeds, record.loss, worst_images(networks, test, most))


def _print_worst(found: "WorstPredictions", format: PredictFormat) -> None:  # noqa: A002
    from cnnbench.report.predictions.worst import csv_text, groups, json_text, markdown, table

    texts = {Format.MD: markdown, Format.CSV: csv_text, Format.JSON: json_text}
    if format in texts:
        print_document(texts[format](found), format)
    else:
        _print_table(groups(found), found.heading, table(found))


def _draw_worst(found: "WorstPredictions", file: Path) -> None:
    from cnnbench.report.plots.contact_sheet import contact_sheet
    from cnnbench.report.predictions.worst import groups

    content = contact_sheet(groups(found), found.heading, file_form("--output", file, PICTURES))
    write_file("--output", file, content)


def _draw(found: "Predictions", file: Path) -> None:
    from cnnbench.report.plots.image_grid import page, pixel_panel
    from cnnbench.report.predictions.files import answer_text, pictures, title

    panels = [
        pixel_panel(
            f"{shown.caption[0]}: {answer_text(found, answer)}; {shown.caption[2]}",
            np.stack(shown.images),
        )
        for shown, answer in zip(pictures(found), found.answers, strict=True)
    ]
    form = file_form("--output", file, PICTURES)
    write_file("--output", file, page(panels, title(found), form))
