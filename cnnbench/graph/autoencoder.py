"""Bottlenecks of a network, such as the code layer of an autoencoder."""

import math

from cnnbench.graph.plan import Node, Plan
from cnnbench.layers.base import INPUT


def code_layer(plan: Plan, wanted: str | None = None) -> str:
    """Name of the code layer: the given one, or the first of the narrowest layers.

    Args:
      plan: the network.
      wanted: name of the code layer; None to choose it.
    """
    if wanted is not None:
        return wanted
    return min(plan.nodes, key=lambda node: math.prod(node.layout.shape)).name


def decoder(plan: Plan, layer: str) -> tuple[Node, ...] | None:
    """Nodes that compute the output from the values of a layer, in order.

    Args:
      plan: the network.
      layer: name of a layer.

    Returns:
      The nodes; None if the output depends on other layers too.
    """
    needed, nodes = {plan.output}, []
    for node in reversed(plan.nodes):
        if node.name in needed and node.name != layer:
            nodes.append(node)
            needed |= set(node.inputs)
    return None if INPUT in needed or layer not in needed else tuple(reversed(nodes))


def decoder_input(plan: Plan, code: str | None = None) -> str | None:
    """Name of the layer that the decoder starts from: a sample or code layer; None without one.

    Args:
      plan: the network.
      code: name of the code layer in the experiment file, if any.
    """
    layer = plan.samples[0].name if plan.samples else code_layer(plan, code)
    return layer if decoder(plan, layer) else None


def input_noise_layers(plan: Plan) -> tuple[Node, ...]:
    """Noise layers between the input image and all other layers, in order."""
    found: list[Node] = []
    last = INPUT
    for node in plan.nodes:
        if node.inputs == (last,) and node.op.corrupts:
            found.append(node)
            last = node.name
    return tuple(found) if found and decoder(plan, last) else ()
