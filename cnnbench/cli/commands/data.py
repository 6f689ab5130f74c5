"""``cnnbench data``: lists datasets, prepares one, and prints where they are stored."""

from typing import Annotated

import typer
from rich import box
from rich.table import Table

from cnnbench.cli.completion import complete_datasets
from cnnbench.cli.options import DataDir
from cnnbench.cli.parser import App
from cnnbench.cli.terminal import reports_errors, stdout, tell
from cnnbench.data.catalog import KNOWN, default_data_dir
from cnnbench.data.dataset import prepare
from cnnbench.formatting import enumeration
from cnnbench.layers.base import shape_text
from cnnbench.report.table import WrappedTable
from cnnbench.system.cache import cache_dir

data_app = App(
    help="List datasets, prepare one, or print where they are stored.", no_args_is_help=True
)


@data_app.command(name="list")
@reports_errors
def data_list() -> None:
    """List the datasets that are known without tensorflow-datasets."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for header in ("Name", "Image", "Classes", "Train", "Test", "Content"):
        table.add_column(
            header, justify="right" if header in ("Classes", "Train", "Test") else "left"
        )
    for info in KNOWN.values():
        sizes = (f"{n:,}" if n else "" for n in (info.num_train, info.num_test))
        table.add_row(info.name, shape_text(info.shape), str(info.num_classes), *sizes, info.title)
    stated = sorted({info.license for info in KNOWN.values()} - {""})
    licenses = [
        f"{each}: {enumeration([info.name for info in KNOWN.values() if info.license == each])}"
        for each in stated
    ]
    other = (
        "Other image-classification datasets of tensorflow-datasets work by name.\n"
        "random/HEIGHTxWIDTHxCHANNELS/CLASSES, such as random/224x224x3/1000, is noise of any size."
    )
    texts = ("Licenses of MedMNIST", *licenses, "", other)
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


@data_app.command(name="path")
@reports_errors
def data_path(data_dir: DataDir = None) -> None:
    """Print where datasets and their decoded copies are stored."""
    tell(f"datasets  {default_data_dir(data_dir)}", err=False)
    tell(f"cache     {cache_dir()}", err=False)
