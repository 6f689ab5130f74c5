"""Which rule each layer of a plan has, with its weights and what it has drawn."""

from collections.abc import Mapping
from typing import Any, assert_never

from numpy.typing import NDArray

from cnnbench.graph.geometry import kernel_owner
from cnnbench.graph.plan import Node, Plan
from cnnbench.layers import (
    Activate,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    Dropout,
    Flatten,
    GaussianNoise,
    GlobalAvgPool,
    MaskingNoise,
    MaxPool,
    Reshape,
    Sample,
    Slice,
    Upscale,
    rules,
)
from cnnbench.layers.conv_arithmetic import conv_pads
from cnnbench.layers.correlation import Grid
from cnnbench.layers.shapes import Shape

Array = NDArray[Any]
Weights = Mapping[str, Mapping[str, Array]]


def rule_of(plan: Plan, node: Node, weights: Weights, draws: Mapping[str, Array]) -> rules.Rule:
    """The rule of a layer.

    Args:
      plan: the network, where a tied layer's owner is found.
      node: the layer.
      weights: kernel, bias and so on by layer.
      draws: what each random layer has drawn, such as a dropout's mask; nothing for one that
        lets everything through.
    """
    op, own, drawn = node.op, weights.get(node.name, {}), draws.get(node.name)
    match op:
        case Conv():
            return rules.conv(own["kernel"], own.get("bias"), _grid(op, node.in_shapes[0]))
        case ConvTranspose():
            owner = plan.by_name[kernel_owner(node)].op
            assert isinstance(owner, Conv | ConvTranspose)
            kernel = weights[kernel_owner(node)]["kernel"]
            return rules.conv_transpose(kernel, own.get("bias"), _grid(owner, node.layout.shape))
        case Dense():
            return rules.dense(own["kernel"], own.get("bias"), node.in_shapes[0])
        case MaxPool():
            return rules.max_pool(op, node.layout.shape)
        case AvgPool():
            return rules.avg_pool(op, node.layout.shape)
        case GlobalAvgPool():
            return rules.global_avg_pool()
        case Upscale():
            return rules.upscale(op, node.in_shapes[0])
        case Dropout(rate=rate):
            return rules.dropout(drawn, 1 / (1 - rate))
        case MaskingNoise():
            return rules.dropout(drawn, 1.0)
        case GaussianNoise(stddev=stddev):
            return rules.gaussian_noise(drawn, stddev)
        case Sample():
            return rules.sample(drawn)
        case Slice():
            return rules.channels(op, node.in_shapes[0][-1])
        case Flatten() | Reshape():
            return rules.reshape(node.in_shapes[0], node.layout.shape)
        case Concat():
            return rules.concat(node.in_shapes)
        case Add():
            return rules.add(len(node.inputs))
        case Activate():
            return rules.same()
        case BatchNorm():
            return rules.batch_norm(op.epsilon, own["scale"], own["bias"])
        case _:
            assert_never(op)


def _grid(op: Conv | ConvTranspose, shape: Shape) -> Grid:
    """Of a convolution that reads an image of this shape."""
    assert op.kernel is not None
    return Grid((shape[0], shape[1]), op.stride, conv_pads(op, shape, op.kernel))
