"""Named layers to a `Plan`: inputs resolved, order, ties, shapes and the output.

Everything wrong with a graph is found in one pass and returned as flaws; a
layer whose input is already wrong is not blamed again. No JAX.
"""

import graphlib
import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cnnbench.errors import Flaw, did_you_mean, listing
from cnnbench.layers import INPUT, Conv, ConvTranspose, LayerOp
from cnnbench.shapes import Layout, Shape, ShapeError, TiedConv, layout, shape_text

Wiring = Mapping[str, tuple[str, ...]]


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
    layout: Layout

    @property
    def num_params(self) -> int:
        """Number of trained values of its own."""
        return sum(_product(shape) for shape in self.layout.params.values())


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

    @property
    def output_shape(self) -> Shape:
        """Shape of the result, without the batch."""
        return self.by_name[self.output].layout.shape

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
    if output is not None and output not in layers:
        message = f"there is no layer '{output}'{did_you_mean(output, layers)}"
        return None, [Flaw(("model", "output"), message, _name_one(layers))]
    wiring, flaws = _resolve_inputs(layers, known)
    order, cycles = _order(_with_ties(wiring, layers))
    nodes, misfits = _infer_shapes(layers, wiring, order, goal.input_shape)
    found, loose_ends = ("", []) if cycles else _output_flaws(wiring, nodes, goal, output)
    flaws += cycles + misfits + loose_ends
    if flaws or len(nodes) < len(layers):
        return None, flaws
    return Plan(goal.input_shape, tuple(nodes[name] for name in order), found), []


def _product(shape: Shape) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _name_one(names: Iterable[str]) -> str:
    shortened = list(names)
    if len(shortened) > 8:
        return "name a layer of this file"
    return f"name one of {listing(shortened)}" if shortened else "add layers"


def _resolve_inputs(
    layers: Mapping[str, LayerOp | None], known: Wiring
) -> tuple[dict[str, tuple[str, ...]], list[Flaw]]:
    """Inputs by layer; unknown names are reported and left out."""
    wiring: dict[str, tuple[str, ...]] = {}
    flaws: list[Flaw] = []
    previous = INPUT
    for name, op in layers.items():
        wanted = known.get(name) if op is None else op.inputs
        found = []
        for source in wanted or (previous,):
            if source == INPUT or source in layers:
                found.append(source)
                continue
            at = ("model", "layers", name, "inputs")
            hint = did_you_mean(source, [INPUT, *layers])
            flaws.append(
                Flaw(at, f"there is no layer '{source}'{hint}", _name_one([INPUT, *layers]))
            )
        wiring[name] = tuple(found)
        previous = name
    return wiring, flaws


def _with_ties(wiring: Wiring, layers: Mapping[str, LayerOp | None]) -> Wiring:
    """A tied layer comes after its owner, whose shapes it needs."""
    ties = {name: tie_of(op) or "" for name, op in layers.items()}
    return {
        name: (*sources, ties[name]) if ties[name] in layers else sources
        for name, sources in wiring.items()
    }


def _order(wiring: Wiring) -> tuple[list[str], list[Flaw]]:
    """Layers after those they read, else in file order (Kahn 1962)."""
    position = {name: i for i, name in enumerate(wiring)}
    waiting = {name: {s for s in sources if s != INPUT} for name, sources in wiring.items()}
    readers: dict[str, list[str]] = {name: [] for name in wiring}
    for name, sources in waiting.items():
        for source in sources:
            readers[source].append(name)
    ready = [position[name] for name, sources in waiting.items() if not sources]
    names, order = list(wiring), []
    while ready:
        name = names[heapq.heappop(ready)]
        order.append(name)
        for reader in readers[name]:
            waiting[reader].discard(name)
            if not waiting[reader]:
                heapq.heappush(ready, position[reader])
    if len(order) == len(wiring):
        return order, []
    return order, [_cycle_flaw({n: waiting[n] for n in wiring if n not in set(order)})]


def _cycle_flaw(waiting: Mapping[str, set[str]]) -> Flaw:
    try:
        graphlib.TopologicalSorter(waiting).prepare()
    except graphlib.CycleError as error:
        cycle = list(error.args[1])
    first = min(cycle, key=list(waiting).index)
    start = cycle.index(first)
    names = [*cycle[start:-1], *cycle[:start], first]
    at = ("model", "layers", first, "inputs")
    path = " -> ".join(names)
    return Flaw(at, f"the layers form a cycle ({path})", "let one of them read an earlier layer")


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
            result = layout(op, in_shapes, _owner(op, layers, nodes))
        except ShapeError as error:
            at = ("model", "layers", name, *((error.key,) if error.key else ()))
            flaws.append(Flaw(at, error.message, error.remedy))
        except _UnknownOwnerError:
            continue
        else:
            nodes[name] = Node(name, op, wiring[name], in_shapes, result)
            shapes[name] = result.shape
    return nodes, flaws


class _UnknownOwnerError(Exception):
    """The layer that a tie names is itself wrong, and is reported already."""


def _owner(
    op: LayerOp, layers: Mapping[str, LayerOp | None], nodes: Mapping[str, Node]
) -> TiedConv | None:
    name = tie_of(op)
    if name is None:
        return None
    convs = [n for n, other in layers.items() if isinstance(other, Conv)]
    remedy = f"name a conv: {listing(convs)}" if convs else "remove tie"
    if name not in layers:
        hint = did_you_mean(name, convs)
        raise ShapeError("tie", f"there is no layer '{name}'{hint}", remedy)
    owner = layers[name]
    if owner is not None and not isinstance(owner, Conv):
        raise ShapeError("tie", f"'{name}' is a {owner.op}, not a convolution", remedy)
    if owner is None or name not in nodes:
        raise _UnknownOwnerError
    return TiedConv(owner, nodes[name].in_shapes[0], nodes[name].layout.shape)


def tie_of(op: LayerOp | None) -> str | None:
    """Name of the layer that an operation shares a kernel with."""
    return op.tie if isinstance(op, ConvTranspose) else None


def _output_flaws(
    wiring: Wiring, nodes: Mapping[str, Node], goal: Goal, output: str | None
) -> tuple[str, list[Flaw]]:
    """The output's name, and a flaw for each layer that leads nowhere or does not fit."""
    read = {source for sources in wiring.values() for source in sources}
    ends = [name for name in wiring if name not in read]
    fits = [n for n in ends if n in nodes and nodes[n].layout.shape == goal.output_shape]
    found = output or (fits or ends)[-1]
    flaws = [_dangling(name, found, chosen=output is not None) for name in ends if name != found]
    if found in nodes and nodes[found].layout.shape != goal.output_shape:
        message = f"the output has shape {shape_text(nodes[found].layout.shape)}, but {goal.reason}"
        flaws.append(Flaw(("model", "layers", found), message, goal.remedy))
    return found, flaws


def _dangling(name: str, output: str, *, chosen: bool) -> Flaw:
    message = f"no layer reads '{name}', and the output is '{output}'"
    remedy = "remove it, or name it in another layer's inputs"
    if not chosen:
        remedy += f", or write model.output: {name}"
    return Flaw(("model", "layers", name), message, remedy)
