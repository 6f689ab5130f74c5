"""The architecture of a network as a drawing: where its blocks stand, and as Mermaid text."""

from collections.abc import Mapping
from dataclasses import dataclass

from cnnbench.graph import Plan
from cnnbench.layer_table import operation_text
from cnnbench.layers import INPUT, ConvTranspose
from cnnbench.shapes import shape_text


@dataclass(frozen=True, slots=True)
class Block:
    """A layer in the drawing.

    Args:
      name: the layer's, or `input`.
      operation: what it does, in a few words; empty for the input.
      shape: of its result.
      lane: its column; branches stand side by side.
      row: its place from the top: below everything that it reads.
    """

    name: str
    operation: str
    shape: str
    lane: int
    row: int


@dataclass(frozen=True, slots=True)
class Diagram:
    """Blocks and what connects them.

    Args:
      blocks: the input and every layer.
      edges: (from, to): who reads whom.
      ties: (from, to): whose kernel a layer uses.
    """

    blocks: tuple[Block, ...]
    edges: tuple[tuple[str, str], ...]
    ties: tuple[tuple[str, str], ...]


def diagram(plan: Plan) -> Diagram:
    """Places every layer: rows by the longest way from the input, lanes by branch."""
    rows, lanes = {INPUT: 0}, {INPUT: 0}
    continued: set[str] = set()
    blocks = [Block(INPUT, "", shape_text(plan.input_shape), 0, 0)]
    for node in plan.nodes:
        rows[node.name] = 1 + max(rows[name] for name in node.inputs)
        lanes[node.name] = _lane(node.inputs, lanes, continued)
        place = lanes[node.name], rows[node.name]
        text, shape = operation_text(node.op), shape_text(node.layout.shape)
        blocks.append(Block(node.name, text, shape, *place))
    edges = ((name, node.name) for node in plan.nodes for name in node.inputs)
    ties = (
        (node.op.tie, node.name)
        for node in plan.nodes
        if isinstance(node.op, ConvTranspose) and node.op.tie
    )
    return Diagram(tuple(blocks), tuple(edges), tuple(ties))


def _lane(inputs: tuple[str, ...], lanes: Mapping[str, int], continued: set[str]) -> int:
    """The first reader goes on below a layer, another one opens a lane; joins go left."""
    source = min(inputs, key=lambda name: lanes[name])
    is_first = source not in continued
    continued.update(inputs)
    return lanes[source] if is_first or len(inputs) > 1 else max(lanes.values()) + 1


def mermaid(plan: Plan) -> str:
    """The drawing as a Mermaid block, for a README or a notebook."""
    drawn = diagram(plan)
    ids = {block.name: f"n{number}" for number, block in enumerate(drawn.blocks)}
    lines = ["```mermaid", "flowchart TD"]
    for block in drawn.blocks:
        words = [f"<b>{block.name}</b>", block.operation, block.shape]
        lines.append(f'  {ids[block.name]}["{"<br>".join(filter(None, words))}"]')
    lines += [f"  {ids[one]} --> {ids[other]}" for one, other in drawn.edges]
    lines += [f"  {ids[one]} -. same kernel .- {ids[other]}" for one, other in drawn.ties]
    return "\n".join([*lines, "```", ""])
