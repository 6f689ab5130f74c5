"""A checked network as frozen data, and what the data ask of one. No JAX."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cnnbench.layers import ConvTranspose, LayerOp, Sample
from cnnbench.layers.base import LayerOutput, Shape, Site, shape_text


@dataclass(frozen=True, slots=True)
class Node:
    """One layer of a plan.

    Args:
      name: the layer's name.
      op: its operation.
      inputs: names of the layers it reads; `input` is the image.
      in_shapes: their shapes, without the batch.
      layout: its own shape, parameters and cost.
    """

    name: str
    op: LayerOp
    inputs: tuple[str, ...]
    in_shapes: tuple[Shape, ...]
    layout: LayerOutput

    @property
    def num_params(self) -> int:
        """Number of trained values of its own."""
        return sum(math.prod(shape) for shape in self.layout.params.values())

    @property
    def kernel_owner(self) -> str:
        """The layer that has the kernel of a convolution: another one where it is tied."""
        return tie_of(self.op) or self.name


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked network.

    Args:
      input_shape: height, width and channels of an image.
      nodes: the layers, each after those it reads.
      output: name of the layer whose result counts.
    """

    input_shape: Shape
    nodes: tuple[Node, ...]
    output: str

    @property
    def by_name(self) -> Mapping[str, Node]:
        """The nodes by their names."""
        return MappingProxyType({node.name: node for node in self.nodes})

    def site(self, node: Node) -> Site:
        """Where a layer stands, as its own rules want to know it."""
        owner = None if node.kernel_owner == node.name else self.by_name[node.kernel_owner].op
        return Site(node.in_shapes, node.layout.shape, owner)

    @property
    def output_shape(self) -> Shape:
        """Shape of the result, without the batch."""
        return self.by_name[self.output].layout.shape

    @property
    def samples(self) -> tuple[Node, ...]:
        """The nodes whose divergence is part of the loss."""
        return tuple(node for node in self.nodes if isinstance(node.op, Sample))

    @property
    def ends(self) -> frozenset[str]:
        """The layers whose values the loss is made of."""
        return frozenset({self.output, *(n for node in self.samples for n in node.inputs)})

    @property
    def num_params(self) -> int:
        """Number of trained values; a tied kernel counts once."""
        return sum(node.num_params for node in self.nodes)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one image, forward."""
        return sum(node.layout.multiply_adds for node in self.nodes)


@dataclass(frozen=True, slots=True)
class Goal:
    """What the data ask of a network.

    Args:
      input_shape: height, width and channels of an image.
      output_shape: shape the result must have.
      reason: why, for messages, as in "10 classes".
      remedy: what to write where the output does not fit.
    """

    input_shape: Shape
    output_shape: Shape
    reason: str
    remedy: str


def classify_goal(input_shape: Shape, num_classes: int) -> Goal:
    """A result for each class."""
    remedy = f"end with {{op: dense, units: {num_classes}}}"
    return Goal(input_shape, (num_classes,), f"the dataset has {num_classes} classes", remedy)


def reconstruct_goal(input_shape: Shape) -> Goal:
    """An image like the input."""
    remedy = f"end with a layer of shape {list(input_shape)}"
    return Goal(input_shape, input_shape, f"the images are {shape_text(input_shape)}", remedy)


def tie_of(op: LayerOp | None) -> str | None:
    """Name of the layer that an operation shares a kernel with."""
    return op.tie if isinstance(op, ConvTranspose) else None
