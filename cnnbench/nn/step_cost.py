"""Estimated cost of a training step on a CPU, by which engines are ruled out uncompiled."""

import math
from functools import cache

import jax
import jax.numpy as jnp

from cnnbench.graph.plan import Node, Plan
from cnnbench.nn.lowering import Fused, LoweredConv
from cnnbench.nn.ops.convolution import EngineName

# Nanoseconds on one core, forward and backward, on the scale of the algorithms' costs. Fitted to
# the steps of shipped networks; see docs/explanation/performance.md.
_VALUE = 2.0  # per output of a layer
_NORM = 30.0  # per output of a batch norm that needs statistics: further passes over its images
_WEIGHT = 1.0  # per weight of a convolution and micro-batch, to accumulate its gradient
_PRODUCT = 0.06  # per multiply-add of a dense layer


def step_ns(plan: Plan, form: EngineName, row: int) -> float:
    """Estimated nanoseconds of a training step per image.

    Args:
      plan: the network.
      form: ``direct`` or ``fast``.
      row: images per micro-batch.
    """
    convs = Fused(plan, form).convs
    costs = (_conv_ns(conv, _kernel(plan, name), row) for name, conv in convs.items())
    return sum(costs) + sum(_other_ns(node) for node in plan.nodes)


def xla_share(plan: Plan) -> float:
    """Share of the multiply-adds in grouped and dilated convolutions that engines leave to XLA."""
    nodes = [(plan.by_name[name], conv) for name, conv in Fused(plan, "direct").grouped.items()]
    left = sum(
        node.layout.multiply_adds
        for node, conv in nodes
        if not conv.shifts(node.in_shapes[0][2], _kernel(plan, node.name))
    )
    return left / plan.multiply_adds if left else 0.0


def _kernel(plan: Plan, name: str) -> tuple[int, ...]:
    """Shape of the kernel of a layer, which may be that of another one."""
    return plan.by_name[plan.by_name[name].kernel_owner].layout.params["kernel"]


@cache
def _conv_ns(conv: LoweredConv, kernel: tuple[int, ...], row: int) -> float:
    prepared = jax.eval_shape(conv.prepare, jax.ShapeDtypeStruct(kernel, jnp.float32))
    weights: int = prepared.size
    return conv.cost(kernel) + _WEIGHT * weights / row


def _other_ns(node: Node) -> float:
    values = math.prod(node.layout.shape)
    dense = 0 if node.op.convolves else node.layout.multiply_adds
    return values * (_VALUE + _NORM * node.op.uses_batch) + _PRODUCT * dense
