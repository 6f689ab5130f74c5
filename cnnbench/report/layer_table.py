"""A network as a table of layers, for `show` and the start of `run`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cnnbench.formatting import escape_controls
from cnnbench.graph.plan import Node, Plan
from cnnbench.layers.base import INPUT, shape_text
from cnnbench.report.table import WrappedTable

if TYPE_CHECKING:
    from cnnbench.nn.submodules import Outline, SubmoduleCall


def layer_table(plan: Plan, title: str, marks: Mapping[str, str] | None = None) -> WrappedTable:
    """A row for each layer, and the totals.

    Args:
      plan: the network.
      title: above the table.
      marks: prefixes of layer names, as in `spec.diff`; None for no prefix column.
    """
    first = ("", "", shape_text(plan.input_shape), "", "")
    rows = {INPUT: first} | {node.name: layer_cells(node)[1:] for node in plan.nodes}
    return _layer_table(rows, (plan.num_params, plan.multiply_adds), title, marks)


def outline_table(outline: "Outline", title: str) -> WrappedTable:
    """A row for each submodule of a Python model, and the totals."""
    first = ("", "", shape_text(outline.input_shape), "", "")
    rows: dict[str, tuple[str, ...]] = {outline.input_name: first}
    rows |= {part.name: part_cells(part)[1:] for part in outline.parts}
    return _layer_table(rows, (outline.num_params, outline.multiply_adds), title, None)


def _layer_table(
    rows: Mapping[str, tuple[str, ...]],
    totals: tuple[int, int],
    title: str,
    marks: Mapping[str, str] | None,
) -> WrappedTable:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    num_params, multiply_adds = (f"{total:,}" for total in totals)
    table = Table(box=box.SIMPLE_HEAD, title=Text(escape_controls(title)), title_justify="left")
    table.padding, table.pad_edge, table.collapse_padding = (0, 1), False, True
    table.show_edge = marks is None  # marks take its place
    table.add_column("Layer", no_wrap=True, footer="total")
    table.add_column("Operation")
    table.add_column("Inputs")
    table.add_column("Output", justify="right", no_wrap=True)
    table.add_column("Params", justify="right", no_wrap=True, footer=num_params)
    table.add_column("MACs", justify="right", no_wrap=True, footer=multiply_adds)
    table.show_footer = True
    for name, cells in rows.items():
        mark = "" if marks is None else f"{marks.get(name, ''):2}"
        table.add_row(mark + name, *cells, style="bold" if mark[:1] in ("+", "~") else "")
    return WrappedTable(table)


def layer_cells(node: Node) -> tuple[str, ...]:
    """Name, operation, inputs, output shape, parameters and cost of a layer."""
    counts = node.num_params, node.layout.multiply_adds
    return _cells(node.name, node.op.summary(), node.inputs, node.layout.shape, counts)


def part_cells(part: "SubmoduleCall") -> tuple[str, ...]:
    """Name, operation, inputs, output shape, parameters and cost of a submodule."""
    counts = part.num_params, part.multiply_adds
    return _cells(part.name, part.operation, part.inputs, part.shape, counts)


def _cells(
    name: str,
    operation: str,
    inputs: tuple[str, ...],
    shape: tuple[int, ...],
    counts: tuple[int, int],
) -> tuple[str, ...]:
    numbers = (f"{count:,}" if count else "" for count in counts)
    return name, operation, ", ".join(inputs), shape_text(shape), *numbers
