"""Floating-point operations of a network, independent of the implementation."""

from collections.abc import Iterator
from dataclasses import dataclass

from cnnbench.graph.plan import Node, Plan
from cnnbench.layers.base import INPUT


def training_flops(plan: Plan) -> int:
    """FLOPs of the matrix products in a training step, per image.

    A multiply-add counts as 2. The forward pass, the gradient of the kernel and the gradient of
    the input have the same cost: 3 times the forward cost in total. The gradient of the input is
    needed only if an earlier layer is trained, so the first trained layers count 2 times, and
    frozen layers before them once. Activations, pooling, normalization and the optimizer are not
    counted. This is the mathematically required work, independent of what a framework does, so
    that frameworks can be compared by it.
    """
    return sum(layer.flops for layer in layer_flops(plan))


@dataclass(frozen=True, slots=True)
class LayerFlops:
    """Work of a layer in a training step.

    Args:
      node: the layer.
      flops: FLOPs of its matrix products per image, in all passes.
      passes_gradient: True if it computes the gradient of its inputs, for an earlier layer.
    """

    node: Node
    flops: int
    passes_gradient: bool


def layer_flops(plan: Plan) -> Iterator[LayerFlops]:
    """The terms of `training_flops`, by layer."""
    follows_training: dict[str, bool] = {INPUT: False}
    by_name = plan.by_name
    for node in plan.nodes:
        before = any(follows_training[name] for name in node.inputs)
        kernel = by_name[node.kernel_owner]
        flops = 2 * node.layout.multiply_adds * (1 + before + kernel.op.is_trained)
        yield LayerFlops(node, flops, before)
        follows_training[node.name] = before or any(map(_is_trained, (node, kernel)))


def _is_trained(node: Node) -> bool:
    return bool(node.layout.params) and node.op.is_trained
