"""Layers that all of a network's result goes through, such as the code of an autoencoder."""

import math

from cnnbench.graph.plan import Node, Plan
from cnnbench.layers.base import INPUT


def code_layer(plan: Plan, wanted: str | None = None) -> str:
    """The layer that holds the code: the one that is asked for, or the first of the narrowest.

    Args:
      plan: the network.
      wanted: a layer's name; None where none was named.
    """
    if wanted is not None:
        return wanted
    return min(plan.nodes, key=lambda node: math.prod(node.layout.shape)).name


def decoder(plan: Plan, layer: str) -> tuple[Node, ...] | None:
    """What computes the result from a layer's values alone, in order.

    Args:
      plan: the network.
      layer: a layer's name.

    Returns:
      The nodes; None where the result needs something else too.
    """
    needed, nodes = {plan.output}, []
    for node in reversed(plan.nodes):
        if node.name in needed and node.name != layer:
            nodes.append(node)
            needed |= set(node.inputs)
    return None if INPUT in needed or layer not in needed else tuple(reversed(nodes))


def entrance(plan: Plan, code: str | None = None) -> str | None:
    """The layer whose values stand for an image: a sample, or the code; None without one.

    Args:
      plan: the network.
      code: the layer that the experiment names.
    """
    layer = plan.samples[0].name if plan.samples else code_layer(plan, code)
    return layer if decoder(plan, layer) else None


def disturbed(plan: Plan) -> tuple[Node, ...]:
    """The layers of noise between the image and all else, in order."""
    found: list[Node] = []
    last = INPUT
    for node in plan.nodes:
        if node.inputs == (last,) and node.op.corrupts:
            found.append(node)
            last = node.name
    return tuple(found) if found and decoder(plan, last) else ()
