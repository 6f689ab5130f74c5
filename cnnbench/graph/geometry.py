"""Convolutions in plain integers, and what else every framework needs of a plan."""

from cnnbench.graph.plan import Node, Plan
from cnnbench.layers import Conv, ConvTranspose, LayerOp
from cnnbench.layers.activation import Activation
from cnnbench.layers.base import INPUT
from cnnbench.layers.conv import conv_geometry
from cnnbench.layers.correlation import ConvGeometry


def sources(plan: Plan) -> tuple[tuple[int, ...], ...]:
    """For each node the numbers of the values it reads; 0 is the image, i + 1 the node i."""
    number = {INPUT: 0} | {node.name: i for i, node in enumerate(plan.nodes, start=1)}
    return tuple(tuple(number[name] for name in node.inputs) for node in plan.nodes)


def output_number(plan: Plan) -> int:
    """The number of the plan's result among the values of `sources`."""
    return 1 + [node.name for node in plan.nodes].index(plan.output)


def activation_of(op: LayerOp) -> Activation:
    """The function that an operation ends with."""
    found: Activation = getattr(op, "activation", "linear")
    return found


def geometry(plan: Plan, node: Node) -> ConvGeometry:
    """The convolution that a layer computes, or the one that a transposed layer is adjoint to."""
    op = node.op
    if isinstance(op, Conv):
        return conv_geometry(op, node.in_shapes[0])
    owner = plan.by_name[node.kernel_owner].op
    assert isinstance(owner, Conv | ConvTranspose)
    return conv_geometry(owner, node.layout.shape)
