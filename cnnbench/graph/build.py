"""Compiles named layers to a `Plan`: inputs, order, cycles, tied kernels, shapes and output.

All errors of a graph are found in one pass and returned as issues. Layers with invalid
inputs do not get additional issues. Does not import JAX.
"""

import heapq
import math
from collections.abc import Iterable, Mapping

from cnnbench.errors import Issue, KnownNames, did_you_mean, or_list, quoted
from cnnbench.graph.plan import Goal, Node, Plan, tie_of
from cnnbench.graph.sharing import with_owners
from cnnbench.layers import Conv, Dense, LayerOp, output_of
from cnnbench.layers.base import INPUT, LayerOutput, Owner, Shape, ShapeError, shape_text

Wiring = Mapping[str, tuple[str, ...]]
MAX_VALUES = 2**31 - 1  # XLA uses 32-bit indices
MAX_HINTS = 20  # finding similar names among thousands of layers takes seconds
_IMAGE = KnownNames({"input": ("image", "images", "img", "inputs", "InputLayer")})


def build_plan(
    layers: Mapping[str, LayerOp | None], goal: Goal, *, output: str | None = None, known: Wiring
) -> tuple[Plan | None, list[Issue]]:
    """Validates a graph of named layers.

    Args:
      layers: operations by name, in file order; None for invalid layers, so
        that the rest can still be checked.
      goal: input and output shape required by the dataset and task.
      output: name of the output layer; None for the layer that no other layer reads.
      known: inputs of invalid layers, empty for the default; without those that cannot be read.

    Returns:
      The plan and an empty list, or None and the issues (empty if invalid layers
      are the only problem).
    """
    issues: list[Issue] = []
    if output is not None and output not in layers:
        message = f"unknown layer {quoted(output)}{did_you_mean(output, layers)}"
        issues.append(Issue(("model", "output"), message, use_one_of(layers)))
    wiring, unknown = resolve_inputs(layers, known)
    order, cycles = file_order(with_ties(wiring, layers))
    nodes, misfits = _infer_shapes(layers, wiring, order, goal.input_shape)
    nodes, unshared = with_owners(nodes, layers)
    misfits += unshared
    issues += [*unknown, *cycles]
    if issues:  # unused layers cannot be determined
        return None, [*issues, *misfits]
    found, ends = _output_issues(wiring, nodes, goal, output)
    unreadable = any(op is None and name not in known for name, op in layers.items())
    if unreadable or any(issue.at[-1] == "inputs" for issue in misfits):
        ends = [issue for issue in ends if not issue.of_key]  # unused only because of wrong inputs
    if misfits or ends or len(nodes) < len(layers):
        return None, [*misfits, *ends]
    return Plan(goal.input_shape, tuple(nodes[name] for name in order), found), []


def _infer_shapes(
    layers: Mapping[str, LayerOp | None], wiring: Wiring, order: list[str], input_shape: Shape
) -> tuple[dict[str, Node], list[Issue]]:
    nodes: dict[str, Node] = {}
    shapes = {INPUT: input_shape}
    issues: list[Issue] = []
    for name in order:
        op = layers[name]
        in_shapes = tuple(shapes[source] for source in wiring[name] if source in shapes)
        if op is None or not in_shapes or len(in_shapes) < len(op.inputs or "1"):
            continue
        try:
            _check_init(op, wiring[name])
            result = output_of(op, in_shapes, _owner(op, layers, nodes))
            _check_size(result)
        except ShapeError as error:
            issues.append(_shape_issue(name, wiring[name], in_shapes, error))
        except _UnknownOwnerError:
            continue
        else:
            nodes[name] = Node(name, op, wiring[name], in_shapes, result, name)
            shapes[name] = result.shape
    return nodes, issues


def _shape_issue(
    name: str, sources: tuple[str, ...], in_shapes: tuple[Shape, ...], error: ShapeError
) -> Issue:
    message = error.message
    if len(set(in_shapes)) > 1:
        pairs = dict(zip(sources, in_shapes, strict=True)).items()
        message += f" ({', '.join(f'{source} is {shape_text(s)}' for source, s in pairs)})"
    at = ("model", "layers", name, *((error.key,) if error.key else ()))
    return Issue(at, message, error.remedy)


def _check_init(op: LayerOp, sources: tuple[str, ...]) -> None:
    """Checks that an initial kernel that depends on the training images can be computed."""
    if getattr(op, "init", None) != "whitening":
        return
    if not isinstance(op, Conv):
        raise ShapeError("init", f"whitening is for conv layers, not {op.op}", "use orthogonal")
    if sources != (INPUT,):
        message = f"whitening is for a layer that reads the image, not '{sources[0]}'"
        raise ShapeError("init", message, "use orthogonal")


def _check_size(result: LayerOutput) -> None:
    largest = max(math.prod(shape) for shape in (result.shape, *result.params.values()))
    if largest > MAX_VALUES:
        message = f"an array with {largest:,} values is too large"
        raise ShapeError("", message, "reduce the size of the layer or its input")


class _UnknownOwnerError(Exception):
    """The layer that a kernel is tied to is invalid, and already reported."""


def _owner(
    op: LayerOp, layers: Mapping[str, LayerOp | None], nodes: Mapping[str, Node]
) -> Owner | None:
    name = tie_of(op)
    if name is None:
        return None
    convs = [n for n, other in layers.items() if isinstance(other, Conv)]
    remedy = f"use a conv layer: {or_list(convs)}" if convs else "remove tie"
    if name not in layers:
        hint = did_you_mean(name, convs)
        raise ShapeError("tie", f"unknown layer {quoted(name)}{hint}", remedy)
    owner = layers[name]
    if owner is not None and not isinstance(owner, Conv):
        raise ShapeError("tie", f"'{name}' is a {owner.op} layer, not a conv layer", remedy)
    if owner is None or name not in nodes:
        raise _UnknownOwnerError
    return Owner(owner, nodes[name].in_shapes[0], nodes[name].layout.shape)


def _output_issues(
    wiring: Wiring, nodes: Mapping[str, Node], goal: Goal, output: str | None
) -> tuple[str, list[Issue]]:
    """Name of the output layer, and issues for unused layers and an invalid output shape."""
    read = {source for sources in wiring.values() for source in sources}
    ends = [name for name in wiring if name not in read]
    fits = [n for n in ends if n in nodes and nodes[n].layout.shape == goal.output_shape]
    unsure = [n for n in ends if n not in nodes]
    found = output or (fits or unsure or ends)[-1]
    # Other errors come first: a layer that has one is often not connected yet.
    issues = [_dangling(name, found) for name in ends if name != found and name in nodes]
    if found in nodes and nodes[found].layout.shape != goal.output_shape:
        issues.append(_misfit(nodes[found], goal))
    return found, issues


def _misfit(node: Node, goal: Goal) -> Issue:
    at = ("model", "layers", node.name)
    message = f"the output has shape {shape_text(node.layout.shape)}, but {goal.reason}"
    if isinstance(node.op, Dense) and len(goal.output_shape) == 1:
        return Issue((*at, "units"), message, f"use {goal.output_shape[0]}")
    return Issue(at, message, goal.remedy)


def _dangling(name: str, output: str) -> Issue:
    message = f"layer '{name}' is not used (the output is '{output}')"
    remedy = "remove it, or add it to the inputs of another layer"
    return Issue(("model", "layers", name), message, remedy, of_key=True)


def resolve_inputs(
    layers: Mapping[str, LayerOp | None], known: Wiring
) -> tuple[dict[str, tuple[str, ...]], list[Issue]]:
    """Resolves the inputs of each layer; unknown names are reported and skipped.

    Args:
      layers: operations by name, in file order; None for invalid layers.
      known: inputs of invalid layers, as far as they can be read.

    Returns:
      Input names by layer, and an issue per unknown name.
    """
    wiring: dict[str, tuple[str, ...]] = {}
    unknown: list[tuple[str, int, str]] = []
    previous = INPUT
    for name, op in layers.items():
        wanted = known.get(name) if op is None else op.inputs
        found = []
        for i, source in enumerate(wanted or (previous,)):
            if source == INPUT or source in layers:
                found.append(source)
                continue
            unknown.append((name, i, source))
        wiring[name] = tuple(found)
        previous = name
    readers = _readers(wiring)
    return wiring, [_unknown_input(*each, readers, n) for n, each in enumerate(unknown)]


def _unknown_input(name: str, i: int, source: str, readers: Wiring, number: int) -> Issue:
    """Suggests neither the layer itself nor layers that depend on it."""
    later = _downstream(name, readers) if number < MAX_HINTS else {name}
    choices = [INPUT, *(other for other in readers if other not in later)]
    hint = _IMAGE.hint(source, choices) if number < MAX_HINTS else ""
    message = f"unknown layer {quoted(source)}{hint}"
    return Issue(("model", "layers", name, "inputs", i), message, use_one_of(choices))


def _readers(wiring: Wiring) -> dict[str, tuple[str, ...]]:
    """Consumers of each layer."""
    readers: dict[str, list[str]] = {name: [] for name in wiring}
    for name, sources in wiring.items():
        for source in dict.fromkeys(sources):
            if source != INPUT:
                readers[source].append(name)
    return {name: tuple(found) for name, found in readers.items()}


def _downstream(name: str, readers: Wiring) -> set[str]:
    """A layer and all layers that depend on it."""
    found, waiting = {name}, [name]
    while waiting:
        new = set(readers[waiting.pop()]) - found
        found |= new
        waiting += new
    return found


def with_ties(wiring: Wiring, layers: Mapping[str, LayerOp | None]) -> Wiring:
    """Adds a dependency of tied layers on the owner of the kernel, whose shapes they need."""
    ties = {name: tie_of(op) or "" for name, op in layers.items()}
    return {
        name: (*sources, ties[name]) if isinstance(layers.get(ties[name]), Conv) else sources
        for name, sources in wiring.items()
    }


def file_order(wiring: Wiring) -> tuple[list[str], list[Issue]]:
    """Sorts layers topologically, with ties in file order (Kahn 1962).

    >>> file_order({"b": ("a",), "a": ("input",), "c": ("a",)})
    (['a', 'b', 'c'], [])
    """
    position = {name: i for i, name in enumerate(wiring)}
    waiting = {name: {s for s in sources if s != INPUT} for name, sources in wiring.items()}
    readers = _readers(wiring)
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
    stuck = wiring.keys() - set(order)
    return order, _cycle_issues(
        {n: [s for s in wiring[n] if s in stuck] for n in names if n in stuck}
    )


def _cycle_issues(stuck: Mapping[str, list[str]]) -> list[Issue]:
    """Walks upstream from each layer until it revisits one; each cycle is reported once."""
    seen: set[str] = set()
    issues = []
    for name in stuck:
        walk: dict[str, None] = {}
        while name not in seen:
            seen.add(name)
            walk[name] = None
            name = stuck[name][0]  # noqa: PLW2901
        if name in walk:
            cycle = list(walk)
            issues.append(_cycle_issue(cycle[cycle.index(name) :], list(stuck)))
    return issues


def _cycle_issue(cycle: list[str], file_order: list[str]) -> Issue:
    start = cycle.index(min(cycle, key=file_order.index))
    first, *others = cycle[start:] + cycle[:start]
    at = ("model", "layers", first, "inputs")
    if not others:
        return Issue(at, "the layer reads itself", "use another layer")
    path = " reads ".join([first, *others, first])
    remedy = "change the inputs of one of them (default: the previous layer; new layers come last)"
    return Issue(at, f"the layers form a cycle ({path})", remedy)


def use_one_of(names: Iterable[str]) -> str:
    """Remedy where a layer name is expected."""
    shortened = list(names)
    if len(shortened) > 8:
        return "use the name of a layer in this file"
    return f"use {or_list(shortened)}" if shortened else "add layers"
