"""Validated networks and their required shapes as frozen data. Does not import JAX."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cnnbench.layers import ConvTranspose, LayerOp, Sample, VectorQuantizer
from cnnbench.layers.base import LayerOutput, Shape, Site, shape_text


@dataclass(frozen=True, slots=True)
class Node:
    """One layer of a plan.

    Args:
      name: the layer's name.
      op: its operation.
      inputs: names of its input layers; `input` is the image.
      in_shapes: input shapes, without the batch axis.
      layout: output shape, cost, and the parameters that it uses.
      owner: the layer that owns its parameters: another one if they are shared.
      kernel_of: the layer that owns the kernel of a tied layer; empty if the layer is not tied.
    """

    name: str
    op: LayerOp
    inputs: tuple[str, ...]
    in_shapes: tuple[Shape, ...]
    layout: LayerOutput
    owner: str
    kernel_of: str = ""

    @property
    def params(self) -> Mapping[str, Shape]:
        """Shapes of the parameters that the layer owns, by name."""
        return self.layout.params if self.owner == self.name else {}

    @property
    def num_params(self) -> int:
        """Number of parameters that the layer owns."""
        return sum(math.prod(shape) for shape in self.params.values())

    @property
    def kernel_owner(self) -> str:
        """Name of the layer that owns the kernel: another one if it is tied or shared."""
        return self.kernel_of or self.owner


@dataclass(frozen=True, slots=True)
class Plan:
    """A validated network.

    Args:
      input_shape: height, width and channels of an image.
      nodes: the layers in topological order.
      output: name of the output layer.
    """

    input_shape: Shape
    nodes: tuple[Node, ...]
    output: str

    @property
    def by_name(self) -> Mapping[str, Node]:
        """Nodes by name."""
        return MappingProxyType({node.name: node for node in self.nodes})

    def site(self, node: Node) -> Site:
        """Context of a layer, for its rules."""
        tie = tie_of(node.op)
        owner = self.by_name[tie].op if tie else None
        return Site(node.in_shapes, node.layout.shape, owner)

    @property
    def output_shape(self) -> Shape:
        """Output shape, without the batch axis."""
        return self.by_name[self.output].layout.shape

    @property
    def samples(self) -> tuple[Node, ...]:
        """Sampling layers, whose KL divergence is part of the loss."""
        return tuple(node for node in self.nodes if isinstance(node.op, Sample))

    @property
    def quantizers(self) -> tuple[Node, ...]:
        """Vector quantizers, whose distances are part of the loss."""
        return tuple(node for node in self.nodes if isinstance(node.op, VectorQuantizer))

    @property
    def ends(self) -> frozenset[str]:
        """Names of the layers whose values the loss depends on directly."""
        nodes = (*self.samples, *self.quantizers)
        return frozenset({self.output, *(name for node in nodes for name in node.inputs)})

    @property
    def num_params(self) -> int:
        """Number of parameters; those of several layers count once."""
        return sum(node.num_params for node in self.nodes)

    @property
    def num_frozen(self) -> int:
        """Number of parameters that are not trained."""
        return sum(node.num_params for node in self.nodes if not node.op.is_trained)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the forward pass for one image."""
        return sum(node.layout.multiply_adds for node in self.nodes)


@dataclass(frozen=True, slots=True)
class Goal:
    """Input and output shape required by the dataset and task.

    Args:
      input_shape: height, width and channels of an image.
      output_shape: required output shape.
      reason: the reason, for messages, such as "the dataset has 10 classes".
      remedy: what to change if the output shape is different.
    """

    input_shape: Shape
    output_shape: Shape
    reason: str
    remedy: str


def outputs_goal(input_shape: Shape, number: int, count: str) -> Goal:
    """One output per class, target or label.

    Args:
      input_shape: height, width and channels of an image.
      number: number of outputs.
      count: the same in words, such as "10 classes".
    """
    remedy = f"end with {{op: dense, units: {number}}}"
    return Goal(input_shape, (number,), f"the dataset has {count}", remedy)


def reconstruct_goal(input_shape: Shape) -> Goal:
    """An output image of the input shape."""
    remedy = f"end with a layer of shape {list(input_shape)}"
    return Goal(input_shape, input_shape, f"the images are {shape_text(input_shape)}", remedy)


def tie_of(op: LayerOp | None) -> str | None:
    """Name of the layer whose kernel an operation shares; None if it has its own."""
    return op.tie if isinstance(op, ConvTranspose) else None
