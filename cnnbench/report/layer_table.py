"""A network as a table of layers, for `show` and the start of `run`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from cnnbench.formatting import escape_controls
from cnnbench.graph.plan import Node, Plan
from cnnbench.layers.base import INPUT, shape_text
from cnnbench.report.table import WrappedTable
from cnnbench.spec.diff import CHANGED
from cnnbench.spec.experiment import TrainSpec
from cnnbench.spec.optimizers import Muon, first_group

if TYPE_CHECKING:
    from cnnbench.nn.submodules import Outline, SubmoduleCall

Blocks = Mapping[str, tuple[str, int]]  # calls: block, number of repetitions (0 without `repeat`)


def layer_table(
    plan: Plan,
    title: str,
    marks: Mapping[str, str] | None = None,
    blocks: Blocks = MappingProxyType({}),
) -> WrappedTable:
    """A row for each layer, and the totals.

    Args:
      plan: the network.
      title: above the table.
      marks: prefixes of layer names, as in `spec.diff`; None for no prefix column.
      blocks: calls that have a row in place of their layers: block and number of repetitions.
    """
    rows: dict[str, tuple[str, ...]] = {INPUT: ("", "", shape_text(plan.input_shape), "", "")}
    shown = dict(marks or {})
    groups = _groups(plan, blocks)
    ends = _ends(plan, groups)
    outputs = {end.name: name for name, end in ends.items()}
    for name, nodes in groups.items():
        rows[name] = _row_cells(nodes, ends[name], _text(name, nodes, blocks), outputs)
        inner = {shown.pop(node.name, "") for node in nodes}
        shown[name] = inner.pop() if len(inner) == 1 else CHANGED
    totals = (plan.num_params, plan.multiply_adds)
    return _layer_table(rows, totals, title, None if marks is None else shown)


def group_lines(train: TrainSpec, plan: Plan) -> list[str]:
    """Describes each parameter group: its layers, learning rate and weight decay.

    Args:
      train: training settings.
      plan: the network.
    """
    groups, trained = (
        train.groups or (),
        [n for n in plan.nodes if n.op.is_trained and n.num_params],
    )
    lines = []
    for number, group in enumerate(groups):
        own = [node for node in trained if first_group(groups, node.name) == number]
        rule = group.of_group(train.optimizer)
        names = ", ".join(group.layers)
        layers = f"{len(own)} layer{'s' * (len(own) != 1)}"
        size = f"{layers}, {sum(node.num_params for node in own):,} parameters"
        adam = f" (AdamW {rule.adam_learning_rate:g})" if isinstance(rule, Muon) else ""
        rates = f"learning rate {rule.learning_rate:g}{adam}, weight decay {rule.weight_decay:g}"
        lines.append(f"{names}: {rates} ({size})")
    return lines


def _groups(plan: Plan, blocks: Blocks) -> dict[str, list[Node]]:
    """The layers of each row."""
    found: dict[str, list[Node]] = {}
    for node in plan.nodes:
        found.setdefault(_row(node.name, blocks), []).append(node)
    return found


def _row(name: str, blocks: Blocks) -> str:
    """The call that a layer is part of, or the layer itself."""
    call = name.partition(".")[0]
    return call if call in blocks else name


def _ends(plan: Plan, groups: Mapping[str, list[Node]]) -> dict[str, Node]:
    """The last layer of each row that other rows read."""
    row = {node.name: name for name, nodes in groups.items() for node in nodes}
    read = {plan.output}
    for node in plan.nodes:
        read.update(source for source in node.inputs if row.get(source) != row[node.name])
    return {
        name: next((node for node in reversed(nodes) if node.name in read), nodes[-1])
        for name, nodes in groups.items()
    }


def _row_cells(
    nodes: list[Node], end: Node, text: str, outputs: Mapping[str, str]
) -> tuple[str, ...]:
    """Operation or block, inputs, output shape, parameters and cost of a row."""
    own = {node.name for node in nodes}
    sources = dict.fromkeys(s for node in nodes for s in node.inputs if s not in own)
    inputs = tuple(outputs.get(source, source) for source in sources)
    counts = sum(n.num_params for n in nodes), sum(n.layout.multiply_adds for n in nodes)
    return _cells("", text, inputs, end.layout.shape, counts)[1:]


def _text(name: str, nodes: list[Node], blocks: Blocks) -> str:
    """The operation, or the block with the number and parameters of its repetitions."""
    block, repeat = blocks.get(name, (nodes[0].op.summary(), 0))
    if not repeat:
        return block
    found: dict[str, int] = {}  # their numbers have gaps if some are removed
    for node in nodes:
        number = node.name.split(".")[1]
        found[number] = found.get(number, 0) + node.num_params
    each = [*found.values(), *[0] * (repeat - len(found))]
    text = f"{block} x{repeat}"
    if repeat == 1:
        return text
    if len(set(each)) == 1:
        return f"{text}, {each[0]:,} parameters each" if each[0] else text
    if each[0] and all(node.owner.startswith(f"{name}.0.") for node in nodes if _learns(node)):
        return f"{text}, {each[0]:,} shared parameters"
    if len(set(each[1:])) == 1:
        others = "then" if repeat == 2 else "then each"
        return f"{text}, {each[0]:,} parameters, {others} {each[1]:,}"
    return text


def _learns(node: Node) -> bool:
    return bool(node.layout.params)


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
    heading = Text(escape_controls(title) + "\n")
    table = Table(box=box.SIMPLE_HEAD, title=heading, title_justify="left", show_edge=False)
    table.padding, table.pad_edge, table.collapse_padding = (0, 1), False, True
    indent = "" if marks is None else "  "
    table.add_column(f"{indent}Layer", no_wrap=True, footer=f"{indent}total")
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
