"""Diagrams of networks and Python models, with marks for differences."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from cnnbench.graph.plan import Node as LayerNode
from cnnbench.graph.plan import Plan, tie_of
from cnnbench.layers.base import INPUT, shape_text
from cnnbench.report.plots.blocks import Cell, Diagram, build_diagram
from cnnbench.spec.diff import ADDED, CHANGED, FOLLOWS, REMOVED

if TYPE_CHECKING:
    from cnnbench.nn.submodules import Outline, SubmoduleCall

# Kinds of operations, each with a color, and words in names of operations.
KINDS = {"conv": "conv", "pool": "pool", "dense": "dense", "linear": "dense"}


class LayerStyle(NamedTuple):
    """Appearance of a layer that differs from another network's: a name, a color, dashes."""

    name: str
    color: str
    dashes: str = ""


STYLES: Mapping[str, LayerStyle] = {
    ADDED: LayerStyle("added", "#00805f"),
    CHANGED: LayerStyle("changed", "#c44e00"),
    FOLLOWS: LayerStyle("resized", "#0072b2"),
    REMOVED: LayerStyle("removed", "#b03030", ",stroke-dasharray:4"),
}


def diagram(
    plan: Plan, marks: Mapping[str, str] = MappingProxyType({}), *, expand: bool = False
) -> Diagram:
    """Builds the diagram of a network.

    Args:
      plan: the network.
      marks: of layers that differ from another network's, by name.
      expand: draw repeated blocks in full.
    """
    ties = [(owner, node.name) for node in plan.nodes if (owner := tie_of(node.op))]
    tied = {name for tie in ties for name in tie}
    shared = {node.owner for node in plan.nodes if node.owner != node.name}
    cells = [
        _cell(node, marks.get(node.name, ""), tied=node.name in tied, shared=node.owner in shared)
        for node in plan.nodes
    ]
    image = Cell(INPUT, (), "", shape_text(plan.input_shape))
    return build_diagram([image, *cells], ties, expand=expand)


def _cell(node: LayerNode, mark: str, *, tied: bool, shared: bool) -> Cell:
    op = node.op
    kind = next((kind for word, kind in KINDS.items() if word in op.op), "")
    options = op.model_dump_json(exclude={"inputs", "weights"})
    identity = node.name if tied else (options, node.in_shapes, node.owner if shared else None)
    ending = ", shared" if shared and node.params else ""
    return Cell(
        name=node.name,
        inputs=node.inputs,
        operation=op.summary() + ending,
        shape=shape_text(node.layout.shape),
        kind="join" if op.merges else kind,
        mark=mark,
        identity=identity,
        stacks=op.elementwise,
    )


def outline_diagram(outline: "Outline", *, expand: bool = False) -> Diagram:
    """Builds the diagram of the submodules of a Python model.

    A further block stands for its output if that is not the output of a single submodule.

    Args:
      outline: the submodules.
      expand: draw repeated blocks in full.
    """
    shapes = {part.name: part.shape for part in outline.parts}
    cells = [_part(part, shapes) for part in outline.parts]
    if len(outline.output_inputs) != 1:
        shape = shape_text(outline.output_shape)
        cells.append(Cell(outline.output_name, outline.output_inputs, "", shape))
    image = Cell(outline.input_name, (), "", shape_text(outline.input_shape))
    return build_diagram([image, *cells], expand=expand)


def _part(part: "SubmoduleCall", shapes: Mapping[str, tuple[int, ...]]) -> Cell:
    """A submodule; it may share the box of its input if it keeps the shape at no real cost."""
    read = {shapes.get(name) for name in part.inputs}
    name = part.operation.split(" ")[0].lower()
    kind = next((kind for word, kind in KINDS.items() if word in name), "")
    return Cell(
        name=part.name,
        inputs=part.inputs,
        operation=part.operation,
        shape=shape_text(part.shape),
        kind=kind,
        identity=(part.operation, part.num_params, part.multiply_adds),
        stacks=read == {part.shape} and not part.multiply_adds,
    )
