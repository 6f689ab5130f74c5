"""``cnnbench data``: lists datasets, prepares one, and prints where they are stored."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from cnnbench.data.catalog import KNOWN, ImageForm, Shares, default_data_dir
from cnnbench.data.dataset import prepare
from cnnbench.data.own.folder import LISTED, FolderSource, few
from cnnbench.errors import DataError
from cnnbench.formatting import clean, enumeration
from cnnbench.layers.base import shape_text
from cnnbench.report.table import WrappedTable
from cnnbench.system.cache import cache_dir

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIDE = 64  # pixels of the images that are drawn
DRAWN = 10  # images of a class

data_app = App(
    help="List datasets, prepare one, or print where they are stored.", no_args_is_help=True
)


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
    data_dir: DataDir = None,
) -> None:
    """Download a dataset and cache its decoded images."""
    dataset = prepare(name, data_dir=data_dir, notify=tell)
    sizes = [len(split) for split in (dataset.train, dataset.validation, dataset.test)]
    train, validation, test = (f"{size:,}" for size in sizes)
    counts = f"{train} training, {validation} validation and {test} test images"
    tell(f"{name}: {counts}, from {dataset.source}", err=False)


@data_app.command(name="inspect")
@reports_errors
def data_inspect(
    path: Annotated[Path, typer.Argument(help="A folder of images.", metavar="FOLDER")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Draw images of every class to a file (.svg or .png).",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Show classes, sizes, modes and duplicates of your own images."""
    if output:
        file_form("--output", output, PICTURES)
    form = ImageForm((SIDE, SIDE), "crop", 3, (255, 255, 255))
    source = FolderSource(path, form, Shares(), skip=True)
    listing, splits = source.listing(), source.splits()
    stdout().print(WrappedTable(_classes_table(listing.classes, splits, source)))
    entry = source.split(source.decode("", tell), tell)
    for line in _facts(source, splits, entry.arrays["train_images"]):
        tell(line, err=False)
    if output:
        _draw_classes(output, path.name, listing.classes, entry.arrays)


def _labels(source: FolderSource) -> dict[str, int]:
    listing = source.listing()
    return {
        file: label
        for pool, files in listing.files.items()
        for file, label in zip(files, listing.labels[pool], strict=True)
    }


def _classes_table(
    classes: Sequence[str], splits: Mapping[str, Sequence[str]], source: FolderSource
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("Class", "Train", "Validation", "Test"):
        table.add_column(name, justify="left" if name == "Class" else "right")
    labels = _labels(source)
    counts = [Counter(labels[file] for file in files) for files in splits.values()]
    for label, name in enumerate(classes):
        table.add_row(clean(name), *(f"{count[label]:,}" for count in counts))
    return table


def _facts(
    source: FolderSource, splits: Mapping[str, Sequence[str]], images: "NDArray[np.uint8]"
) -> Iterator[str]:
    """Sizes, modes, duplicates and statistics, a line each."""
    from cnnbench.data.own.decoding import header, quiet
    from cnnbench.data.scaling import channel_statistics

    with quiet():
        found = [header(source.path / file) for files in splits.values() for file in files]
    known = [each for each in found if each]
    heights, widths = (sorted(getattr(h, side) for h in known) for side in ("height", "width"))
    yield ""
    for name, values in (("Height", heights), ("Width", widths)):
        yield f"{name}: {values[0]} to {values[-1]} pixels, median {values[len(values) // 2]}."
    kinds = Counter(f"{each.format} {each.mode}" for each in known).most_common()
    yield f"Formats and modes: {', '.join(f'{kind} {number:,}' for kind, number in kinds)}."
    split_of = {file: name for name, files in splits.items() for file in files}
    groups = source.duplicates()
    leaks = [group for group in groups if len({split_of[file] for file in group}) > 1]
    yield f"Exact duplicates: {sum(len(group) - 1 for group in groups):,}."
    for group in leaks[:LISTED]:
        yield f"In several splits: {few([f'{clean(f)} ({split_of[f]})' for f in group])}."
    if len(leaks) > LISTED:
        yield f"In several splits: {len(leaks) - LISTED:,} more."
    try:
        mean, std = channel_statistics(images)
    except DataError:  # its message is about an experiment
        yield "Training images: all pixels of a channel have the same value."
        return
    numbers = (", ".join(f"{value:.3f}" for value in values) for values in (mean, std))
    yield "Training images, pixels from 0 to 1: mean {}, std {}.".format(*numbers)


def _draw_classes(
    file: Path, title: str, classes: Sequence[str], arrays: "Mapping[str, NDArray[Any]]"
) -> None:
    from cnnbench.report.plots.image_grid import page, pixel_panel

    images, labels = arrays["train_images"], arrays["train_labels"]
    panels = [
        pixel_panel(clean(name), images[labels == label][:DRAWN])
        for label, name in enumerate(classes)
    ]
    write_file("--output", file, page(panels, title, file_form("--output", file, PICTURES)))


@data_app.command(name="path")
@reports_errors
def data_path(data_dir: DataDir = None) -> None:
    """Print where datasets and their decoded copies are stored."""
    tell(f"datasets  {default_data_dir(data_dir)}", err=False)
    tell(f"cache     {cache_dir()}", err=False)
