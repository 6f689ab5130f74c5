"""Floating-point operations of a network, independent of the implementation."""

from cnnbench.graph.plan import Node, Plan
from cnnbench.layers import ConvTranspose
from cnnbench.layers.base import INPUT


def training_flops(plan: Plan) -> int:
    """FLOPs of the matrix products in a training step, per image.

    A multiply-add counts as 2. The forward pass, the gradient of the kernel and the gradient of
    the input have the same cost: 3 times the forward cost in total. The gradient of the input is
    needed only if an earlier layer has parameters, so the first trained layers count 2 times.
    Activations, pooling, normalization and the optimizer are not counted. This is the
    mathematically required work, independent of what a framework does, so that frameworks can
    be compared by it.
    """
    follows_training: dict[str, bool] = {INPUT: False}
    total = 0
    for node in plan.nodes:
        before = any(follows_training[name] for name in node.inputs)
        total += 2 * node.layout.multiply_adds * (3 if before else 2)
        follows_training[node.name] = before or _is_trained(node)
    return total


def _is_trained(node: Node) -> bool:
    tied = isinstance(node.op, ConvTranspose) and node.op.tie is not None
    return tied or bool(node.layout.params)
