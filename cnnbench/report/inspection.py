"""A trained network's layers, units and predictions as tables of 80 columns."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cnnbench.analysis.activations import LayerStatistics, Prediction, Responses
from cnnbench.formatting import escape_controls
from cnnbench.layers.base import shape_text
from cnnbench.report.table import WrappedTable
from cnnbench.runs.records import RunRecord

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


def _titled(title: str, table: "Table") -> "Group":
    from rich.console import Group
    from rich.text import Text

    heading = Text(escape_controls(title), style="table.title")
    return Group(heading, "", WrappedTable(table), "")


def _table() -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.padding, table.pad_edge, table.collapse_padding = (0, 1), False, True
    return table


def layers_table(layers: Sequence[LayerStatistics], title: str) -> "Group":
    """Statistics of each layer, one per row.

    Args:
      layers: in the order of the network.
      title: above the table.
    """
    table = _table()
    table.add_column("Layer")
    for header in ("Output", "Mean", "Std", "Zeros", "Min", "Max"):
        table.add_column(header, justify="right", no_wrap=True)
    for layer in layers:
        numbers = (layer.mean, layer.std, layer.least, layer.most)
        mean, std, least, most = (f"{number:.4g}" for number in numbers)
        zeros = f"{100 * layer.zeros:.1f}%"
        table.add_row(layer.name, shape_text(layer.shape), mean, std, zeros, least, most)
    return _titled(title, table)


def units_table(layer: str, responses: Responses, labels: Sequence[object], most: int) -> "Group":
    """The strongest activations of a layer's units, the strongest units first.

    Args:
      layer: its name.
      responses: from `activations.examine`.
      labels: classes or their names, of all images examined, by image number.
      most: maximum number of units shown.
    """
    units = responses.strongest
    shown = units[:most]
    total = len(units)
    some = f", {len(shown)} of {total} units (all: --units {total})" if most < total else ""
    table = _table()
    table.add_column("Unit", justify="right", no_wrap=True)
    # Three do not fit in 80 columns with their places.
    count = min(2 if responses.places.size else 3, len(responses.values))
    for number in range(count):
        table.add_column(("1st", "2nd", "3rd")[number], no_wrap=True)
    for unit in shown:
        cells = []
        for example in range(count):
            image = int(responses.images[example, unit])
            place = responses.places[example, unit].tolist()
            at = f" at {','.join(map(str, place))}" if place else ""
            value = f"{responses.values[example, unit]:.4g}"
            cells.append(f"{value}, {image} ({labels[image]}){at}")
        table.add_row(str(unit), *cells)
    return _titled(f"Top activations of {layer}{some}: value, image (label)", table)


def predictions_table(
    predictions: Sequence[Prediction], name: Callable[[Any], str] = str
) -> "Group":
    """Predictions, one image per row.

    Args:
      predictions: of the images.
      name: text of a label, from `label_text`.
    """
    classifies = any(p.predicted is not None for p in predictions)
    table = _table()
    columns = ("Prediction", "Probability") if classifies else ("Squared error",)
    for header in ("Image", "Label", *columns):
        table.add_column(header, justify="right")
    for p in predictions:
        percent, value = f"{100 * p.value:.1f}%", f"{p.value:.4g}"
        cells = (value,) if p.predicted is None else (name(p.predicted), percent)
        table.add_row(str(p.image), name(p.label), *cells)
    made = classifies or any(isinstance(p.label, tuple) for p in predictions)
    return _titled("Predictions" if made else "Reconstructions", table)


def label_text(record: RunRecord) -> Callable[[Any], str]:
    """A function from the label of an image to its text.

    Args:
      record: the run, with its task and the names of classes.
    """
    name = record.dataset.class_name
    match record.task:
        case "regress":
            return lambda targets: ", ".join(f"{value:.4g}" for value in targets)
        case "multilabel":
            return lambda row: ", ".join(name(i) for i, has in enumerate(row) if has) or "none"
        case _:
            return name
