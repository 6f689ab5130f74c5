"""The arithmetic that a network asks for, whatever computes it."""

from cnnbench.graph.plan import Node, Plan
from cnnbench.layers import ConvTranspose
from cnnbench.layers.base import INPUT


def training_flops(plan: Plan) -> int:
    """Floating-point operations of one training image, in its matrix products.

    A multiply-add counts as 2. A layer multiplies in the forward pass, for the gradient of
    its kernel, and for the gradient of its input: 3 times its forward cost. The last is
    needed only where a layer before it is trained, so a layer that reads the image, or what
    layers without parameters made of it, counts 2 times. Activations, pools, normalisation
    and the optimiser are not counted. That is the work the mathematics asks for, whatever a
    framework really does, so frameworks can be compared by it.
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
