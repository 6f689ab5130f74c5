"""Layers that use the parameters of another layer (`weights`), or its kernel (`tie`)."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from cnnbench.errors import Issue, did_you_mean, or_list, quoted
from cnnbench.graph.plan import Node, tie_of
from cnnbench.layers import BatchNorm, LayerOp
from cnnbench.layers.base import Shape, shape_text

MOST_NAMES = 8  # in a remedy
# Options of parameters, which have to be those of the owner.
_OF_PARAMETERS = ("init", "bias_init", "value", "stddev", "trainable")


def with_owners(
    nodes: Mapping[str, Node], layers: Mapping[str, LayerOp | None]
) -> tuple[dict[str, Node], list[Issue]]:
    """Sets the owners of parameters that several layers use.

    Args:
      nodes: valid layers by name, each with the parameters that it needs.
      layers: operations by name; None for invalid layers.

    Returns:
      The nodes, and issues of layers that cannot share parameters.
    """
    issues: list[Issue] = []
    owners = {name: _owner(name, layers) for name in nodes}
    for name in nodes:
        issues += _issues(name, owners[name], nodes, layers)
    found = {
        name: replace(node, owner=owners[name], kernel_of=owners.get(tie_of(node.op) or "", ""))
        for name, node in nodes.items()
    }
    return found, issues


def _owner(name: str, layers: Mapping[str, LayerOp | None]) -> str:
    """The layer that owns the parameters of a layer, or the first of a cycle."""
    seen = {name}
    while (source := _source(layers.get(name))) in layers and source not in seen:
        assert source is not None
        seen.add(source)
        name = source
    return name


def _source(op: LayerOp | None) -> str | None:
    found: str | None = getattr(op, "weights", None)
    return found


def _issues(
    name: str, owner: str, nodes: Mapping[str, Node], layers: Mapping[str, LayerOp | None]
) -> Iterator[Issue]:
    source, op, other = _source(layers[name]), layers[name], layers[owner]
    at = ("model", "layers", name, "weights")
    if source is None or op is None:
        return
    if source not in layers:
        message = f"unknown layer {quoted(source)}{did_you_mean(source, layers)}"
        yield Issue(at, message, _use_another(name, layers))
    elif other is None:
        return
    elif _source(other) in layers:
        message = "layers use the weights of each other"
        yield Issue(at, message, "remove weights from one of them")
    elif other.op != op.op:
        message = f"'{owner}' is a {other.op} layer, not a {op.op} layer"
        yield Issue(at, message, _use_another(name, layers))
    elif owner in nodes and owner != name:
        yield from _differences(nodes[name], nodes[owner])


def _use_another(name: str, layers: Mapping[str, LayerOp | None]) -> str:
    op = layers[name]
    equal = [n for n, o in layers.items() if o and op and o.op == op.op and n != name]
    return f"use {or_list(equal)}" if 0 < len(equal) <= MOST_NAMES else "remove weights"


def _differences(node: Node, owner: Node) -> Iterator[Issue]:
    at = ("model", "layers", node.name)
    for key in _OF_PARAMETERS:
        mine, theirs = (getattr(each.op, key, None) for each in (node, owner))
        if mine != theirs:
            message = f"differs from that of '{owner.name}', whose weights the layer uses"
            yield Issue((*at, key), message, "use the same value, or remove weights")
    needs, has = _shapes(node), _shapes(owner)
    for key in dict.fromkeys([*needs, *has]):
        if needs.get(key) != has.get(key):
            mine, theirs = (
                f"{_parameter(key, each)} for input {shape_text(each.in_shapes[0])}"
                for each in (node, owner)
            )
            message = f"needs {mine}, but '{owner.name}' has {theirs}"
            yield Issue((*at, "weights"), message, "use inputs of one shape, or remove weights")
            return


def _shapes(node: Node) -> Mapping[str, Shape]:
    """Shapes of parameters and running statistics by name."""
    if isinstance(node.op, BatchNorm):
        return {**node.layout.params, "mean": node.layout.shape[-1:]}
    return node.layout.params


def _parameter(key: str, node: Node) -> str:
    shape = _shapes(node).get(key)
    return f"{key} {shape_text(shape)}" if shape else f"no {key}"
