"""Floating-point operations of a network, independent of the implementation."""

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
    follows_training: dict[str, bool] = {INPUT: False}
    total, by_name = 0, plan.by_name
    for node in plan.nodes:
        before = any(follows_training[name] for name in node.inputs)
        kernel = by_name[node.kernel_owner]
        total += 2 * node.layout.multiply_adds * (1 + before + kernel.op.is_trained)
        follows_training[node.name] = before or any(map(_is_trained, (node, kernel)))
    return total


def _is_trained(node: Node) -> bool:
    return bool(node.layout.params) and node.op.is_trained
