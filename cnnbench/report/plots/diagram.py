"""The architecture of a network as a drawing: where its blocks stand, and as Mermaid text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from cnnbench.formatting import clean
from cnnbench.graph.plan import Plan
from cnnbench.layers import ConvTranspose
from cnnbench.layers.base import INPUT, shape_text
from cnnbench.spec.diff import ADDED, CHANGED, FOLLOWS, REMOVED

if TYPE_CHECKING:
    from cnnbench.nn.submodules import Outline


class LayerStyle(NamedTuple):
    """How a layer is drawn that differs from another network's: a name, a color, dashes."""

    name: str
    color: str
    dashes: str = ""


LOOKS: Mapping[str, LayerStyle] = {
    ADDED: LayerStyle("added", "#00805f"),
    CHANGED: LayerStyle("changed", "#c44e00"),
    FOLLOWS: LayerStyle("resized", "#0072b2"),
    REMOVED: LayerStyle("removed", "#b03030", ",stroke-dasharray:4"),
}


@dataclass(frozen=True, slots=True)
class Block:
    """A layer in the drawing.

    Args:
      name: the layer's, or `input`.
      operation: what it does, in a few words; empty for the input.
      shape: of its result.
      lane: its column; branches stand side by side.
      row: its place from the top: below everything that it reads.
      mark: how it differs from another network's, as in `differences`; empty if it does not.
    """

    name: str
    operation: str
    shape: str
    lane: int
    row: int
    mark: str = ""


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


def diagram(plan: Plan, marks: Mapping[str, str] = MappingProxyType({})) -> Diagram:
    """Places every layer: rows by the longest way from the input, lanes by branch.

    Args:
      plan: the network.
      marks: of layers that differ from another network's, by name.
    """
    layers = [(node.name, node.inputs, node.op.summary(), node.layout.shape) for node in plan.nodes]
    ties = (
        (node.op.tie, node.name)
        for node in plan.nodes
        if isinstance(node.op, ConvTranspose) and node.op.tie
    )
    return Diagram(*_placed(plan.input_shape, layers, marks), tuple(ties))


_Layer = tuple[str, tuple[str, ...], str, tuple[int, ...]]  # name, inputs, operation, shape


def outline_diagram(outline: "Outline") -> Diagram:
    """Places the submodules of a Python model likewise, and its result if that is none of them."""
    layers = [(part.name, part.inputs, part.operation, part.shape) for part in outline.parts]
    if len(outline.output_inputs) != 1:
        layers.append(("output", outline.output_inputs, "", outline.output_shape))
    return Diagram(*_placed(outline.input_shape, layers, {}), ())


def _placed(
    input_shape: tuple[int, ...], layers: Sequence[_Layer], marks: Mapping[str, str]
) -> tuple[tuple[Block, ...], tuple[tuple[str, str], ...]]:
    """Blocks and edges."""
    rows, lanes = {INPUT: 0}, {INPUT: 0}
    continued: set[str] = set()
    blocks = [Block(INPUT, "", shape_text(input_shape), 0, 0)]
    for name, inputs, text, shape in layers:
        rows[name] = 1 + max((rows[source] for source in inputs), default=0)
        lanes[name] = _lane(inputs or (INPUT,), lanes, continued)
        place = lanes[name], rows[name]
        blocks.append(Block(name, text, shape_text(shape), *place, marks.get(name, "")))
    edges = ((source, name) for name, inputs, _, _ in layers for source in inputs)
    return tuple(blocks), tuple(edges)


def _lane(inputs: tuple[str, ...], lanes: Mapping[str, int], continued: set[str]) -> int:
    """The first reader goes on below a layer, another one opens a lane; joins go left."""
    source = min(inputs, key=lambda name: lanes[name])
    is_first = source not in continued
    continued.update(inputs)
    return lanes[source] if is_first or len(inputs) > 1 else max(lanes.values()) + 1


def mermaid(drawings: Sequence[tuple[str, Diagram]]) -> str:
    """Drawings as a Mermaid block, for a README or a notebook.

    Args:
      drawings: titles and diagrams; several get a frame with their title each.
    """
    lines = ["```mermaid", "flowchart TD"]
    for number, (title, drawn) in enumerate(drawings):
        body = list(_flow(drawn, f"n{number}x" if number else "n"))
        if len(drawings) > 1:
            body = [f'  subgraph g{number}["{_entities(title)}"]', *body, "  end"]
        lines += body
    used = {block.mark for _, drawn in drawings for block in drawn.blocks}
    lines += [
        f"  classDef {look.name} stroke:{look.color},stroke-width:2px{look.dashes}"
        for mark, look in LOOKS.items()
        if mark in used
    ]
    return "\n".join([*lines, "```", ""])


def _flow(drawn: Diagram, prefix: str) -> Iterator[str]:
    ids = {block.name: f"{prefix}{number}" for number, block in enumerate(drawn.blocks)}
    for block in drawn.blocks:
        mark = f"{_entities(block.mark)} " if block.mark else ""
        words = [f"{mark}<b>{block.name}</b>", block.operation, block.shape]
        look = f":::{LOOKS[block.mark].name}" if block.mark else ""
        yield f'  {ids[block.name]}["{"<br>".join(filter(None, words))}"]{look}'
    yield from (f"  {ids[one]} --> {ids[other]}" for one, other in drawn.edges)
    yield from (f"  {ids[one]} -. same kernel .- {ids[other]}" for one, other in drawn.ties)


def _entities(text: str) -> str:
    """Words in a label, where Mermaid would take anything but letters and digits for its own."""
    return "".join(c if c.isalnum() or c in " .,-" else f"#{ord(c)};" for c in clean(text))
