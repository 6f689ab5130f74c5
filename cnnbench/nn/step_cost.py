"""Estimated cost of a training step on a CPU, by which engines are ruled out uncompiled."""

import math
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp

from cnnbench.graph.geometry import geometry
from cnnbench.graph.plan import Node, Plan
from cnnbench.layers.base import INPUT
from cnnbench.nn.lowering import Fused, GroupedConv, LoweredConv
from cnnbench.nn.ops.convolution import EngineName


@dataclass(frozen=True, slots=True)
class _Costs:
    """Nanoseconds on one core, forward and backward.

    Args:
      norm: per output of a batch norm that needs statistics: further passes over its images.
      xla: per multiply-add of other grouped and dilated convolutions. XLA computes them slowly
        inside loops over micro-batches.
    """

    norm: float
    xla: float


# Fitted jointly to steps of 24 networks; see docs/explanation/performance.md.
_FUSED, _WHOLE = _Costs(norm=8.8, xla=57), _Costs(norm=4.5, xla=4.2)
_SHIFTED = 0.6  # per multiply-add of a depthwise convolution as a sum of shifted images
_PRODUCT = 0.29  # per multiply-add of a dense layer
# Of convolutions by micro-batches: their algorithms' costs, which are in other units, and per
# weight and micro-batch, to accumulate its gradient.
_ALGORITHM, _WEIGHT = 2.2, 0.64
# Of convolutions of whole batches: per input and output, and per multiply-add, with 1x1 kernels,
# with others, and per channel and filter, since few of them leave registers empty.
_VALUE, _POINTWISE, _MULTIPLY_ADD, _FEW_CHANNELS, _FEW_FILTERS = 1.4, 0.14, 0.024, 0.75, 0.12


def step_ns(plan: Plan, form: EngineName, row: int) -> float:
    """Estimated nanoseconds of a training step per image.

    Args:
      plan: the network.
      form: ``direct``, ``fast`` or ``whole``.
      row: images per micro-batch.
    """
    fused = Fused(plan, "fast" if form == "fast" else "direct")
    costs = _WHOLE if form == "whole" else _FUSED
    total = 0.0
    for node in plan.nodes:
        conv = fused.convs.get(node.name)
        if form == "whole" and node.op.convolves:
            total += _whole_ns(plan, node, plain=conv is not None)
        elif conv:
            total += _conv_ns(conv, _kernel(plan, node), row)
        total += _other_ns(plan, node, fused.grouped.get(node.name), costs)
    return total


def xla_share(plan: Plan) -> float:
    """Share of the multiply-adds in grouped and dilated convolutions that engines leave to XLA."""
    grouped = Fused(plan, "direct").grouped
    nodes = [node for node in plan.nodes if node.name in grouped]
    left = sum(n.layout.multiply_adds for n in nodes if not _shifts(plan, n, grouped[n.name]))
    return left / plan.multiply_adds if left else 0.0


def _shifts(plan: Plan, node: Node, conv: GroupedConv) -> bool:
    return conv.shifts(node.in_shapes[0][2], _kernel(plan, node))


def _kernel(plan: Plan, node: Node) -> tuple[int, ...]:
    """Shape of the kernel of a layer, which may be that of another one."""
    return plan.by_name[node.kernel_owner].layout.params["kernel"]


@cache
def _conv_ns(conv: LoweredConv, kernel: tuple[int, ...], row: int) -> float:
    prepared = jax.eval_shape(conv.prepare, jax.ShapeDtypeStruct(kernel, jnp.float32))
    weights: int = prepared.size
    return _ALGORITHM * conv.cost(kernel) + _WEIGHT * weights / row


def _whole_ns(plan: Plan, node: Node, *, plain: bool) -> float:
    """Cost of a convolution layer of whole batches, without grouped or dilated products."""
    values = _VALUE * (math.prod(node.layout.shape) + math.prod(node.in_shapes[0]))
    if not plain:
        return values
    of, (_, _, channels, filters) = geometry(plan, node), _kernel(plan, node)
    if of.kernel == of.stride == (1, 1):
        return values + _POINTWISE * node.layout.multiply_adds
    per_product = _MULTIPLY_ADD + _FEW_CHANNELS / channels
    if INPUT not in node.inputs:  # errors, with rows of zeros between them
        per_product += of.stride[0] * (_MULTIPLY_ADD + _FEW_FILTERS / filters)
    return values + per_product * node.layout.multiply_adds


def _other_ns(plan: Plan, node: Node, grouped: GroupedConv | None, costs: _Costs) -> float:
    """Cost of batch norms, and of products that are no plain convolutions."""
    norm = costs.norm * math.prod(node.layout.shape) * node.op.uses_batch
    if grouped:
        product = _SHIFTED if _shifts(plan, node, grouped) else costs.xla
    else:
        product = 0 if node.op.convolves else _PRODUCT
    return norm + product * node.layout.multiply_adds
