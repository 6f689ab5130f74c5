"""What every framework needs to know of a plan, in plain integers."""

import math
from dataclasses import dataclass

import numpy as np

from cnnbench.conv_arithmetic import Pads, conv_pads
from cnnbench.graph import Node, Plan
from cnnbench.layers import (
    INPUT,
    Activate,
    Activation,
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    Dropout,
    GaussianNoise,
    LayerOp,
    MaskingNoise,
    Reshape,
)
from cnnbench.peers.interface import Array
from cnnbench.shapes import Shape


def sources(plan: Plan) -> tuple[tuple[int, ...], ...]:
    """For each node the numbers of the values it reads; 0 is the image, i + 1 the node i."""
    number = {INPUT: 0} | {node.name: i for i, node in enumerate(plan.nodes, start=1)}
    return tuple(tuple(number[name] for name in node.inputs) for node in plan.nodes)


def output_number(plan: Plan) -> int:
    """The number of the plan's result among the values of `sources`."""
    return 1 + [node.name for node in plan.nodes].index(plan.output)


def activation_of(op: LayerOp) -> Activation:
    """The function that an operation ends with."""
    return op.activation if isinstance(op, Conv | ConvTranspose | Dense | Activate) else "linear"


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


def by_channel(shape: Shape) -> Array:
    """Where the values of an image flattened by channel, row, column stand in our order.

    >>> by_channel((1, 2, 3)).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    places = np.arange(math.prod(shape)).reshape(shape)
    return places.transpose(2, 0, 1).ravel() if len(shape) == 3 else places


def order_wanted(plan: Plan, node: Node) -> Array:
    """The order of a dense layer's units that spares a permutation later.

    Where its result is only reshaped to an image, its units may be made in that image's
    order by channel; else they stay in ours.
    """
    readers = [other for other in plan.nodes if node.name in other.inputs]
    for reader in readers:
        if isinstance(reader.op, Reshape):
            return by_channel(reader.layout.shape)
        if isinstance(reader.op, Dropout | GaussianNoise | MaskingNoise | Activate | BatchNorm):
            return order_wanted(plan, reader)
    return np.arange(math.prod(node.layout.shape))
