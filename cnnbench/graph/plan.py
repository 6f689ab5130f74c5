"""Named layers to a `Plan`: inputs resolved, order, ties, shapes and the output.

Everything wrong with a graph is found in one pass and returned as flaws; a
layer whose input is already wrong is not blamed again. No JAX.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cnnbench.errors import Flaw, did_you_mean, listing, shown
from cnnbench.graph.build import Wiring, file_order, name_one, resolve_inputs, tie_of, with_ties
from cnnbench.layers import Conv, Dense, LayerOp, Sample, output_of
from cnnbench.layers.base import INPUT, LayerOutput, Owner, Shape, ShapeError, Site, shape_text

MAX_VALUES = 2**31 - 1  # XLA's indices are 32 bits wide


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


def build_plan(
    layers: Mapping[str, LayerOp | None], goal: Goal, *, output: str | None = None, known: Wiring
) -> tuple[Plan | None, list[Flaw]]:
    """Checks a graph of named layers.

    Args:
      layers: operations by name in file order; None for a layer that is known
        to be wrong already, so that the rest can still be checked.
      goal: what the data ask of the network.
      output: the layer whose result counts; the one nobody reads if None.
      known: inputs of the wrong layers, as far as they can be read.

    Returns:
      The plan, or None and at least one flaw (a wrong layer gives None too).
    """
    flaws: list[Flaw] = []
    if output is not None and output not in layers:
        message = f"there is no layer {shown(output)}{did_you_mean(output, layers)}"
        flaws.append(Flaw(("model", "output"), message, name_one(layers)))
    wiring, unknown = resolve_inputs(layers, known)
    order, cycles = file_order(with_ties(wiring, layers))
    nodes, misfits = _infer_shapes(layers, wiring, order, goal.input_shape)
    flaws += [*unknown, *cycles]
    if flaws:  # nobody can say which layers lead nowhere
        return None, [*flaws, *misfits]
    found, ends = _output_flaws(wiring, nodes, goal, output)
    if misfits or ends or len(nodes) < len(layers):
        return None, [*misfits, *ends]
    return Plan(goal.input_shape, tuple(nodes[name] for name in order), found), []


def _infer_shapes(
    layers: Mapping[str, LayerOp | None], wiring: Wiring, order: list[str], input_shape: Shape
) -> tuple[dict[str, Node], list[Flaw]]:
    nodes: dict[str, Node] = {}
    shapes = {INPUT: input_shape}
    flaws: list[Flaw] = []
    for name in order:
        op = layers[name]
        in_shapes = tuple(shapes[source] for source in wiring[name] if source in shapes)
        if op is None or not in_shapes or len(in_shapes) < len(op.inputs or "1"):
            continue
        try:
            result = output_of(op, in_shapes, _owner(op, layers, nodes))
            _check_size(result)
        except ShapeError as error:
            flaws.append(_shape_flaw(name, wiring[name], in_shapes, error))
        except _UnknownOwnerError:
            continue
        else:
            nodes[name] = Node(name, op, wiring[name], in_shapes, result)
            shapes[name] = result.shape
    return nodes, flaws


def _shape_flaw(
    name: str, sources: tuple[str, ...], in_shapes: tuple[Shape, ...], error: ShapeError
) -> Flaw:
    message = error.message
    if len(set(in_shapes)) > 1:
        pairs = dict(zip(sources, in_shapes, strict=True)).items()
        message += f" ({', '.join(f'{source} is {shape_text(s)}' for source, s in pairs)})"
    at = ("model", "layers", name, *((error.key,) if error.key else ()))
    return Flaw(at, message, error.remedy)


def _check_size(result: LayerOutput) -> None:
    largest = max(math.prod(shape) for shape in (result.shape, *result.params.values()))
    if largest > MAX_VALUES:
        message = f"an array of {largest:,} values is too large"
        raise ShapeError("", message, "make the layer or its input smaller")


class _UnknownOwnerError(Exception):
    """The layer that a tie names is itself wrong, and is reported already."""


def _owner(
    op: LayerOp, layers: Mapping[str, LayerOp | None], nodes: Mapping[str, Node]
) -> Owner | None:
    name = tie_of(op)
    if name is None:
        return None
    convs = [n for n, other in layers.items() if isinstance(other, Conv)]
    remedy = f"name a conv: {listing(convs)}" if convs else "remove tie"
    if name not in layers:
        hint = did_you_mean(name, convs)
        raise ShapeError("tie", f"there is no layer {shown(name)}{hint}", remedy)
    owner = layers[name]
    if owner is not None and not isinstance(owner, Conv):
        raise ShapeError("tie", f"'{name}' is a {owner.op}, not a convolution", remedy)
    if owner is None or name not in nodes:
        raise _UnknownOwnerError
    return Owner(owner, nodes[name].in_shapes[0], nodes[name].layout.shape)


def _output_flaws(
    wiring: Wiring, nodes: Mapping[str, Node], goal: Goal, output: str | None
) -> tuple[str, list[Flaw]]:
    """The output's name, and a flaw for each layer that leads nowhere or does not fit."""
    read = {source for sources in wiring.values() for source in sources}
    ends = [name for name in wiring if name not in read]
    fits = [n for n in ends if n in nodes and nodes[n].layout.shape == goal.output_shape]
    unsure = [n for n in ends if n not in nodes]
    found = output or (fits or unsure or ends)[-1]
    flaws = [_dangling(name, found) for name in ends if name != found]
    if found in nodes and nodes[found].layout.shape != goal.output_shape:
        flaws.append(_misfit(nodes[found], goal))
    return found, flaws


def _misfit(node: Node, goal: Goal) -> Flaw:
    at = ("model", "layers", node.name)
    message = f"the output has shape {shape_text(node.layout.shape)}, but {goal.reason}"
    if isinstance(node.op, Dense) and len(goal.output_shape) == 1:
        return Flaw((*at, "units"), message, f"write {goal.output_shape[0]}")
    return Flaw(at, message, goal.remedy)


def _dangling(name: str, output: str) -> Flaw:
    message = f"no layer reads '{name}', and the output is '{output}'"
    remedy = "remove it, or name it in another layer's inputs"
    return Flaw(("model", "layers", name), message, remedy, of_key=True)
