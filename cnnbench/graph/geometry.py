"""Convolutions in plain integers, and what else every framework needs of a plan."""

from dataclasses import dataclass

from cnnbench.graph.plan import Node, Plan
from cnnbench.layers import Conv, ConvTranspose, LayerOp
from cnnbench.layers.activation import Activation
from cnnbench.layers.base import INPUT, Shape
from cnnbench.layers.conv import conv_pads
from cnnbench.layers.correlation import Pads


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


def geometry(plan: Plan, node: Node) -> tuple[Conv | ConvTranspose, Pads, tuple[int, int]]:
    """The layer that says stride and padding, the padding, and the convolution's input size."""
    op = node.op
    assert isinstance(op, Conv | ConvTranspose)
    if isinstance(op, Conv):
        size = _plane(node.in_shapes[0])
        return op, conv_pads(op, size, op.kernel), size
    owner = plan.by_name[node.kernel_owner].op
    assert isinstance(owner, Conv | ConvTranspose)
    assert owner.kernel is not None
    size = _plane(node.layout.shape)
    return owner, conv_pads(owner, size, owner.kernel), size


def _plane(shape: Shape) -> tuple[int, int]:
    return shape[0], shape[1]


@dataclass(frozen=True, slots=True)
class Adjoint:
    """A transposed convolution in numbers.

    Args:
      owner: the layer whose kernel it uses; its own name if it is not tied.
      kernel: height and width of the kernel.
      stride: the stride of the convolution that it is the adjoint of.
      pads: that convolution's zeros before and after rows and columns.
      remainder: rows and columns of its padded input that no kernel reaches.
      size: height and width of the result.
    """

    owner: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pads: Pads
    remainder: tuple[int, int]
    size: tuple[int, int]


def adjoint(plan: Plan, node: Node, op: ConvTranspose) -> Adjoint:
    """The numbers of a transposed convolution.

    Args:
      plan: the network, where a tied layer's owner is found.
      node: the layer.
      op: its operation.
    """
    owner = plan.by_name[op.tie or node.name]
    assert isinstance(owner.op, Conv | ConvTranspose)
    kernel, stride = owner.op.kernel, owner.op.stride
    assert kernel is not None
    size = node.layout.shape[0], node.layout.shape[1]
    pads = conv_pads(owner.op, size, kernel)
    reached = [(node.in_shapes[0][i] - 1) * stride[i] + kernel[i] for i in (0, 1)]
    rows, columns = (size[i] + sum(pads[i]) - reached[i] for i in (0, 1))
    return Adjoint(owner.name, kernel, stride, pads, (rows, columns), size)
