"""``cnnbench data``: lists, prepares, inspects and exports datasets."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from cnnbench.cli.completion import complete_datasets
from cnnbench.cli.options import DataDir
from cnnbench.cli.parser import App
from cnnbench.cli.terminal import (
    PICTURES,
    file_form,
    reports_errors,
    stdout,
    tell,
    write_file,
)
from cnnbench.data.catalog import KNOWN, ImageForm, default_data_dir
from cnnbench.data.dataset import Dataset, dataset_of, prepare
from cnnbench.data.places import DataPlace, find_place
from cnnbench.errors import UsageError
from cnnbench.formatting import clean, enumeration
from cnnbench.layers.base import shape_text
from cnnbench.report.table import WrappedTable
from cnnbench.spec.experiment import DatasetSpec, Task
from cnnbench.system import commands
from cnnbench.system.cache import cache_dir

if TYPE_CHECKING:
    from cnnbench.report.plots.image_grid import Drawn
    from cnnbench.system.arrays import Pixels

Inspected = tuple[Table, list[str], "list[Drawn]"]

data_app = App(help="List, prepare, inspect and export datasets.", no_args_is_help=True)


@data_app.command(name="list")
@reports_errors
def data_list() -> None:
    """List the built-in datasets, which do not need tensorflow-datasets."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for header in ("Name", "Image", "Classes", "Train", "Test", "Content"):
        table.add_column(
            header, justify="right" if header in ("Classes", "Train", "Test") else "left"
        )
    versions = [name for name in KNOWN if name.startswith("imagenette/")]  # too wide for the table
    for info in (info for name, info in KNOWN.items() if name not in versions):
        sizes = (f"{n:,}" if n else "" for n in (info.num_train, info.num_test))
        shape = "varies" if info.varies else shape_text(info.shape)
        table.add_row(info.name, shape, str(info.num_classes), *sizes, info.title)
    stated = sorted({info.license for info in KNOWN.values()} - {""})
    licenses = [
        f"{each}: {enumeration([info.name for info in KNOWN.values() if info.license == each])}"
        for each in stated
    ]
    other = (
        "Other image classification datasets in tensorflow-datasets work by name.\n"
        "random/224x224x3/1000 is random noise (HEIGHTxWIDTHxCHANNELS/CLASSES)."
    )
    larger = f"imagenette is imagenette/160px-v2; other versions: {enumeration(versions[1:])}."
    texts = ("Licenses of MedMNIST", *licenses, "", larger, other)
    stdout().print(WrappedTable(table), "", *texts, sep="\n", highlight=False)


@data_app.command(name="prepare")
@reports_errors
def data_prepare(
    name: Annotated[
        str,
        typer.Argument(
            help="Name of the dataset.", metavar="NAME", autocompletion=complete_datasets
        ),
    ],
    resize: Annotated[
        str | None,
        typer.Option(
            help="Size of the images, as dataset.resize in your experiments: 128, or 96x128"
            " (height x width). Required for imagenette, whose images have various sizes.",
            metavar="SIZE",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Download a dataset and cache its decoded images."""
    if resize is None and name in KNOWN and KNOWN[name].varies:
        example = commands.cnnbench("data", "prepare", name, "--resize", "128")
        raise UsageError(
            f"{name}: has images of various sizes; add the size in your experiments: {example}"
        )
    form = _form(name, resize) if resize else None
    dataset = prepare(name, form=form, data_dir=data_dir, notify=tell)
    sizes = [len(split) for split in (dataset.train, dataset.validation, dataset.test)]
    train, validation, test = (f"{size:,}" for size in sizes)
    counts = f"{train} training, {validation} validation and {test} test images"
    tell(f"{name}: {counts}, from {dataset.source}", err=False)


def _form(name: str, size: str) -> ImageForm | None:
    """The form of the images of an experiment with this size.

    Raises:
      UsageError: not a size.
    """
    sides = size.lower().split("x")
    if len(sides) > 2 or not all(each.isdecimal() and int(each) for each in sides):
        raise UsageError(f"--resize: '{size}' is not a size; use 128, or 96x128 (height x width).")
    pair = [int(sides[0]), int(sides[-1])]
    return DatasetSpec.model_validate({"name": name, "resize": {"size": pair}}).form


@data_app.command(name="export")
@reports_errors
def data_export(
    data: Annotated[
        str,
        typer.Argument(
            help="Name of a dataset, or array files.",
            metavar="DATA",
            autocompletion=complete_datasets,
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="Folder to write.", metavar="FOLDER")],
    data_dir: DataDir = None,
) -> None:
    """Write the images of a dataset as PNG files, a folder per split and class."""
    from cnnbench.data.writing import write_folder

    place = find_place(data, data_dir)
    if place.key == "folder":
        raise UsageError(f"{data}: is a folder of images already; name a dataset or array files.")
    number = write_folder(_load(place, data_dir), folder)
    tell(f"wrote {number:,} images to {folder}", err=False)


@data_app.command(name="inspect")
@reports_errors
def data_inspect(
    data: Annotated[
        str,
        typer.Argument(
            help="A folder of images, array files, the name of a dataset, or an experiment file,"
            " for its dataset.",
            metavar="DATA",
            autocompletion=complete_datasets,
        ),
    ],
    task: Annotated[
        Task | None,
        typer.Option(
            help="What the labels in array files are: numbers (regress), or several per image"
            " (multilabel). An experiment file has it.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Draw images of every class to a file (.svg or .png).",
            metavar="FILE",
        ),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Show classes, targets or labels, sizes, modes and duplicates of a dataset."""
    if output:
        file_form("--output", output, PICTURES)
    title, (table, lines, panels) = _inspected(data, task, data_dir)
    stdout().print(WrappedTable(table), "")
    for line in lines:
        tell(line, err=False)
    if output:
        from cnnbench.report.plots.image_grid import page

        content = page(panels, title, file_form("--output", output, PICTURES))
        write_file("--output", output, content)


def _inspected(data: str, task: Task | None, data_dir: Path | None) -> tuple[str, Inspected]:
    """Title of what is inspected, and what was found.

    Raises:
      UsageError: `--task` is not for this data.
    """
    if Path(data).suffix in {".yaml", ".yml"} and Path(data).is_file():
        from cnnbench.spec.loader import load_experiment

        if task is not None:
            raise UsageError("--task: the experiment file has the task; remove it.")
        loaded = load_experiment(Path(data), data_dir=data_dir)
        dataset = dataset_of(loaded.experiment.dataset, data_dir, tell)
        return loaded.experiment.name, _dataset(dataset)
    place = find_place(data, data_dir)
    several = task is not None and task.labels != "class"
    if several and place.key != "arrays":
        what = "labels of a folder are in a table (dataset.labels)"
        what = what if place.key == "folder" else "is for array files"
        raise UsageError(f"--task: {what}; inspect an experiment file.")
    if place.key == "folder":
        return place.title, _folder(place, data_dir)
    spec = DatasetSpec.model_validate({place.key: place.value})
    spec = spec.labeled(task.labels) if task else spec
    return place.title, _dataset(dataset_of(spec, data_dir, tell))


def _folder(place: DataPlace, data_dir: Path | None) -> Inspected:  # noqa: ARG001
    from cnnbench.data.inspection.folder import inspect_folder
    from cnnbench.report.data_inspection import classes_table, folder_lines

    found = inspect_folder(Path(place.value), tell)
    table = classes_table(found.classes, found.counts)
    return table, list(folder_lines(found)), _panels(found.classes, found.samples)


def _dataset(dataset: Dataset) -> Inspected:
    from cnnbench.data.inspection.arrays import inspect_dataset
    from cnnbench.report.data_inspection import array_lines, classes_table

    info, found = dataset.info, inspect_dataset(dataset)
    lines = list(array_lines(info, found))
    if info.labels == "targets":
        return _targets(dataset, lines, found.samples)
    names = info.classes or [str(label) for label in range(info.num_classes)]
    if info.labels == "multilabel":
        from cnnbench.data.inspection.labels import label_distribution
        from cnnbench.report.data_inspection import labels_lines

        lines = [*labels_lines(names, label_distribution(dataset.train.labels)), *lines]
        return classes_table(names, found.counts, "Label"), lines, _panels(names, found.samples)
    return classes_table(names, found.counts), lines, _panels(names, found.samples)


def _targets(dataset: Dataset, lines: list[str], samples: "Sequence[Pixels]") -> Inspected:
    from cnnbench.data.inspection.labels import target_distributions
    from cnnbench.report.data_inspection import targets_table
    from cnnbench.report.plots.image_grid import Histogram

    parts = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    values = {name: split.labels for name, split in parts.items()}
    number = dataset.info.num_classes
    names = dataset.info.classes or [f"value {n}" if number > 1 else "value" for n in range(number)]
    found = [target_distributions(values, target) for target in range(number)]
    panels: list[Drawn] = []
    for target, name in enumerate(names):
        own = found[target].values()
        ends = min(each.low for each in own), max(each.high for each in own)
        counts = {split: each.histogram for split, each in found[target].items()}
        panels.append(Histogram(clean(name), ends, counts))
        titles = [f"{name}: smallest", f"{name}: largest"]
        panels += _panels(titles, samples[2 * target : 2 * target + 2])
    return targets_table(names, found, stdout().encoding), lines, panels


def _panels(classes: Sequence[str], samples: "Sequence[Pixels]") -> "list[Drawn]":
    from cnnbench.report.plots.image_grid import pixel_panel

    named = zip(classes, samples, strict=True)
    return [pixel_panel(clean(name), images) for name, images in named if len(images)]


def _load(place: DataPlace, data_dir: Path | None) -> Dataset:
    """Loads a dataset as an experiment without further settings does."""
    return dataset_of(DatasetSpec.model_validate({place.key: place.value}), data_dir, tell)


@data_app.command(name="path")
@reports_errors
def data_path(data_dir: DataDir = None) -> None:
    """Print where datasets and their decoded copies are stored."""
    tell(f"datasets  {default_data_dir(data_dir)}", err=False)
    tell(f"cache     {cache_dir()}", err=False)
