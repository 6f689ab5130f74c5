"""Framework-independent properties of a plan: data flow and convolution geometry."""

from cnnbench.graph.plan import Node, Plan, tie_of
from cnnbench.layers import Conv, ConvTranspose, LayerOp
from cnnbench.layers.activation import Activation
from cnnbench.layers.base import INPUT
from cnnbench.layers.conv import conv_geometry
from cnnbench.layers.correlation import ConvGeometry


def sources(plan: Plan) -> tuple[tuple[int, ...], ...]:
    """Indices of the inputs of each node; 0 is the image, i + 1 is node i."""
    number = {INPUT: 0} | {node.name: i for i, node in enumerate(plan.nodes, start=1)}
    return tuple(tuple(number[name] for name in node.inputs) for node in plan.nodes)


def output_number(plan: Plan) -> int:
    """Index of the output, as in `sources`."""
    return 1 + [node.name for node in plan.nodes].index(plan.output)


def activation_of(op: LayerOp) -> Activation:
    """Activation that is applied to the output of an operation."""
    found: Activation = getattr(op, "activation", "linear")
    return found


def geometry(plan: Plan, node: Node) -> ConvGeometry:
    """Geometry of a convolution; for a transposed convolution, of its adjoint."""
    op = node.op
    if isinstance(op, Conv):
        return conv_geometry(op, node.in_shapes[0])
    owner = plan.by_name[tie_of(op) or node.name].op
    assert isinstance(owner, Conv | ConvTranspose)
    return conv_geometry(owner, node.layout.shape)
